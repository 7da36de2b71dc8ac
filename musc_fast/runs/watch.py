"""Scoring the images of a folder as they appear; scores survive a kill of the process at any point.

scores.csv is the record: one line an image, in the order of scoring, written and synced before the
next image is read. The bank is saved less often. When a watch starts, the bank takes up the images
whose lines are younger than its file, with their recorded scores; then it is as it was before.
The first images have no bank to be scored against: they are scored against each other, and their
lines are written together or not at all.
"""

from __future__ import annotations

import csv
import errno
import io
import math
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import astuple, dataclass, fields
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

from ..bank.reference_bank import Eviction, ReferenceBank
from ..bank.stream import StreamScore, score_first, score_next, source_of
from ..datasets.find_images import walk_images
from ..errors import BankError, ImageError, InputError
from ..files import locked, replacing
from ..progress import Progress, stage_bars
from ..scratch import naming_full
from ..settings import whole_number

if TYPE_CHECKING:
    from torch import Tensor

    from ..musc import MuSc


@dataclass(frozen=True)
class Row:
    """A line of scores.csv, all text; the fields of a score are empty for an unreadable file.

    file: the full path, since two folders may have images of one name.
    number: how many images the bank had been given before this one.
    raw_score: the maximum of the anomaly map.
    references: how many images it was scored against.
    flagged: "1" from the threshold on, else "0"; empty without a threshold.
    time: when the file was read, ISO 8601, UTC.
    reason: why the file cannot be read; empty for an image.
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
class WatchSettings:
    """How a folder is watched.

    capacity: images that a new bank holds at most.
    evict: what a full bank gives up, see `ReferenceBank`.
    start: images that are scored against each other while the bank is empty.
    save_every: images after which the bank is saved.
    threshold: raw score from which an image is flagged; None flags none.

    Raises InputError naming the setting.
    """

    capacity: int = 200
    evict: Eviction = "oldest"
    start: int = 10
    save_every: int = 50
    threshold: float | None = None

    def __post_init__(self) -> None:
        for name in ("capacity", "start", "save_every"):
            object.__setattr__(self, name, whole_number(name, getattr(self, name), 1))
        number = isinstance(self.threshold, int | float) and math.isfinite(self.threshold)
        if self.threshold is not None and not number:
            raise InputError(f"threshold: found {self.threshold!r}, wanted a finite number")
        if self.start < 2:
            raise InputError(f"start: found {self.start}, wanted 2 or more")
        if self.save_every < 1:
            raise InputError(f"save_every: found {self.save_every}, wanted 1 or more")
        if self.capacity < self.start:
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
    or the record, BankError where the bank does not fit the backbone or the record.
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
    done: the rows of the record by file.
    gone: the files that were scored, but were missing when the bank should have taken them up.
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
            self.bank = musc.new_bank(settings.capacity, evict=settings.evict)
        self._saved = self.bank.added  # images given to the bank when its file was written
        self._recorded = True  # every image of the bank has its line
        self.gone: list[str] = []
        self._sizes_and_times: dict[str, tuple[int, int]] = {}  # of new files, at the last look
        rows = _read_record(out)
        self.done = {row.file: row for row in rows}
        missing = [row for row in rows if row.number and int(row.number) >= self.bank.added]
        if not bank.exists():
            self._check_folder(missing)
        with stage_bars(shown and bool(missing)) as on_progress:
            self._take_up(missing, lambda done, total: on_progress("taking up", done, total))

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

        Images whose files are missing are left out of the bank and listed in `gone`.
        """
        numbers = list(range(self.bank.added, self.bank.added + len(missing)))
        if [int(row.number) for row in missing] != numbers:
            raise BankError(
                f"{self._bank_file} has been given {self.bank.added} images, "
                f"{self._record_file} goes on with number {missing[0].number}: they do not belong "
                "together; name other files"
            )
        for place, row in enumerate(missing):
            try:
                tokens = self.musc.extract([row.file]).tokens
            except ImageError:
                self.gone.append(row.file)
                self.bank.pass_over()
            else:
                self.bank.add(tokens, [row.file], scores=[float(row.raw_score)])
            on_progress(place + 1, len(missing))

    def look(self, *, settled: bool = False) -> list[Path]:
        """The new files that have not changed since the last look, oldest first.

        settled: also take files that the last look did not see, or saw otherwise.
        """
        ready, found = [], {}
        for path in walk_images(self.folder):
            name = str(path)
            row = self.done.get(name)
            if row is not None and row.number:
                continue
            try:
                status = path.stat()
            except OSError:  # removed since the folder was listed
                continue
            if row is not None and status.st_ctime <= datetime.fromisoformat(row.time).timestamp():
                continue  # unreadable, and unchanged since its line was written
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
            paths = [path for path in paths if str(path) not in self.done]
        if len(self.bank) == 0:
            return
        for path in paths:
            yield self._score_next(path)
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
        times = []
        for path in paths:
            time = _now()
            try:
                tokens[str(path)] = self.musc.extract([path]).tokens
            except ImageError as error:
                row = _unreadable(path, error, time)
                self._record([row])
                yield row
                continue
            times.append(time)
            if len(tokens) == self.settings.start:
                break
        if len(tokens) < wanted:
            return
        self._recorded = False
        scores = score_first(self.bank, list(tokens), list(tokens.values()))
        rows = [self._row(score, time) for score, time in zip(scores, times, strict=True)]
        self._record(rows)
        yield from rows

    def _score_next(self, path: Path) -> Row:
        time = _now()
        try:
            tokens = self.musc.extract([path]).tokens
        except ImageError as error:
            row = _unreadable(path, error, time)
        else:
            self._recorded = False
            row = self._row(score_next(self.bank, str(path), tokens), time)
        self._record([row])
        return row

    def _record(self, rows: list[Row]) -> None:
        """Append lines to the record; when this returns they are whole and synced to the disk."""
        text = io.StringIO()
        writer = csv.writer(text)
        is_new = not self._record_file.exists()
        if is_new:
            writer.writerow(_COLUMNS)
        writer.writerows(astuple(row) for row in rows)
        data = text.getvalue().encode("utf-8", "surrogateescape")
        if is_new or len(rows) > 1:  # appended, some of several lines could be lost in a crash
            before = b"" if is_new else self._record_file.read_bytes()
            with replacing(self._record_file) as temporary, temporary.open("wb") as file:
                file.write(before + data)
                file.flush()
                os.fsync(file.fileno())
        else:
            with (
                naming_full(self._record_file.parent),
                self._record_file.open("ab", buffering=0) as file,
            ):
                if file.write(data) != len(data):  # `_read_record` cuts the torn line
                    raise OSError(errno.ENOSPC, "no room for a whole line", str(self._record_file))
                os.fsync(file.fileno())
        self._recorded = True
        self.done.update({row.file: row for row in rows})

    def _row(self, score: StreamScore, time: str) -> Row:
        threshold = self.settings.threshold
        return Row(
            file=score.name,
            number=str(score.number),
            raw_score=repr(score.raw_score),
            references=str(score.references),
            flagged="" if threshold is None else str(int(score.raw_score >= threshold)),
            time=time,
            reason="",
        )


def _unreadable(path: Path, error: ImageError, time: str) -> Row:
    reason = str(error).rpartition(f"{path}: ")[2]  # the path has a column of its own
    return Row(
        file=str(path),
        number="",
        raw_score="",
        references="",
        flagged="",
        time=time,
        reason=" ".join(reason.split()),
    )


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="microseconds")


def _read_record(file: Path) -> list[Row]:
    """The rows of a record; a last line that a crash cut short is removed from the file."""
    if not file.exists():
        return []
    data = file.read_bytes()
    end = data.rfind(b"\n") + 1
    while end and data.count(b'"', 0, end) % 2:  # this line break is part of a quoted name
        end = data.rfind(b"\n", 0, end - 1) + 1
    text = io.StringIO(data[:end].decode("utf-8", "surrogateescape"), newline="")
    lines = list(csv.reader(text))
    if not lines or lines[0] != _COLUMNS or any(len(line) != len(_COLUMNS) for line in lines):
        raise InputError(f"{file} is no record of musc-fast watch; name another file")
    if end < len(data):
        os.truncate(file, end)
    return [Row(*line) for line in lines[1:]]
