"""The lines of a watch's record as JSON objects, one a line, for programs that follow a watch.

The names are those of the record (`watch_record.Row`); docs/results.md lists them.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from ..errors import InputError
from ..scratch import is_full, no_room
from .watch_pictures import picture_of
from .watch_record import Row

_BLOCK = 1 << 16  # bytes that are looked through at a time for the last line break
_NUMBERS = ("raw_score", "threshold", "p_value")
_COUNTS = ("number", "references", "size")


def json_of(row: Row, record: Path) -> dict[str, Any]:
    """A line of the record as a JSON object; null stands for an empty field.

    `modified` stays text: it has more digits than many readers of JSON keep. `picture` is the file
    of the heat map of a flagged image, null where there is none.

    record: the file of the record, beside which the pictures lie.
    """
    found: dict[str, Any] = {
        "path": row.path,
        "raw_score": row.raw_score,
        "flagged": None if row.flagged == "" else row.flagged == "1",
        "verdict": row.verdict,
        "threshold": row.threshold,
        "p_value": row.p_value,
        "references": row.references,
        "number": row.number,
        "bank": row.bank,
        "time": row.time,
        "reason": row.reason,
        "size": row.size,
        "modified": row.modified,
        "sha256": row.sha256,
        "picture": None,
    }
    for name, value in found.items():
        if value == "":
            found[name] = None
        elif name in _NUMBERS:
            found[name] = float(value)
        elif name in _COUNTS:
            found[name] = int(value)
    if row.flagged == "1" and (picture := picture_of(record, row)).is_file():
        found["picture"] = str(picture)
    return found


class RowLines:
    """Writes rows as lines of JSON, each at once; made by `row_lines`.

    target: what is written to, for messages. file: takes the lines; None writes nothing.
    """

    def __init__(self, target: str, file: IO[bytes] | None, record: Path) -> None:
        self._target, self._file, self._record = target, file, record

    def write(self, row: Row) -> None:
        """Write a row; when this returns, a reader can have it.

        Raises StorageError where the disk is full, InputError where the reader of a pipe has gone:
        the record has the row either way.
        """
        if self._file is None:
            return
        try:
            self._file.write((json.dumps(json_of(row, self._record)) + "\n").encode("ascii"))
            self._file.flush()
        except OSError as error:
            if is_full(error):
                raise no_room(Path(self._target).parent) from error
            raise InputError(
                f"--json: {self._target} takes no more lines ({error.strerror}), so the watch "
                f"ends; {self._record} has every image"
            ) from None


@contextmanager
def row_lines(target: str | None, record: Path) -> Iterator[RowLines]:
    """Yield the writer of rows as JSON.

    target: a file, which is gone on with where it exists (a last line that was cut short is
        removed), "-" for standard output, None for no lines.
    record: the file of the record.

    Raises InputError where the file cannot be written.
    """
    if target is None:
        yield RowLines("", None, record)
    elif target == "-":
        # A stream of its own: Python would try to flush sys.stdout again after a broken pipe.
        with os.fdopen(os.dup(sys.stdout.fileno()), "wb", buffering=0) as file:
            yield RowLines("standard output", file, record)
    else:
        with _opened(Path(target)) as file:
            yield RowLines(target, file, record)


def _opened(path: Path) -> IO[bytes]:
    """The file, made where it is missing, at the end of its last whole line."""
    is_pipe = path.exists() and not path.is_file()  # or another device: nothing can be read back
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("ab" if is_pipe else "ab+", buffering=0)
    except OSError as error:
        raise InputError(f"--json: {path} cannot be written ({error.strerror})") from None
    if is_pipe:
        return file
    end = size = file.seek(0, os.SEEK_END)
    while end > 0:
        start = max(0, end - _BLOCK)
        file.seek(start)
        found = (file.read(end - start) or b"").rfind(b"\n")
        if found >= 0:
            end = start + found + 1
            break
        end = start
    if end < size:
        file.truncate(end)
    return file
