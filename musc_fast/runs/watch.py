"""Scoring the images of a folder as they appear; what was scored survives a kill at any point.

scores.csv is the record: one line an image, in the order of scoring, written and synced before the
next image is looked at. The bank is saved now and then; at the start, the images whose lines are
younger than its file are given to it again with their recorded scores, which leaves it as it was.
The first images have no bank: they are scored against each other, and their lines appear together
or not at all.
"""

from __future__ import annotations

import csv
import errno
import io
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import astuple, dataclass, fields
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

from ..bank.bank import Eviction, ReferenceBank
from ..bank.stream import StreamScore, score_first, score_next, source_of
from ..datasets.images import walk_images
from ..errors import BankError, ImageError, InputError
from ..files import locked, replacing
from ..progress import stage_bars

if TYPE_CHECKING:
    from torch import Tensor

    from ..musc import MuSc

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Row:
    """A line of scores.csv.

    file: its full path, since days and lines may share names. number: which image of the bank it
    is, counted from 0, and references: how many images it was scored against; all of these,
    raw_score and flagged (0 or 1, where there is a threshold) are empty for an unreadable file,
    which `reason` tells. time: when it was read, UTC.
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

    Where an error or Ctrl-C comes amid an image, the bank's file stays as it was: the record has
    the rest.

    shown: draw a bar while images scored since the last save are given to the bank again.
    Raises InputError for wrong settings or where another process has the bank or the record,
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
        self.musc, self.folder, self.file, self.out = musc, folder.resolve(), bank, out
        self.settings = settings
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
            self.bank = musc.new_bank(settings.capacity, evict=settings.evict)
        self._saved = self.bank.added
        self._recorded = True  # the bank holds nothing that the record does not tell
        self.gone: list[str] = []
        self._seen: dict[str, tuple[int, int]] = {}
        rows = _read(out)
        self.done = {row.file: row for row in rows}
        missing = [row for row in rows if row.number and int(row.number) >= self.bank.added]
        if not bank.exists():
            self._check_ours(missing)
        with stage_bars(shown and bool(missing)) as report:
            self._take_up(missing, lambda done, total: report("taking up", done, total))

    def _check_ours(self, rows: list[Row]) -> None:
        """A record without its bank is that of another bank where its images lie elsewhere."""
        for row in rows:
            if self.folder not in Path(row.file).parents:
                raise BankError(
                    f"{self.file} does not exist, and {self.out} tells of {row.file}, which is not "
                    f"in {self.folder}: it seems to be the record of another bank; name another"
                )

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
                tokens = self.musc.extract([row.file]).tokens
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
            name = str(path)
            row = self.done.get(name)
            if row is not None and row.number:
                continue
            try:
                state = path.stat()
            except OSError:  # gone again
                continue
            if row is not None and state.st_ctime <= datetime.fromisoformat(row.time).timestamp():
                continue  # unreadable, and the same as then
            seen[name] = (state.st_size, state.st_mtime_ns)
            if settled or self._seen.get(name) == seen[name]:
                ready.append((state.st_mtime_ns, name, path))
        self._seen = seen
        return [path for _, _, path in sorted(ready)]

    def score(self, paths: list[Path], *, last: bool = False) -> Iterator[Row]:
        """Score files, record each, and yield its row.

        With an empty bank nothing is scored until there are enough to start with; `last`: two are
        enough then.
        """
        if len(self.bank) == 0:
            yield from self._start(paths, last)
            paths = [path for path in paths if str(path) not in self.done]
        if len(self.bank) == 0:
            return
        for path in paths:
            yield self._next(path)
            if self.bank.added - self._saved >= self.settings.save_every:
                self.save()

    def save(self) -> None:
        """Save the bank where it has changed, if the record tells of all that is in it."""
        if self._recorded and self.bank.added != self._saved:
            self.bank.save(self.file)
            self._saved = self.bank.added

    def _start(self, paths: list[Path], last: bool) -> Iterator[Row]:
        start = self.settings.start
        if len(paths) < (2 if last else start):
            return
        read: dict[str, tuple[Tensor, ...]] = {}
        times = []
        for path in paths:
            time = _now()
            try:
                read[str(path)] = self.musc.extract([path]).tokens
            except ImageError as error:
                row = _failed(path, error, time)
                self._record([row])
                yield row
                continue
            times.append(time)
            if len(read) == start:
                break
        if len(read) < (2 if last else start):
            return
        self._recorded = False
        found = score_first(self.bank, list(read), list(read.values()))
        rows = [self._row(score, time) for score, time in zip(found, times, strict=True)]
        self._record(rows)
        yield from rows

    def _next(self, path: Path) -> Row:
        time = _now()
        try:
            tokens = self.musc.extract([path]).tokens
        except ImageError as error:
            row = _failed(path, error, time)
        else:
            self._recorded = False
            row = self._row(score_next(self.bank, str(path), tokens), time)
        self._record([row])
        return row

    def _record(self, rows: list[Row]) -> None:
        """Write lines that are there, whole and synced, before anything else happens."""
        text = io.StringIO()
        writer = csv.writer(text)
        fresh = not self.out.exists()
        if fresh:
            writer.writerow(_COLUMNS)
        writer.writerows(astuple(row) for row in rows)
        data = text.getvalue().encode("utf-8", "surrogateescape")
        if fresh or len(rows) > 1:  # several lines at once could be torn apart
            before = b"" if fresh else self.out.read_bytes()
            with replacing(self.out) as temporary, temporary.open("wb") as file:
                file.write(before + data)
                file.flush()
                os.fsync(file.fileno())
        else:
            with self.out.open("ab", buffering=0) as file:
                if file.write(data) != len(data):  # the next start cuts the torn line
                    raise OSError(errno.ENOSPC, "no room for a whole line", str(self.out))
                os.fsync(file.fileno())
        self._recorded = True
        self.done.update({row.file: row for row in rows})

    def _row(self, found: StreamScore, time: str) -> Row:
        level = self.settings.threshold
        flagged = "" if level is None else str(int(found.raw_score >= level))
        return Row(
            found.name,
            str(found.number),
            repr(found.raw_score),
            str(found.references),
            flagged,
            time,
            "",
        )


def _failed(path: Path, error: ImageError, time: str) -> Row:
    reason = str(error).rpartition(f"{path}: ")[2]  # the path has a column of its own
    return Row(str(path), "", "", "", "", time, " ".join(reason.split()))


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="microseconds")


def _read(file: Path) -> list[Row]:
    """The rows of a record; a last line that a crash cut short is removed from it."""
    if not file.exists():
        return []
    data = file.read_bytes()
    end = data.rfind(b"\n") + 1
    while end and data.count(b'"', 0, end) % 2:  # within a quoted name
        end = data.rfind(b"\n", 0, end - 1) + 1
    text = io.StringIO(data[:end].decode("utf-8", "surrogateescape"), newline="")
    lines = list(csv.reader(text))
    if not lines or lines[0] != _COLUMNS or any(len(line) != len(_COLUMNS) for line in lines):
        raise InputError(f"{file} is no record of musc-fast watch; name another file")
    if end < len(data):
        os.truncate(file, end)
    return [Row(*line) for line in lines[1:]]
