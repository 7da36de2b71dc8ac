"""The files of a watched folder that are to be scored."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from ..datasets.find_images import labels_note, walk_images
from ..datasets.label_files import split_labels
from ..errors import MuscFastWarning
from .watch_record import Row


class NewFiles:
    """The images of a folder whose content has no line in the record.

    done: the latest line of each file, by its path; it grows as files are scored.
    """

    def __init__(self, folder: Path, done: Mapping[str, Row]) -> None:
        self._folder, self._done = folder, done
        self._labels_said = False
        self._sizes_and_times: dict[str, tuple[int, int]] = {}  # of new files, at the last look
        self._same: dict[str, tuple[int, int, int]] = {}  # touched files that have their content

    def look(self, *, settled: bool = False) -> list[Path]:
        """The new and the changed files that did not change since the last look, oldest first.

        A file that was touched, but has the content of its line, is found when it is read, see
        `note_same`.

        settled: also take files that the last look did not see, or saw otherwise.
        """
        ready, found = [], {}
        photos, labels = split_labels(list(walk_images(self._folder)), self._folder)
        if labels and not self._labels_said:
            self._labels_said = True
            warnings.warn(labels_note(labels), MuscFastWarning, stacklevel=3)
        for path in photos:
            name = str(path)
            row = self._done.get(name)
            try:
                status = path.stat()
            except OSError:  # removed since the folder was listed
                continue
            if row is not None and (
                row.is_untouched(status) or self._same.get(name) == _stamp(status)
            ):
                continue
            found[name] = (status.st_size, status.st_mtime_ns)
            if settled or self._sizes_and_times.get(name) == found[name]:
                ready.append((status.st_mtime_ns, name, path))
        self._sizes_and_times = found
        return [path for _, _, path in sorted(ready)]

    def note_same(self, path: Path) -> None:
        """Remember that a touched file has the content of its line."""
        with suppress(OSError):
            self._same[str(path)] = _stamp(path.stat())


def _stamp(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns
