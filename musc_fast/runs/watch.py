"""Scoring the images of a folder as they appear; scores survive a kill of the process at any point.

scores.csv is the record (`watch_record`): one line an image, in the order of scoring, written and
synced before the next image is read. The bank is saved less often. When a watch starts, the bank
takes up the images whose lines are younger than its file, with their recorded scores, and gives up
those that were found again to be defects; then it is as it was before. What is said of an image
follows from the bank and the record alone. A file whose content has changed since its line was
written is another image: it is scored as a new one, and never stands in for the old one.
The first images have no bank to be scored against: they are scored against each other, and their
lines are written together or not at all.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from .. import reference
from ..bank.reference_bank import ReferenceBank
from ..bank.stream import source_of, tokens_of, white_of_bank
from ..errors import BankError, ImageError, InputError
from ..files import locked
from ..progress import Progress, StageProgress, stage_bars
from ..scoring.arguments import map_size
from . import watch_record
from .watch_files import NewFiles
from .watch_judge import Judge, Judgement, Rule
from .watch_pictures import write_picture
from .watch_record import FileState, Row, append_rows, now, read_record
from .watch_settings import WatchSettings

if TYPE_CHECKING:
    from torch import Tensor

    from ..bank.file import Entry
    from ..bank.own_distances import LeaveOneOut
    from ..musc import MuSc

__all__ = ["Watch", "WatchSettings", "watching"]


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
    shown: draw a bar while the bank takes up images of the record, or compares its own.

    Raises ImageError where there is no such folder, InputError where another process has the bank
    or the record, BankError where the bank does not fit the backbone, the record, or a capacity or
    eviction that was asked for.
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
        with stage_bars(shown) as on_progress:
            watch = Watch(musc, folder, bank, out, settings, on_progress=on_progress)
        try:
            yield watch
        finally:
            watch.save()


class Watch:
    """Scores new images of a folder against a bank; made by `watching`, which has the arguments.

    bank: the `ReferenceBank`.
    folder: as a full path. record: the file of the record.
    done: the latest line of each file.
    lines: how many lines the record has of images of the folder.
    gone: the files that were scored, but were missing or had another content when the bank should
        have taken them up.
    begun: whether the bank had images before this watch, so that references are not read.
    """

    def __init__(
        self,
        musc: MuSc,
        folder: Path,
        bank: Path,
        out: Path,
        settings: WatchSettings,
        *,
        on_progress: StageProgress = lambda stage, done, total: None,
    ) -> None:
        self.musc, self.folder, self.settings = musc, folder.resolve(), settings
        self._bank_file, self.record = bank, out
        self._rule = Rule(settings.threshold, settings.false_alarms)
        self.bank = self._bank_of_file()
        self._check_bank()
        self._saved = self.bank.added  # images given to the bank when its file was written
        self._changed = False  # since the file of the bank was written
        self._whole = True  # the bank is not in the midst of a change, every image has its line
        self._judge: Judge | None = None  # of the bank as it is
        self.gone: list[str] = []
        self._first: set[Path] = set()  # files that the start has looked at
        self.done: dict[str, Row] = {}
        self._images: dict[int, Row] = {}  # lines of images by number
        self._left_out: dict[int, float] = {}  # raw scores by number
        self.lines = 0
        rows = read_record(out)
        self._note(rows)
        missing = [row for row in rows if row.is_image and int(row.number) >= self.bank.added]
        if not bank.exists():
            self._check_folder(missing)
        self._take_up(rows, missing, lambda done, total: on_progress("taking up", done, total))
        self.begun = self.bank.added > 0
        self._files = NewFiles(self.folder, self.done)
        if len(self.bank) > 1 and not self.bank.knows_itself:  # of an earlier version
            self.bank.leave_one_out(
                on_progress=lambda done, total: on_progress("comparing the bank", done, total)
            )
            self._changed = True

    def _bank_of_file(self) -> ReferenceBank:
        musc = self.musc
        if not self._bank_file.exists():
            return musc.new_bank(
                self.settings.new_capacity, evict=self.settings.evict or "oldest"
            )
        return ReferenceBank.load(
            self._bank_file,
            source=source_of(musc.backbone, musc.settings),
            device=musc.backbone.device,
            backend=musc.settings.backend,
            precision=musc.settings.precision,
            memory_limit=musc.settings.memory_limit,
        )

    def _check_bank(self) -> None:
        """Raise BankError where the bank was made with another capacity or eviction than wanted."""
        for name in ("capacity", "evict"):
            wanted, held = getattr(self.settings, name), getattr(self.bank, name)
            if wanted is not None and wanted != held:
                raise BankError(
                    f"{name}: found {wanted}, {self._bank_file} was made with {held}; leave "
                    f"{name} out (--{name}), or name another bank"
                )

    def _check_folder(self, rows: list[Row]) -> None:
        """Raise BankError where images of a record without a bank lie in another folder."""
        for row in rows:
            if not row.is_reference and self.folder not in Path(row.path).parents:
                raise BankError(
                    f"{self._bank_file} does not exist, and {self.record} tells of "
                    f"{row.path}, which is not in {self.folder}: it seems to be the record of "
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
                f"{self._bank_file} has been given {first} images, "
                f"{self.record} goes on with number {missing[0].number}: they do not belong "
                "together; name other files"
            )
        here = {row.number for row in missing if row.is_held and _is_here(row)}
        white_of_bank(
            self.bank, self.musc.extractor, [row.path for row in missing if row.number in here]
        )
        removed: set[int] = set()
        for row in rows:
            if row.bank == watch_record.REMOVED:
                removed.add(int(row.number))
            elif row.is_image and int(row.number) >= first:
                self._remove_held(removed)
                self._take_up_image(row, is_here=row.number in here)
                self._changed = True
                on_progress(self.bank.added - first, len(missing))
        self._remove_held(removed)

    def _take_up_image(self, row: Row, *, is_here: bool) -> None:
        tokens = None
        if is_here:
            with suppress(ImageError):
                tokens = tokens_of(self.bank, self.musc.extractor, row.path)
        if tokens is not None:
            self.bank.add(tokens, [row.path], scores=[float(row.raw_score)])
            return
        if row.is_held:
            self.gone.append(row.path)
        self.bank.pass_over()

    def _remove_held(self, numbers: set[int]) -> None:
        """Remove those of the images that the bank holds."""
        held = numbers & {entry.number for entry in self.bank.entries}
        if held:
            self.bank.remove(held)
            self._changed = True

    def look(self, *, settled: bool = False) -> list[Path]:
        """The new and the changed files; see `NewFiles.look`."""
        return self._files.look(settled=settled)

    def score(self, paths: list[Path], *, last: bool = False) -> Iterator[Row]:
        """Score files, record each, and yield its row; also a row for each defect found again.

        The references, if there are any and the bank is new, come first. While the bank is empty,
        nothing is scored until there are `settings.start` images.

        last: no more files will come, so two images are enough to start with.
        """
        yield from self._find_again()  # a watch may have ended before it did
        if self.settings.references and not self.bank.added:
            references = list(self.settings.references)
            yield from self._score_first(references, len(references), references=True)
        if len(self.bank) == 0:
            yield from self._score_first(paths, 2 if last else self.settings.start)
            paths = [path for path in paths if path not in self._first]
        if len(self.bank) == 0:
            return
        for path in paths:
            row = self._score_next(path)
            if row is not None:
                yield row
                yield from self._find_again()
            if self.bank.added - self._saved >= self.settings.save_every:
                self.save()

    def save(self) -> None:
        """Save the bank if it has changed, unless one of its images has no line yet."""
        if self._whole and self._changed:
            self.bank.save(self._bank_file)
            self._saved, self._changed = self.bank.added, False

    @property
    def level(self) -> float | None:
        """Raw score from which on the next image is flagged; None where the bank cannot tell."""
        return self._judging().level

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """A change of the bank; where the block fails, the bank is not saved any more."""
        self._whole = False
        self._judge = None
        yield
        self._whole = self._changed = True

    def _judging(self) -> Judge:
        """The judge by the bank as it is."""
        if self._judge is None:
            held = self.bank.leave_one_out() if len(self.bank) > 1 else None
            oldest = self.bank.added - self.bank.capacity
            left_out = {n: score for n, score in self._left_out.items() if n >= oldest}
            self._judge = Judge(self._rule, held, left_out)
        return self._judge

    def _score_first(
        self, paths: list[Path], wanted: int, *, references: bool = False
    ) -> Iterator[Row]:
        """Score the first images against each other, where at least `wanted` can be read."""
        if len(paths) < wanted:
            return
        most = wanted if references else self.settings.start
        tokens: dict[str, tuple[Tensor, ...]] = {}
        states = []
        self._first.clear()
        white_of_bank(self.bank, self.musc.extractor, paths[: 2 * most])
        for path in paths:
            time, state = now(), FileState.of(path)
            self._first.add(path)
            read = self._read(path, time, state)
            if isinstance(read, Row):
                if references:
                    raise ImageError(f"references: {path}: {read.reason}")
                self._record([read])
                yield read
            elif read is not None:
                tokens[str(path)] = read
                states.append((time, state))
            if len(tokens) == most:
                break
        if len(tokens) >= wanted:
            yield from self._add_first(tokens, states, references=references)

    def _add_first(
        self,
        tokens: dict[str, tuple[Tensor, ...]],
        states: list[tuple[str, FileState]],
        *,
        references: bool,
    ) -> Iterator[Row]:
        """Put the first images into the bank, record them, and leave those out that stand apart."""
        with self._changing():
            self.bank.add([torch.cat(layer) for layer in zip(*tokens.values(), strict=True)], [*tokens])
            found = self.bank.leave_one_out()
            scores = {
                entry.number: float(score)
                for entry, score in zip(found.entries, found.raw_image_scores, strict=True)
            }
            self.bank.set_scores(scores)
            rows = []
            for place, (said, state) in enumerate(
                zip(self._judging().of_held(), states, strict=True)
            ):
                taken = said.verdict != "flagged" or self.settings.keep_flagged
                row = self._row_of_held(found, place, said, *state)
                bank = watch_record.place_in_bank(taken=taken, reference=references)
                rows.append(replace(row, bank=bank))
                if said.verdict == "flagged":
                    self._draw(rows[-1], self._map_of(found.patch_scores[place]))
            self._record(rows)
            self._remove_held({int(row.number) for row in rows if not row.is_held})
        self._judge = None
        self.save()  # it has the white level, which a record alone would not tell
        yield from rows
        yield from self._find_again()
