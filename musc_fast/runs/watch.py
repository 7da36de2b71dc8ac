"""Scoring the images of a folder as they appear; scores survive a kill of the process at any point.

scores.csv is the record (`watch_record`): one line an image, in the order of scoring, written and
synced before the next image is read. The bank is saved less often. When a watch starts, the bank
takes up the images whose lines are younger than its file, with their recorded scores; then it is as
it was before. A file whose content has changed since its line was written is another image: it is
scored as a new one, and never stands in for the old one.
The first images have no bank to be scored against: they are scored against each other, and their
lines are written together or not at all.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..bank.arguments import free_id
from ..bank.reference_bank import Eviction, ReferenceBank
from ..bank.stream import (
    StreamScore,
    score_first,
    score_next,
    source_of,
    tokens_of,
    white_of_bank,
)
from ..datasets.find_images import labels_note, walk_images
from ..datasets.label_files import split_labels
from ..errors import BankError, ImageError, InputError, MuscFastWarning
from ..files import locked
from ..progress import Progress, stage_bars
from ..settings import whole_number
from .watch_record import FileState, Row, append_rows, now, read_record

if TYPE_CHECKING:
    from torch import Tensor

    from ..musc import MuSc


@dataclass(frozen=True)
class WatchSettings:
    """How a folder is watched.

    capacity: images that a new bank holds at most; None: 200, or what the bank was made with.
    evict: what a full bank gives up, see `ReferenceBank`; None: the oldest, or as it was made.
    start: images that are scored against each other while the bank is empty.
    save_every: images after which the bank is saved.
    threshold: raw score from which an image is flagged; None flags none.

    Raises InputError naming the setting.
    """

    capacity: int | None = None
    evict: Eviction | None = None
    start: int = 10
    save_every: int = 50
    threshold: float | None = None

    def __post_init__(self) -> None:
        for name in ("capacity", "start", "save_every"):
            value = getattr(self, name)
            if name != "capacity" or value is not None:
                object.__setattr__(self, name, whole_number(name, value, 1))
        number = isinstance(self.threshold, int | float) and math.isfinite(self.threshold)
        if self.threshold is not None and not number:
            raise InputError(f"threshold: found {self.threshold!r}, wanted a finite number")
        if self.start < 2:
            raise InputError(f"start: found {self.start}, wanted 2 or more")
        if self.save_every < 1:
            raise InputError(f"save_every: found {self.save_every}, wanted 1 or more")
        if self.capacity is not None and self.capacity < self.start:
            raise InputError(
                f"capacity: found {self.capacity}, wanted {self.start} or more, the images of "
                "the start"
            )


@contextmanager
def watching(
    musc: MuSc,
    folder: Path,
    bank: Path,
    out: Path,
    settings: WatchSettings,
    *,
    shown: bool = False,
) -> Iterator[Watch]:
    """Yield a `Watch` of a folder; its bank is saved at the end.

    After an error or Ctrl-C between an image's score and its line, the bank's file stays as it
    was: the next watch takes up the later images from the record.

    folder: searched recursively for images.
    bank: the file of the reference bank; a missing one is made.
    out: the record, a CSV file with a line an image (`Row`).
    shown: draw a bar while the bank takes up images of the record.

    Raises ImageError where there is no such folder, InputError where another process has the bank
    or the record, BankError where the bank does not fit the backbone, the record, or a capacity or
    eviction that was asked for.
    """
    if not folder.is_dir():
        raise ImageError(f"{folder}: no such folder")
    for option, file in (("bank", bank), ("out", out)):
        if file.name in ("", "..") or file.is_dir():
            raise InputError(f"{option}: found {str(file)!r}, wanted the name of a file")
    bank.parent.mkdir(parents=True, exist_ok=True)
    out.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as locks:
        for file in (bank, out):
            lock = file.with_name(f"{file.name}.lock")
            locks.enter_context(locked(lock, f"{file} is in use by another watch; name another"))
        watch = Watch(musc, folder, bank, out, settings, shown=shown)
        try:
            yield watch
        finally:
            watch.save()


class Watch:
    """Scores new images of a folder against a bank; made by `watching`, which has the arguments.

    bank: the `ReferenceBank`.
    done: the latest row of the record of each file.
    lines: how many lines the record has.
    gone: the files that were scored, but were missing or had another content when the bank should
        have taken them up.
    """

    def __init__(
        self,
        musc: MuSc,
        folder: Path,
        bank: Path,
        out: Path,
        settings: WatchSettings,
        *,
        shown: bool,
    ) -> None:
        self.musc, self.folder, self.settings = musc, folder.resolve(), settings
        self._bank_file, self._record_file = bank, out
        if bank.exists():
            self.bank = ReferenceBank.load(
                bank,
                source=source_of(musc.backbone, musc.settings),
                device=musc.backbone.device,
                backend=musc.settings.backend,
                precision=musc.settings.precision,
                memory_limit=musc.settings.memory_limit,
            )
        else:
            capacity = max(200, settings.start) if settings.capacity is None else settings.capacity
            self.bank = musc.new_bank(capacity, evict=settings.evict or "oldest")
        self._check_bank()
        self._saved = self.bank.added  # images given to the bank when its file was written
        self._recorded = True  # every image of the bank has its line
        self.gone: list[str] = []
        self._labels_said = False
        self._first: set[Path] = set()  # files that the start has looked at
        self._sizes_and_times: dict[str, tuple[int, int]] = {}  # of new files, at the last look
        self._same: dict[str, tuple[int, int, int]] = {}  # touched files that have their content
        rows = read_record(out)
        self.done = {row.file: row for row in rows}
        self.lines = len(rows)
        missing = [row for row in rows if row.number and int(row.number) >= self.bank.added]
        if not bank.exists():
            self._check_folder(missing)
        with stage_bars(shown and bool(missing)) as on_progress:
            self._take_up(missing, lambda done, total: on_progress("taking up", done, total))

    def _check_bank(self) -> None:
        """Raise BankError where the bank was made with another capacity or eviction than wanted."""
        for name in ("capacity", "evict"):
            wanted, held = getattr(self.settings, name), getattr(self.bank, name)
            if wanted is not None and wanted != held:
                raise BankError(
                    f"{name}: found {wanted}, {self._bank_file} was made with {held}; leave "
                    f"{name} out (--{name}), or name another bank"
                )

    def _check_folder(self, rows: list[Row]) -> None:
        """Raise BankError where images of a record without a bank lie in another folder."""
        for row in rows:
            if self.folder not in Path(row.file).parents:
                raise BankError(
                    f"{self._bank_file} does not exist, and {self._record_file} tells of "
                    f"{row.file}, which is not in {self.folder}: it seems to be the record of "
                    "another bank; name another"
                )

    def _take_up(self, missing: list[Row], on_progress: Progress) -> None:
        """Give the bank the images scored since it was saved, with their recorded scores.

        Images whose files are missing or hold other pictures now are left out of the bank and
        listed in `gone`.
        """
        numbers = list(range(self.bank.added, self.bank.added + len(missing)))
        if [int(row.number) for row in missing] != numbers:
            raise BankError(
                f"{self._bank_file} has been given {self.bank.added} images, "
                f"{self._record_file} goes on with number {missing[0].number}: they do not belong "
                "together; name other files"
            )
        here = [self._is_here(row) for row in missing]
        white_of_bank(
            self.bank,
            self.musc.extractor,
            [row.file for row, is_here in zip(missing, here, strict=True) if is_here],
        )
        for place, (row, is_here) in enumerate(zip(missing, here, strict=True)):
            tokens = None
            if is_here:
                with suppress(ImageError):
                    tokens = tokens_of(self.bank, self.musc.extractor, row.file)
            if tokens is None:
                self.gone.append(row.file)
                self.bank.pass_over()
            else:
                name = free_id(row.file, self.bank.ids)
                self.bank.add(tokens, [name], scores=[float(row.raw_score)])
            on_progress(place + 1, len(missing))

    def _is_here(self, row: Row) -> bool:
        """Whether a line's file still has the content that was scored."""
        path = Path(row.file)
        try:
            return row.is_of(FileState.of(path)) if row.sha256 else row.is_untouched(path.stat())
        except OSError:
            return False

    def look(self, *, settled: bool = False) -> list[Path]:
        """The new and the changed files that did not change since the last look, oldest first.

        A file that was touched, but has the content of its line, is found by `score`.

        settled: also take files that the last look did not see, or saw otherwise.
        """
        ready, found = [], {}
        photos, labels = split_labels(list(walk_images(self.folder)), self.folder)
        if labels and not self._labels_said:
            self._labels_said = True
            warnings.warn(labels_note(labels), MuscFastWarning, stacklevel=2)
        for path in photos:
            name = str(path)
            row = self.done.get(name)
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

    def score(self, paths: list[Path], *, last: bool = False) -> Iterator[Row]:
        """Score files, record each, and yield its row.

        While the bank is empty, nothing is scored until there are `settings.start` images.

        last: no more files will come, so two images are enough to start with.
        """
        if len(self.bank) == 0:
            yield from self._score_first(paths, 2 if last else self.settings.start)
            paths = [path for path in paths if path not in self._first]
        if len(self.bank) == 0:
            return
        for path in paths:
            row = self._score_next(path)
            if row is not None:
                yield row
            if self.bank.added - self._saved >= self.settings.save_every:
                self.save()

    def save(self) -> None:
        """Save the bank if it has changed, unless one of its images has no line yet."""
        if self._recorded and self.bank.added != self._saved:
            self.bank.save(self._bank_file)
            self._saved = self.bank.added

    def _score_first(self, paths: list[Path], wanted: int) -> Iterator[Row]:
        """Score the first images against each other, where at least `wanted` can be read."""
        if len(paths) < wanted:
            return
        tokens: dict[str, tuple[Tensor, ...]] = {}
        states = []
        self._first.clear()
        white_of_bank(self.bank, self.musc.extractor, paths[: 2 * self.settings.start])
        for path in paths:
            time, state = now(), FileState.of(path)
            self._first.add(path)
            read = self._read(path, time, state)
            if isinstance(read, Row):
                self._record([read])
                yield read
            elif read is not None:
                tokens[str(path)] = read
                states.append((time, state))
            if len(tokens) == self.settings.start:
                break
        if len(tokens) < wanted:
            return
        self._recorded = False
        scores = score_first(self.bank, list(tokens), list(tokens.values()))
        rows = [self._row(score, *state) for score, state in zip(scores, states, strict=True)]
        self._record(rows)
        self.save()  # it has the white level, which a record alone would not tell
        yield from rows

    def _score_next(self, path: Path) -> Row | None:
        """The row of a new image; None where the file has the content of its line, or changes."""
        time, state = now(), FileState.of(path)
        read = self._read(path, time, state)
        if read is None:
            return None
        if not isinstance(read, Row):
            self._recorded = False
            read = self._row(score_next(self.bank, str(path), read), time, state)
        self._record([read])
        return read

    def _read(self, path: Path, time: str, state: FileState) -> tuple[Tensor, ...] | Row | None:
        """The tokens of a file, or the row of one that cannot be read.

        None where the file has the content of its line, or changes while it is read: then the next
        look finds it.
        """
        row = self.done.get(str(path))
        found: tuple[Tensor, ...] | Row | None = None
        if row is None or not row.sha256 or not row.is_of(state):
            try:
                found = tokens_of(self.bank, self.musc.extractor, path)
            except ImageError as error:
                found = _unreadable(path, error, time, state)
            if not state.is_now(path):
                return None
        if found is None or (
            isinstance(found, Row) and row is not None and row.is_of(state, found.reason)
        ):
            self._note_same(path)
            return None
        return found

    def _note_same(self, path: Path) -> None:
        """Remember that a touched file has the content of its line."""
        with suppress(OSError):
            self._same[str(path)] = _stamp(path.stat())

    def _record(self, rows: list[Row]) -> None:
        """Append lines to the record, whole and synced to the disk."""
        append_rows(self._record_file, rows)
        self._recorded = True
        self.lines += len(rows)
        self.done.update({row.file: row for row in rows})

    def _row(self, score: StreamScore, time: str, state: FileState) -> Row:
        threshold = self.settings.threshold
        return Row(
            file=score.name,
            number=str(score.number),
            raw_score=repr(score.raw_score),
            references=str(score.references),
            flagged="" if threshold is None else str(int(score.raw_score >= threshold)),
            time=time,
            reason="",
            size=state.size,
            modified=state.modified,
            sha256=state.sha256,
        )


def _stamp(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _unreadable(path: Path, error: ImageError, time: str, state: FileState) -> Row:
    reason = str(error).rpartition(f"{path}: ")[2]  # the path has a column of its own
    return Row(
        file=str(path),
        number="",
        raw_score="",
        references="",
        flagged="",
        time=time,
        reason=" ".join(reason.split()),
        size=state.size,
        modified=state.modified,
        sha256=state.sha256,
    )
