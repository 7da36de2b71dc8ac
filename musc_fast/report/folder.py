"""The folder that takes the results of a run: checked first, filled aside, put in place whole.

A run writes into a stage, a hidden folder `.NAME-partial-PID-RANDOM` beside the folder NAME, and
renames the stage when the run is complete. An earlier run in NAME is set aside for that moment as
`.NAME-earlier-PID-RANDOM`.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil

from ..errors import InputError
from ..files import (
    PICTURE_FOLDERS,
    RUN_FILE,
    is_results_folder,
    nearest_folder,
    takes_files,
)
from ..scratch import naming_full

_ENTRIES = frozenset(
    {"scores.csv", "results.json", RUN_FILE, "report.html", "regions.csv", *PICTURE_FOLDERS}
)
_live_names: set[str] = set()  # names of the hidden folders that this process is using


def check_target(folder: Path, inputs: Sequence[Path] = ()) -> None:
    """Raise InputError where results cannot go to `folder`, which they replace whole.

    A new folder will do, an empty one, or one that holds an earlier run and nothing else. A mount
    point is refused, since it cannot be replaced.

    inputs: the images of the run, references included; none of them may lie in `folder`.
    """
    place = _resolve(folder)
    with _input_errors(folder):
        if os.path.ismount(place):
            raise InputError(
                f"{folder} is a mount point, which cannot be replaced; choose a folder in it, such "
                f"as {folder / 'results'}"
            )
        if place.exists() and not place.is_dir():
            raise InputError(f"{folder} is a file, wanted a folder for the results")
        entries = sorted(entry.name for entry in place.iterdir()) if place.is_dir() else []
        if entries and not is_results_folder(place):
            raise InputError(
                f"{folder} is not empty and holds no earlier run ({RUN_FILE} of musc_fast); choose "
                "another folder"
            )
    strangers = [name for name in entries if name not in _ENTRIES]
    if strangers:
        raise InputError(
            f"{folder} holds an earlier run, but also {strangers[0]}, which would be removed with "
            "it; move that away or choose another folder"
        )
    inside = [path for path in inputs if _resolve(path).is_relative_to(place)]
    if inside:
        raise InputError(
            f"{inside[0]} lies in {folder}, which the results would replace; choose another folder "
            "for the results"
        )


def check_writable(folder: Path) -> None:
    """Raise InputError where `folder`, which need not exist, cannot be made or replaced."""
    parent = nearest_folder(folder.resolve().parent)
    if not takes_files(parent):
        raise InputError(
            f"{folder} cannot take the results: {parent} is no folder that can be written to; "
            "choose another folder"
        )


def check_fillable(folder: Path, name: str) -> None:
    """Raise InputError where files cannot be put into `folder`, which need not exist.

    name: of the option or argument, for the message.
    """
    nearest = nearest_folder(folder)
    if not takes_files(nearest):
        raise InputError(
            f"{name}: {nearest} is no folder that can be written to; choose another folder"
        )


@contextmanager
def staged(folder: Path, inputs: Sequence[Path] = ()) -> Iterator[Path]:
    """Yield an empty folder, the stage, that takes the place of `folder` when the block succeeds.

    An earlier run in `folder` is replaced only then, and put back where the replacement fails.
    Hidden folders of killed runs are removed; an earlier run that a killed run had set aside is
    put back first. Where `folder` is a link, the folder that it points to is replaced.

    inputs: as for `check_target`.

    Raises InputError as `check_target` does, and where the stage cannot be written or renamed;
    StorageError where the disk is full.
    """
    place = _resolve(folder)
    check_target(folder, inputs)
    with _input_errors(folder):
        place.parent.mkdir(parents=True, exist_ok=True)
        _clear_up(place)
    # Named before it is made, so that an interrupt at any moment finds what to remove.
    stage = place.with_name(f".{place.name}-partial-{os.getpid()}-{secrets.token_hex(4)}")
    _live_names.add(stage.name)
    try:
        with _input_errors(folder):
            stage.mkdir(mode=0o700)
        with naming_full(place.parent):
            yield stage
        with _input_errors(folder):
            stage.chmod(0o755)
            _replace(place, stage)
    finally:
        shutil.rmtree(stage, ignore_errors=True)
        _live_names.discard(stage.name)


def _replace(folder: Path, stage: Path) -> None:
    """Rename `stage` to `folder`; where that fails or is interrupted, `folder` stays as it was."""
    if not folder.exists():
        stage.rename(folder)
        return
    earlier = stage.with_name("-earlier-".join(stage.name.rsplit("-partial-", 1)))
    _live_names.add(earlier.name)
    try:
        folder.rename(earlier)
        stage.rename(folder)
    except BaseException:
        if earlier.exists() and not folder.exists():
            earlier.rename(folder)
        raise
    finally:
        _live_names.discard(earlier.name)
    shutil.rmtree(earlier, ignore_errors=True)


def _clear_up(folder: Path) -> None:
    """Remove the hidden folders of killed runs; put an earlier run back if `folder` is missing."""
    pattern = re.compile(rf"\.{re.escape(folder.name)}-(partial|earlier)-(\d+)-[a-z0-9_]+")
    partial: list[Path] = []
    earlier: list[Path] = []
    for entry in folder.parent.iterdir():
        match = pattern.fullmatch(entry.name)
        if match and entry.name not in _live_names and not _is_other_process(int(match[2])):
            (partial if match[1] == "partial" else earlier).append(entry)
    earlier.sort(key=lambda entry: entry.stat().st_mtime)
    if earlier and not folder.exists():
        earlier.pop().rename(folder)
    for leftover in [*partial, *earlier]:
        shutil.rmtree(leftover, ignore_errors=True)


def _is_other_process(pid: int) -> bool:
    """Whether a process other than this one has the number `pid` and still lives.

    A hidden folder with this process's number that is not in `_live_names` was made by a dead
    process of the same number: in containers all runs may have the same number.
    """
    # Not os.kill(pid, 0): on Windows signal 0 is that of Ctrl-C, which ends processes.
    return pid != os.getpid() and pid < 2**31 and psutil.pid_exists(pid)


def _resolve(path: Path) -> Path:
    return Path(os.path.realpath(path))


@contextmanager
def _input_errors(folder: Path) -> Iterator[None]:
    """Turn an OSError about the results folder into an InputError."""
    try:
        yield
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        raise InputError(
            f"{folder} cannot take the results: {error.strerror or error}{where}; choose another "
            "folder"
        ) from error
