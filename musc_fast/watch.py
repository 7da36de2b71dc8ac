"""Scoring the images of a folder as they appear; what was scored survives a kill at any point.

scores.csv is the record: one line an image, in the order of scoring, written and synced before the
next image is looked at. The bank is saved now and then; at the start, the images whose lines are
younger than its file are given to it again with their recorded scores, which leaves it as it was.
The first images have no bank: they are scored against each other, and their lines are the first
content of scores.csv, which appears with all of them or not at all.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import astuple, dataclass, fields
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

from .bank import Eviction, ReferenceBank
from .datasets.images import walk_images
from .errors import BankError, ImageError, InputError
from .files import locked, replacing
from .progress import stage_bars
from .stream import StreamScore, new_bank, score_first, score_next, source_of, tokens_of

if TYPE_CHECKING:
    from torch import Tensor

    from .pipeline import MuSc

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Row:
    """A line of scores.csv.

    file: relative to the folder. number: which image of the bank it is, counted from 0, and
    references: how many images it was scored against; all of these, raw_score and flagged (0 or 1,
    where there is a threshold) are empty for an unreadable file, which `reason` tells.
    """

    file: str
    number: str
    raw_score: str
    references: str
    flagged: str
    time: str
    reason: str


_COLUMNS = [field.name for field in fields(Row)]


@dataclass(frozen=True)
class Settings:
    """How to watch; see the command's options."""

    capacity: int = 200
    evict: Eviction = "oldest"
    start: int = 10
    save_every: int = 50
    threshold: float | None = None


@contextmanager
def watching(
    musc: MuSc,
    folder: Path,
    bank: Path,
    out: Path,
    settings: Settings,
    *,
    shown: bool = False,
) -> Iterator[Watch]:
    """A `Watch` of `folder` that records in the file `out` and saves its bank at the end.

    shown: draw a bar while images scored since the last save are given to the bank again.
    Raises InputError for wrong settings or where another process watches with the same bank,
    BankError where the bank does not fit the backbone or the record.
    """
    if settings.start < 2:
        raise InputError(f"start: found {settings.start}, wanted 2 or more")
    if settings.save_every < 1:
        raise InputError(f"save_every: found {settings.save_every}, wanted 1 or more")
    if settings.capacity < settings.start:
        raise InputError(
            f"capacity: found {settings.capacity}, wanted {settings.start} or more, the images of "
            "the start"
        )
    if not folder.is_dir():
        raise ImageError(f"{folder}: no such folder")
    bank.parent.mkdir(parents=True, exist_ok=True)
    with locked(bank.with_name(f"{bank.name}.lock"), f"{bank} is in use by another watch"):
        watch = Watch(musc, folder, bank, out, settings, shown=shown)
        try:
            yield watch
        finally:
            watch.save()


class Watch:
    """See `watching`."""

    def __init__(
        self,
        musc: MuSc,
        folder: Path,
        bank: Path,
        out: Path,
        settings: Settings,
        *,
        shown: bool,
    ) -> None:
        self.musc, self.folder, self.file, self.out = musc, folder, bank, out
        self.settings = settings
        if bank.exists():
            how = {key: musc.settings[key] for key in ("backend", "precision", "memory_limit")}
            self.bank = ReferenceBank.load(
                bank, source=source_of(musc), device=musc.backbone.device, **how
            )
        else:
            self.bank = new_bank(musc, settings.capacity, evict=settings.evict)
        self._saved = self.bank.added
        self.gone: list[str] = []
        self._seen: dict[str, tuple[int, int]] = {}
        rows = _read(out)
        self.done = {row.file for row in rows}
        missing = [row for row in rows if row.number and int(row.number) >= self.bank.added]
        with stage_bars(shown and bool(missing)) as report:
            self._take_up(missing, lambda done, total: report("taking up", done, total))

    def _take_up(self, missing: list[Row], progress: Progress) -> None:
        """Give the bank what was scored since it was saved, with the scores recorded.

        Images that are no longer there are left out of it; `gone` tells them.
        """
        wanted = list(range(self.bank.added, self.bank.added + len(missing)))
        if [int(row.number) for row in missing] != wanted:
            raise BankError(
                f"{self.file} has been given {self.bank.added} images, {self.out} goes on with "
                f"number {missing[0].number}: they do not belong together; name other files"
            )
        for place, row in enumerate(missing):
            try:
                tokens = tokens_of(self.musc, self.folder / row.file)
            except ImageError:
                self.gone.append(row.file)
                self.bank.pass_over()
            else:
                self.bank.add(tokens, [row.file], scores=[float(row.raw_score)])
            progress(place + 1, len(missing))

    def look(self, *, settled: bool = False) -> list[Path]:
        """The new files that have not changed since the look before, oldest first.

        settled: take them as they are.
        """
        ready, seen = [], {}
        for path in walk_images(self.folder):
            name = self._name(path)
            if name in self.done or "\n" in name or "\r" in name:  # a line is an image
                continue
            try:
                state = path.stat()
            except OSError:  # gone again
                continue
            seen[name] = (state.st_size, state.st_mtime_ns)
            if settled or self._seen.get(name) == seen[name]:
                ready.append((state.st_mtime_ns, name, path))
        self._seen = seen
        return [path for _, _, path in sorted(ready)]

    def score(self, paths: list[Path], *, last: bool = False) -> Iterator[Row]:
        """Score files, record each, and yield its row.

        With an empty bank nothing happens until there are enough to start with; `last`: two are
        enough then.
        """
        if len(self.bank) == 0:
            enough = min(self.settings.start, len(paths)) if last else self.settings.start
            first, paths = paths[:enough], paths[enough:]
            yield from self._start(first, enough)
        if len(self.bank) == 0:
            return
        for path in paths:
            yield self._next(path)
            if self.bank.added - self._saved >= self.settings.save_every:
                self.save()

    def save(self) -> None:
        """Save the bank where it has changed."""
        if self.bank.added != self._saved:
            self.bank.save(self.file)
            self._saved = self.bank.added

    def _start(self, paths: list[Path], enough: int) -> Iterator[Row]:
        if len(paths) < enough or len(paths) < 2:
            return
        read: list[tuple[str, tuple[Tensor, ...]]] = []
        rows: dict[str, Row] = {}
        for path in paths:
            try:
                read.append((self._name(path), tokens_of(self.musc, path)))
            except ImageError as error:
                rows[self._name(path)] = self._failed(path, error)
        if len(read) < 2:
            return
        names, tokens = [name for name, _ in read], [layers for _, layers in read]
        for found in score_first(self.musc, self.bank, names, tokens):
            rows[found.name] = self._row(found)
        ordered = [rows[self._name(path)] for path in paths]
        self._record(ordered, begin=True)
        yield from ordered

    def _next(self, path: Path) -> Row:
        try:
            tokens = tokens_of(self.musc, path)
        except ImageError as error:
            row = self._failed(path, error)
        else:
            row = self._row(score_next(self.bank, self._name(path), tokens))
        self._record([row])
        return row

    def _record(self, rows: list[Row], *, begin: bool = False) -> None:
        """Write lines that are there, whole and synced, before anything else happens."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        fresh = not self.out.exists()
        if fresh:
            writer.writerow(_COLUMNS)
        writer.writerows(astuple(row) for row in rows)
        data = text.getvalue().encode("utf-8", "surrogateescape")
        if fresh or begin:
            before = b"" if fresh else self.out.read_bytes()
            with replacing(self.out) as temporary, temporary.open("wb") as file:
                file.write(before + data)
                file.flush()
                os.fsync(file.fileno())
        else:
            with self.out.open("ab", buffering=0) as file:
                file.write(data)
                os.fsync(file.fileno())
        self.done.update(row.file for row in rows)

    def _row(self, found: StreamScore) -> Row:
        level = self.settings.threshold
        flagged = "" if level is None else str(int(found.raw_score >= level))
        return Row(
            found.name, str(found.number), repr(found.raw_score), str(found.references), flagged,
            _now(), "",
        )  # fmt: skip

    def _failed(self, path: Path, error: ImageError) -> Row:
        reason = str(error).splitlines()[-1].strip()  # the line that names the file
        return Row(self._name(path), "", "", "", "", _now(), reason)

    def _name(self, path: Path) -> str:
        return path.relative_to(self.folder).as_posix()


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def _read(file: Path) -> list[Row]:
    """The rows of a record; a last line that a crash cut short is removed from it."""
    if not file.exists():
        return []
    data = file.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    lines = list(csv.reader(io.StringIO(whole.decode("utf-8", "surrogateescape"))))
    if not lines or lines[0] != _COLUMNS or any(len(line) != len(_COLUMNS) for line in lines):
        raise InputError(f"{file} is no record of musc-fast watch; name another file")
    if len(whole) < len(data):
        os.truncate(file, len(whole))
    return [Row(*line) for line in lines[1:]]
