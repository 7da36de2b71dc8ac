"""The bank of a watch with its record: they tell together what has been scored.

The record is synced before the bank takes an image in, and the bank is saved less often. When they
are opened, the bank takes up the images whose lines are younger than its file, with their recorded
scores, and gives up those that were found again to be defects; then it is as it was before.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..bank.arguments import free_id
from ..bank.reference_bank import ReferenceBank
from ..bank.stream import alignment_of_bank, features_of, new_bank, source_of, white_of_bank
from ..errors import BankError, ImageError
from ..progress import Progress, StageProgress
from .watch_judge import Judge, Rule, is_near
from .watch_record import LEFT_OUT, REFERENCE_OUT, REMOVED, Row, append_rows, is_here, read_record
from .watch_settings import WatchSettings

if TYPE_CHECKING:
    from ..musc import MuSc

_RENEWED_PER_BANK = 20  # judges, while as many images come as the bank holds


class WatchedBank:
    """A bank, its file and its record.

    bank: the `ReferenceBank`.
    record: the file of the record.
    done: the latest line of each file. of_number: the line of each image.
    lines: how many lines the record has of images and unreadable files of the folder.
    gone: the files that were scored, but were missing or had another content when the bank should
        have taken them up.

    folder: the full path of the watched folder.

    Raises BankError where the bank does not fit the backbone, the record, or a capacity or eviction
    that was asked for.
    """

    def __init__(
        self,
        musc: MuSc,
        folder: Path,
        file: Path,
        record: Path,
        settings: WatchSettings,
        on_progress: StageProgress,
    ) -> None:
        self._musc, self._file, self.record, self._settings = musc, file, record, settings
        self._rule = Rule(settings.threshold, settings.false_alarms)
        self.bank = self._of_file()
        self._check_settings()
        self._saved = self.bank.added  # images given to the bank when its file was written
        self._changed = False  # since the file of the bank was written
        self._whole = True  # the bank is not in the midst of a change, every image has its line
        self._judge: Judge | None = None
        self._judged_at = 0  # images given to the bank when the judge was made
        self.gone: list[str] = []
        self.done: dict[str, Row] = {}
        self.of_number: dict[int, Row] = {}
        self._left_out: dict[int, float] = {}  # thresholds reached by good images, by number
        self.lines = 0
        rows = read_record(record)
        self._note(rows)
        missing = [row for row in rows if row.is_image and int(row.number) >= self.bank.added]
        if not file.exists():
            self._check_folder(folder, missing)
        self._take_up(rows, missing, lambda done, total: on_progress("taking up", done, total))
        if len(self.bank) > 1 and not self.bank.knows_itself:  # of an earlier version
            self.bank.leave_one_out(
                on_progress=lambda done, total: on_progress("comparing the bank", done, total)
            )
            self._changed = True

    def _of_file(self) -> ReferenceBank:
        musc, settings = self._musc, self._settings
        if not self._file.exists():
            wanted = {name: getattr(settings, name) for name in ("copies", "repeats")}
            given = {name: value for name, value in wanted.items() if value is not None}
            return new_bank(
                musc.extractor,
                replace(musc.settings, **given),
                settings.new_capacity,
                evict=settings.evict or "oldest",
            )
        return ReferenceBank.load(
            self._file,
            source=source_of(musc.extractor, musc.settings),
            device=musc.backbone.device,
            backend=musc.settings.backend,
            precision=musc.settings.precision,
            memory_limit=musc.settings.memory_limit,
        )

    def _check_settings(self) -> None:
        """Raise BankError where the bank was made with another setting than wanted."""
        for name in ("capacity", "evict", "copies", "repeats"):
            of = self.bank if hasattr(self.bank, name) else self.bank.scoring
            wanted, held = getattr(self._settings, name), getattr(of, name)
            if wanted is not None and wanted != held:
                raise BankError(
                    f"{name}: found {wanted}, {self._file} was made with {held}; leave "
                    f"{name} out (--{name}), or name another bank"
                )

    def _check_folder(self, folder: Path, rows: list[Row]) -> None:
        """Raise BankError where images of a record without a bank lie in another folder."""
        for row in rows:
            if not row.is_reference and folder not in Path(row.path).parents:
                raise BankError(
                    f"{self._file} does not exist, and {self.record} tells of "
                    f"{row.path}, which is not in {folder}: it seems to be the record of "
                    "another bank; name another"
                )

    def _take_up(self, rows: list[Row], missing: list[Row], on_progress: Progress) -> None:
        """Do to the bank what the record tells since the bank was saved, with recorded scores.

        Images whose files are missing or hold other pictures now are left out of the bank and
        listed in `gone`.
        """
        first = self.bank.added
        if [int(row.number) for row in missing] != list(range(first, first + len(missing))):
            raise BankError(
                f"{self._file} has been given {first} images, "
                f"{self.record} goes on with number {missing[0].number}: they do not belong "
                "together; name other files"
            )
        here = {row.number for row in missing if row.is_held and is_here(row)}
        first_images = [row.path for row in missing if row.number in here]
        white_of_bank(self.bank, self._musc.extractor, first_images)
        if first_images and not len(self.bank):
            alignment_of_bank(self.bank, self._musc.extractor, first_images)
        removed: set[int] = set()
        for row in rows:
            if row.bank == REMOVED:
                removed.add(int(row.number))
            elif row.is_image and int(row.number) >= first:
                self.remove(removed)
                self._take_up_image(row, here=row.number in here)
                on_progress(self.bank.added - first, len(missing))
        self.remove(removed)

    def _take_up_image(self, row: Row, *, here: bool) -> None:
        features = None
        if here:
            with suppress(ImageError):
                features = features_of(self.bank, self._musc.extractor, row.path)
        with self.changing():
            if features is None:
                self.bank.pass_over()
            else:
                self.bank.add(
                    features.tokens,
                    [free_id(row.path, self.bank.ids)],
                    scores=[float(row.raw_score)],
                    valid=features.valid,
                )
        if features is None and row.is_held:
            self.gone.append(row.path)

    @contextmanager
    def changing(self) -> Iterator[None]:
        """A change of the bank; where the block fails, the bank is not saved any more."""
        self._whole = False
        yield
        self._whole = self._changed = True

    def remove(self, numbers: set[int]) -> None:
        """Remove those of the images that the bank holds."""
        held = numbers & {entry.number for entry in self.bank.entries}
        if held:
            with self.changing():
                self.bank.remove(held)
            self._judge = None

    def append(self, rows: list[Row]) -> None:
        """Append lines to the record, whole and synced to the disk."""
        append_rows(self.record, rows)
        self._note(rows)

    def _note(self, rows: list[Row]) -> None:
        for row in rows:
            rate = self._settings.false_alarms
            left_out = row.bank in (LEFT_OUT, REFERENCE_OUT)
            if left_out and row.p_value and row.threshold and is_near(float(row.p_value), rate):
                self._left_out[int(row.number)] = float(row.threshold)
            if row.bank == REMOVED:
                continue
            self.done[row.path] = row
            if row.number:
                self.of_number[int(row.number)] = row
            self.lines += not row.is_reference

    def judge(self) -> Judge:
        """The judge, renewed where a twentieth of the bank has changed since the last was made.

        Its cost grows with the bank.
        """
        step = max(1, len(self.bank) // _RENEWED_PER_BANK)
        if self._judge is None or self.bank.added - self._judged_at >= step:
            held = self.bank.leave_one_out() if len(self.bank) > 1 else None
            oldest = self.bank.added - self.bank.capacity
            left_out = [level for n, level in self._left_out.items() if n >= oldest]
            self._judge = Judge(self._rule, held, left_out)
            self._judged_at = self.bank.added
        return self._judge

    def save(self, *, every: int = 0) -> None:
        """Save the bank if it has changed, unless one of its images has no line yet.

        every: wait until it has been given so many images since it was saved.
        """
        if self._whole and self._changed and self.bank.added - self._saved >= every:
            self.bank.save(self._file)
            self._saved, self._changed = self.bank.added, False
