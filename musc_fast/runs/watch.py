"""Scoring the images of a folder as they appear; scores survive a kill of the process at any point.

scores.csv is the record (`watch_record`): one line an image, in the order of scoring, written and
synced before the next image is read. What is said of an image follows from the bank and the record
alone (`watch_bank`, `watch_judge`). A file whose content has changed since its line was written is
another image: it is scored as a new one, and never stands in for the old one.
The first images have no bank to be scored against: they are scored against each other, and their
lines are written together or not at all.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ImageError, InputError
from ..files import locked
from ..progress import stage_bars
from .watch_page import check_page
from .watch_settings import WatchSettings
from .watched_folder import Watch

if TYPE_CHECKING:
    from ..musc import MuSc

__all__ = ["Watch", "WatchSettings", "watching"]


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
    shown: draw a bar while the bank takes up images of the record, or compares its own.

    Raises ImageError where there is no such folder, InputError where another process has the bank
    or the record, BankError where the bank does not fit the backbone, the record, or a capacity or
    eviction that was asked for.
    """
    if not folder.is_dir():
        raise ImageError(f"{folder}: no such folder")
    files = {"bank": bank, "out": out, "page": settings.page}
    for option, file in files.items():
        if file is not None and (file.name in ("", "..") or file.is_dir()):
            raise InputError(f"{option}: found {str(file)!r}, wanted the name of a file")
    used = [file for file in files.values() if file is not None]
    if len({os.path.realpath(file) for file in used}) < len(used):
        raise InputError("bank, out and page: found one file twice, wanted a file for each")
    check_page(settings.page)
    for file in used:
        file.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as locks:
        for file in used:
            lock = file.with_name(f"{file.name}.lock")
            locks.enter_context(locked(lock, f"{file} is in use by another watch; name another"))
        with stage_bars(shown) as on_progress:
            watch = Watch(musc, folder, bank, out, settings, on_progress=on_progress)
        try:
            yield watch
        except BaseException as error:
            watch.end_page(error)
            raise
        else:
            watch.end_page()
        finally:
            watch.save()
