"""Writing files so that they are complete or absent, and knowing one's own results folder."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import InputError

RUN_FILE = "run.json"
PICTURE_FOLDERS = ("maps", "maps_grey", "overlays")


def is_results_folder(folder: str | os.PathLike[str]) -> bool:
    """Whether `folder` holds a run.json that musc_fast wrote: an object with the key musc_fast."""
    file = Path(folder, RUN_FILE)
    try:
        if not file.is_file():  # a pipe of that name would block
            return False
        settings = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(settings, dict) and "musc_fast" in settings


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` on success, delete it on failure.

    The temporary file lies in the same folder, so the rename is atomic. Its name starts with a dot
    and keeps the suffix of `path`, which some writers go by.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(
        dir=target.parent, prefix=f".{target.stem}-", suffix=target.suffix
    )
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        # mkstemp makes files private; a result should have the permissions of any new file.
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def locked(path: Path, otherwise: str) -> Iterator[None]:
    """Hold a lock file, left in place; InputError with `otherwise` where another process holds it.

    The lock ends with the process, however that ends. Where the system has no flock there is none.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    with path.open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise InputError(otherwise) from None
        yield
