"""The record of a watch: scores.csv, a line an image, synced before the next image is read.

A line holds what its file was: size, time of its last change and digest. A file is the image of a
line only as long as it has that content, since cameras write new pictures under old names.
"""

from __future__ import annotations

import csv
import errno
import hashlib
import io
import os
from dataclasses import astuple, dataclass, fields, replace
from datetime import datetime, timezone
from pathlib import Path

from ..errors import InputError
from ..files import replacing
from ..scratch import naming_full

ADDED, LEFT_OUT, COPY = "added", "left out", "copy"
REFERENCE, REFERENCE_OUT = "reference", "reference left out"
REMOVED = "removed"  # found again: the line is a second one of an image that was in the bank
IN_BANK = (ADDED, LEFT_OUT, COPY, REFERENCE, REFERENCE_OUT, REMOVED)


@dataclass(frozen=True)
class Row:
    """A line of scores.csv, all text; the fields of a score are empty for an unreadable file.

    path: the full path, since two folders may have images of one name.
    number: how many images the bank had been given before this one.
    raw_score: the maximum of the anomaly map.
    references: how many images it was scored against.
    flagged: "1" where the verdict is "flagged", else "0".
    time: when the file was read, ISO 8601, UTC.
    reason: why the file cannot be read; empty for an image.
    size: of the file, in bytes.
    modified: time of its last change, in nanoseconds since 1970.
    sha256: of its content, hexadecimal; empty where it cannot be opened. `size`, `modified` and
        `sha256` are empty in lines of earlier versions.
    verdict: "flagged", "look" (the bank cannot tell: a person should look) or "clear".
    threshold: raw score from which on an image was flagged; empty where there was none.
    p_value: how often, at most, a good image scores as high; empty where that is not known.
    bank: what became of the image there, one of `IN_BANK`.
    """

    path: str
    number: str
    raw_score: str
    references: str
    flagged: str
    time: str
    reason: str
    size: str = ""
    modified: str = ""
    sha256: str = ""
    verdict: str = ""
    threshold: str = ""
    p_value: str = ""
    bank: str = ""

    @property
    def is_image(self) -> bool:
        """Whether the line is of an image that was given to the bank, not of a later finding."""
        return bool(self.number) and self.bank != REMOVED

    @property
    def is_reference(self) -> bool:
        """Whether the image was given as a reference."""
        return self.bank in (REFERENCE, REFERENCE_OUT)

    @property
    def is_held(self) -> bool:
        """Whether the bank took the image in."""
        return self.bank in (ADDED, REFERENCE)

    @property
    def state(self) -> FileState:
        """What the file was."""
        return FileState(self.size, self.modified, self.sha256)

    @property
    def seconds(self) -> float:
        """`time` in seconds since 1970."""
        return datetime.fromisoformat(self.time).timestamp()

    def is_untouched(self, status: os.stat_result) -> bool:
        """Whether a file of this status is surely what it was when it was read."""
        if not self.size:  # a line of an earlier version, or of a file that was not there
            return (status.st_ctime if self.reason else status.st_mtime) <= self.seconds
        same = (self.size, self.modified) == (str(status.st_size), str(status.st_mtime_ns))
        return same and status.st_ctime <= self.seconds

    def is_of(self, state: FileState, reason: str = "") -> bool:
        """Whether the line is of this content; where there is no digest, of this `reason`."""
        if self.sha256 or state.sha256:
            return self.sha256 == state.sha256
        return (self.size, self.modified, self.reason) == (state.size, state.modified, reason)


@dataclass(frozen=True)
class FileState:
    """Size, time of the last change and digest of a file, as in `Row`."""

    size: str
    modified: str
    sha256: str

    @classmethod
    def of(cls, path: Path) -> FileState:
        """The state of a file now; no field of what is missing or cannot be opened."""
        try:
            status = path.stat()
        except OSError:
            return cls("", "", "")
        try:
            with path.open("rb") as file:
                digest = hashlib.sha256()
                while block := file.read(1 << 20):
                    digest.update(block)
        except OSError:
            return cls(str(status.st_size), str(status.st_mtime_ns), "")
        return cls(str(status.st_size), str(status.st_mtime_ns), digest.hexdigest())

    def is_now(self, path: Path) -> bool:
        """Whether a file still has this size and time of change."""
        try:
            status = path.stat()
        except OSError:
            return not self.size
        return (self.size, self.modified) == (str(status.st_size), str(status.st_mtime_ns))


_COLUMNS = [field.name for field in fields(Row)]
# Earlier versions called the path "file" and had the first columns alone.
_EARLIER_COLUMNS = [["file", *_COLUMNS[1:count]] for count in (7, 10)]


def place_in_bank(*, taken: bool, reference: bool) -> str:
    """What `Row.bank` says of an image that was taken in or left out."""
    if reference:
        return REFERENCE if taken else REFERENCE_OUT
    return ADDED if taken else LEFT_OUT


def is_here(row: Row) -> bool:
    """Whether a line's file still has the content that was scored."""
    path = Path(row.path)
    try:
        return row.is_of(FileState.of(path)) if row.sha256 else row.is_untouched(path.stat())
    except OSError:
        return False


def now() -> str:
    """The time now as `Row.time` has it."""
    return datetime.now(timezone.utc).isoformat(timespec="microseconds")


def append_rows(file: Path, rows: list[Row]) -> None:
    """Append lines to a record; when this returns they are whole and synced to the disk.

    Several lines are appended together or not at all.

    Raises OSError where there is no room; `read_record` cuts the torn line.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    is_new = not file.exists()
    if is_new:
        writer.writerow(_COLUMNS)
    writer.writerows(astuple(row) for row in rows)
    data = text.getvalue().encode("utf-8", "surrogateescape")
    if is_new or len(rows) > 1:  # appended, some of several lines could be lost in a crash
        _replace(file, (b"" if is_new else file.read_bytes()) + data)
        return
    with naming_full(file.parent), file.open("ab", buffering=0) as opened:
        if opened.write(data) != len(data):
            raise OSError(errno.ENOSPC, "no room for a whole line", str(file))
        os.fsync(opened.fileno())


def read_record(file: Path) -> list[Row]:
    """The rows of a record; a last line that a crash cut short is removed from the file.

    A record of an earlier version gets the columns that it lacks.

    Raises InputError where the file is no record.
    """
    if not file.exists():
        return []
    data = file.read_bytes()
    end = data.rfind(b"\n") + 1
    while end and data.count(b'"', 0, end) % 2:  # this line break is part of a quoted name
        end = data.rfind(b"\n", 0, end - 1) + 1
    text = io.StringIO(data[:end].decode("utf-8", "surrogateescape"), newline="")
    lines = list(csv.reader(text))
    columns = lines[0] if lines else []
    earlier = columns in _EARLIER_COLUMNS
    if (columns != _COLUMNS and not earlier) or any(len(line) != len(columns) for line in lines):
        raise InputError(f"{file} is no record of musc-fast watch; name another file")
    if earlier:
        rows = [_of_earlier(line) for line in lines[1:]]
        renewed = io.StringIO()
        writer = csv.writer(renewed, lineterminator="\n")
        writer.writerows([_COLUMNS, *(astuple(row) for row in rows)])
        _replace(file, renewed.getvalue().encode("utf-8", "surrogateescape"))
        return rows
    if end < len(data):
        os.truncate(file, end)
    return [Row(*line) for line in lines[1:]]


def _of_earlier(line: list[str]) -> Row:
    """The row of a line of an earlier version: the bank took every image in."""
    row = Row(*line)
    verdict = {"1": "flagged", "0": "clear"}.get(row.flagged, "")
    return replace(row, verdict=verdict, bank=ADDED if row.number else "")


def _replace(file: Path, data: bytes) -> None:
    with replacing(file) as temporary, temporary.open("wb") as opened:
        opened.write(data)
        opened.flush()
        os.fsync(opened.fileno())
