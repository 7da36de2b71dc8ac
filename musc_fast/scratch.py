"""Room in memory and on disks, looked for before work, and scratch files.

Room is reserved before a scratch file is mapped; leftovers of killed processes go.

A process holds a lock (flock) on each scratch file and folder while it uses them; the lock ends
with the process, however that ends. What nobody has locked for a while is a leftover. On a system
without flock nothing is locked, and nothing is removed.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from .errors import InputError, StorageError

_fcntl: Any
try:
    import fcntl as _fcntl
except ImportError:  # Windows
    _fcntl = None

MARK = "musc_fast"
_FOLDER = re.compile(rf"\.?{MARK}-[a-z0-9_]{{8}}")
_FILE = re.compile(rf"\.?(.+-)?{MARK}-[a-z0-9_]{{8}}(\.[^.]*)?")
_OWNER = ".owner"  # the locked file of a scratch folder
_SECONDS = 10.0  # younger files may not have been locked yet
_tidied: set[Path] = set()
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def is_full(error: BaseException) -> bool:
    """Whether the error tells of a full disk; some libraries say so in words alone."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in _FULL
    return bool(re.search(r"os error (28|27|122)\b|requested and \d+ written", str(error)))


def no_room(folder: str | os.PathLike[str], needed: int | None = None) -> StorageError:
    """The error that says how many bytes a folder's disk has, and how many are needed, if known."""
    with suppress(OSError):
        free = f", {shutil.disk_usage(folder).free:,} bytes are free"
        wanted = "" if needed is None else f": {needed:,} bytes are needed"
        return StorageError(f"{folder}: the disk has no room{wanted}{free}")
    return StorageError(f"{folder}: the disk has no room")


@contextmanager
def naming_full(folder: str | os.PathLike[str]) -> Iterator[None]:
    """Raise StorageError that names `folder` where the block fails since its disk is full."""
    try:
        yield
    except StorageError:
        raise
    except Exception as error:
        if is_full(error):
            raise no_room(folder) from error
        raise


def require_room(folder: str | os.PathLike[str], needed: int) -> None:
    """Raise StorageError unless `folder` has `needed` bytes free now."""
    if shutil.disk_usage(folder).free < needed:
        raise no_room(folder, needed)


def reserve(file: str | os.PathLike[str], size: int) -> None:
    """Give a file `size` bytes of the disk; writing to a mapped file without them kills a process.

    file: made where it is missing. Raises StorageError naming its folder, the bytes needed and
        free.
    """
    folder = Path(file).parent
    with open(file, "ab") as opened:
        try:
            if hasattr(os, "posix_fallocate") and size > 0:
                os.posix_fallocate(opened.fileno(), 0, size)
            else:
                require_room(folder, size)
                opened.truncate(size)
        except OSError as error:
            if isinstance(error, StorageError):
                raise
            if error.errno in (errno.EINVAL, errno.EOPNOTSUPP):  # a file system without it
                require_room(folder, size)
                opened.truncate(size)
            elif is_full(error):
                raise no_room(folder, size) from error
            else:
                raise


def lock(handle: int) -> bool:
    """Lock an open file for this process; False where another one has it."""
    if _fcntl is None:
        return True
    try:
        _fcntl.flock(handle, _fcntl.LOCK_EX | _fcntl.LOCK_NB)
    except OSError:
        return False
    return True


@contextmanager
def scratch_folder(parent: Path | None = None) -> Iterator[str]:
    """Yield a new folder for scratch files, removed afterwards; in `parent` or the system's place.

    Raises StorageError or OSError naming the place where none can be made.
    """
    place = Path(tempfile.gettempdir()) if parent is None else parent
    place.mkdir(parents=True, exist_ok=True)
    tidy(place)
    prefix = f"{MARK}-" if parent is None else f".{MARK}-"
    with naming_full(place):
        folder = tempfile.mkdtemp(prefix=prefix, dir=place)
    try:
        with open(os.path.join(folder, _OWNER), "wb") as owner:
            lock(owner.fileno())
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def scratch_file(size: int) -> Iterator[str]:
    """Yield a new file of `size` reserved bytes in the system's place; its name goes afterwards."""
    place = Path(tempfile.gettempdir())
    tidy(place)
    with tempfile.NamedTemporaryFile(prefix=f"{MARK}-", dir=place) as file:
        lock(file.fileno())
        reserve(file.name, size)
        yield file.name


def temporary_name(target: Path) -> tuple[int, Path]:
    """A new locked file beside `target`, with its suffix: the open handle and the path."""
    tidy(target.parent)
    stem = os.fsdecode(os.fsencode(target.stem)[:200])  # a name has 255 bytes at most
    handle, name = tempfile.mkstemp(
        dir=target.parent, prefix=f".{stem}-{MARK}-", suffix=target.suffix
    )
    lock(handle)
    return handle, Path(name)


def tidy(folder: Path) -> None:
    """Remove what killed processes left in `folder`; once a folder and process."""
    if _fcntl is None or folder in _tidied:
        return
    _tidied.add(folder)
    with suppress(OSError):
        for entry in list(os.scandir(folder)):
            with suppress(OSError):
                if entry.stat(follow_symlinks=False).st_mtime > time.time() - _SECONDS:
                    continue
                if entry.is_dir(follow_symlinks=False):
                    owner = os.path.join(entry.path, _OWNER)
                    if _FOLDER.fullmatch(entry.name) and _is_free(owner):
                        shutil.rmtree(entry.path, ignore_errors=True)
                elif _FILE.fullmatch(entry.name) and _is_free(entry.path):
                    os.unlink(entry.path)


def _is_free(path: str) -> bool:
    """Whether no process has the file locked; False for anything but a file of one name."""
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
    try:
        return os.fstat(handle).st_nlink == 1 and lock(handle)
    finally:
        os.close(handle)


def require_memory(what: str, needed: int) -> None:
    """Raise InputError that begins with `what` unless `needed` bytes of memory are free."""
    free = free_memory()
    if needed > free:
        raise InputError(
            f"{what}: {needed / 2**30:,.1f} GiB of memory are needed, {free / 2**30:,.1f} GiB are "
            "free"
        )


def free_memory() -> int:
    """Bytes of memory that are free now, within this process's control group too."""
    try:
        import psutil
    except ImportError:  # a machine that has only what scoring needs
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    else:
        free = int(psutil.virtual_memory().available)
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
        if limit != "max":
            used = int(Path("/sys/fs/cgroup/memory.current").read_text())
            free = min(free, max(0, int(limit) - used))
    except (OSError, ValueError):
        pass
    return free
