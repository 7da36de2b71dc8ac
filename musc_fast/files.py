"""Files that are written completely or not at all, locks, and the mark of a results folder."""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import InputError
from .scratch import naming_full, temporary_name

RUN_FILE = "run.json"
PICTURE_FOLDERS = ("maps", "maps_grey", "overlays")


def is_results_folder(folder: str | os.PathLike[str]) -> bool:
    """Whether `folder` holds a run.json of musc_fast: a JSON object with the key "musc_fast"."""
    file = Path(folder, RUN_FILE)
    try:
        if not file.is_file():  # reading a pipe of that name would block
            return False
        settings = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(settings, dict) and "musc_fast" in settings


def is_plain_name(name: str) -> bool:
    """Whether `name` names a file or folder of a folder, on any system: no way out, no control."""
    return name not in ("", ".", "..") and not re.search(r"[/\\\0-\x1f\x7f]", name)


def takes_files(folder: Path) -> bool:
    """Whether files can be made in `folder`, found by making one: rights alone do not tell all."""
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".musc_fast-"):
            return True
    except OSError:
        return False


def nearest_folder(path: Path) -> Path:
    """The deepest part of a path that exists, links resolved: `path` itself, or a folder above."""
    place = Path(os.path.realpath(path))
    return next(each for each in (place, *place.parents) if each.exists())


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path whose file replaces `path` on success and is deleted on failure.

    The temporary file lies in the folder of `path`, so the rename is atomic. The temporary name
    starts with a dot and has the suffix of `path`, from which some writers take the format.

    path: the file to write; its folder is made where it is missing.

    Raises StorageError where the disk of that folder is full.
    """
    target = Path(path)
    with naming_full(target.parent):
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = temporary_name(target)
        try:
            yield temporary
            # mkstemp makes the file private; it gets the permissions of any new file.
            umask = os.umask(0)
            os.umask(umask)
            temporary.chmod(0o666 & ~umask)
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)
            os.close(handle)  # and with it the lock


@contextmanager
def locked(path: Path, otherwise: str) -> Iterator[None]:
    """Hold a lock on the file `path`, which is made where it is missing and never removed.

    The lock ends with the block or with the process.

    otherwise: the message where another process holds the lock.

    Raises InputError with `otherwise` where another process, or another block of this one, holds
    the lock; OSError where the file cannot be made.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(path)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise InputError(otherwise) from None
    try:
        yield
    finally:
        lock.release()
