"""Scoring the images of a folder as they appear; scores survive a kill of the process at any point.

scores.csv is the record (`watch_record`): one line an image, in the order of scoring, written and
synced before the next image is read. What is said of an image follows from the bank and the record
alone (`watch_bank`, `watch_judge`). A file whose content has changed since its line was written is
another image: it is scored as a new one, and never stands in for the old one.
The first images have no bank to be scored against: they are scored against each other, and their
lines are written together or not at all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ..bank.arguments import free_id
from ..bank.stream import features_of, joined, white_of_bank
from ..errors import ImageError, InputError
from ..files import locked
from ..progress import StageProgress, stage_bars
from .watch_bank import WatchedBank
from .watch_files import NewFiles
from .watch_judge import Judgement
from .watch_pictures import write_picture
from .watch_record import REMOVED, FileState, Row, now, place_in_bank
from .watch_settings import WatchSettings

if TYPE_CHECKING:
    from torch import Tensor

    from ..bank.own_distances import LeaveOneOut
    from ..bank.reference_bank import ReferenceBank
    from ..features.extraction import BatchFeatures, Extractor
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

    folder: as a full path.
    held: the `WatchedBank`, which has the bank and the record.
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
        self.folder, self.settings = folder.resolve(), settings
        self.held = WatchedBank(musc, self.folder, bank, out, settings, on_progress)
        self.begun = self.bank.added > 0
        self._first: set[Path] = set()  # files that the start has looked at
        self._files = NewFiles(self.folder, self.held.done)

    @property
    def _extractor(self) -> Extractor:
        return self.held.musc.extractor

    @property
    def bank(self) -> ReferenceBank:
        """The bank."""
        return self.held.bank

    @property
    def lines(self) -> int:
        """How many lines the record has of images and unreadable files of the folder."""
        return self.held.lines

    @property
    def gone(self) -> list[str]:
        """Files of the record that the bank could not take up, see `WatchedBank`."""
        return self.held.gone

    @property
    def level(self) -> float | None:
        """Raw score from which on the next image is flagged; None where the bank cannot tell."""
        return self.held.judge().level

    def look(self, *, settled: bool = False) -> list[Path]:
        """The new and the changed files; see `NewFiles.look`."""
        return self._files.look(settled=settled)

    def score(self, paths: list[Path], *, last: bool = False) -> Iterator[Row]:
        """Score files, record each, and yield its row; also a row for each defect found again.

        The references, if there are any and the bank is new, come first. While the bank is empty,
        nothing is scored until there are `settings.start` images.

        last: no more files will come, so two images are enough to start with.
        """
        yield from self._find_again()  # an earlier watch may have ended before it did
        if self.settings.references and not self.bank.added:
            references = list(self.settings.references)
            yield from self._score_first(references, len(references), references=True)
        while len(self.bank) == 0:  # again where a threshold left out all the first ones
            yield from self._score_first(paths, 2 if last else self.settings.start)
            looked_at, paths = paths, [path for path in paths if path not in self._first]
            if len(paths) == len(looked_at):
                return
        for path in paths:
            row = self._score_next(path)
            if row is not None:
                yield row
                yield from self._find_again()
            self.held.save(every=self.settings.save_every)

    def save(self) -> None:
        """Save the bank if it has changed."""
        self.held.save()

    def _score_first(
        self, paths: list[Path], wanted: int, *, references: bool = False
    ) -> Iterator[Row]:
        """Score the first images against each other, where at least `wanted` can be read.

        Raises ImageError where a reference cannot be read.
        """
        if len(paths) < wanted:
            return
        most = wanted if references else self.settings.start
        features: dict[str, BatchFeatures] = {}
        states = []
        self._first.clear()
        self.held.fit(paths[: 2 * most])
        white_of_bank(self.bank, self._extractor, paths[: 2 * most])
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
                features[str(path)] = read
                states.append((time, state))
            if len(features) == most:
                break
        if len(features) >= wanted:
            yield from self._add_first(features, states, references=references)

    def _add_first(
        self,
        features: dict[str, BatchFeatures],
        states: list[tuple[str, FileState]],
        *,
        references: bool,
    ) -> Iterator[Row]:
        """Put the first images into the bank and record them; those that stand apart go again."""
        with self.held.changing():
            layers, valid = joined(list(features.values()))
            self.bank.add(layers, list(features), valid=valid)
            judge = self.held.judge()
            found = judge.held
            assert found is not None  # of two images or more
            rows = []
            for place, (said, state) in enumerate(zip(judge.of_held(), states, strict=True)):
                row = self._row_of_held(found, place, said, *state)
                rows.append(replace(row, bank=self._place_in_bank(said, reference=references)))
                self._draw(rows[-1], partial(found.anomaly_map, place))
            self.bank.set_scores({int(row.number): float(row.raw_score) for row in rows})
            self._record(rows)
        self.held.remove({int(row.number) for row in rows if not row.is_held})
        self.save()  # it has the white level, which a record alone would not tell
        yield from rows
        yield from self._find_again()

    def _find_again(self) -> Iterator[Row]:
        """Remove the images of the bank that stand apart by now, and yield a second row of each."""
        while not self.settings.keep_flagged and (judge := self.held.judge()).apart:
            found, verdicts = judge.held, judge.of_held()
            assert found is not None  # it has the images that stand apart
            rows = []
            for place in judge.apart:
                line = self.held.of_number.get(found.entries[place].number)
                state = FileState("", "", "") if line is None else line.state
                row = self._row_of_held(found, place, verdicts[place], now(), state)
                path = row.path if line is None else line.path  # an id may have a number, too
                rows.append(replace(row, path=path, bank=REMOVED))
                self._draw(rows[-1], partial(found.anomaly_map, place))
            self._record(rows)
            self.held.remove({int(row.number) for row in rows})
            yield from rows

    def _score_next(self, path: Path) -> Row | None:
        """The row of a new image; None where the file has the content of its line, or changes."""
        time, state = now(), FileState.of(path)
        read = self._read(path, time, state)
        if read is None or isinstance(read, Row):
            if read is not None:
                self._record([read])
            return read
        references, number = len(self.bank), self.bank.added
        scores = self.bank.score(read.tokens, valid=read.valid)
        raw_score = float(scores.raw_image_scores[0])
        said = self.held.judge().of_new(raw_score)
        row = replace(
            _row(str(path), number, raw_score, references, said, time, state),
            bank=self._place_in_bank(said),
        )
        self._draw(row, lambda: scores.anomaly_maps[0])
        self._record([row])
        with self.held.changing():
            if row.is_held:
                ids = [free_id(row.path, self.bank.ids)]
                self.bank.add(read.tokens, ids, scores=[raw_score], valid=read.valid)
            else:
                self.bank.pass_over()
        return row

    def _read(self, path: Path, time: str, state: FileState) -> BatchFeatures | Row | None:
        """The features of a file, or the row of one that cannot be read.

        None where the file has the content of its line, or changes while it is read: then the next
        look finds it.
        """
        row = self.held.done.get(str(path))
        found: BatchFeatures | Row | None = None
        if row is None or not row.sha256 or not row.is_of(state):
            try:
                found = features_of(self.bank, self._extractor, path)
            except ImageError as error:
                found = _unreadable(path, error, time, state)
            if not state.is_now(path):
                return None
        if found is None or (
            isinstance(found, Row) and row is not None and row.is_of(state, found.reason)
        ):
            self._files.note_same(path)
            return None
        return found

    def _record(self, rows: list[Row]) -> None:
        """Append lines to the record, whole and synced to the disk."""
        self.held.append(rows)

    def _place_in_bank(self, said: Judgement, *, reference: bool = False) -> str:
        taken = said.verdict != "flagged" or self.settings.keep_flagged
        return place_in_bank(taken=taken, reference=reference)

    def _row_of_held(
        self, found: LeaveOneOut, place: int, said: Judgement, time: str, state: FileState
    ) -> Row:
        """The row of an image of the bank, by its score against the others."""
        entry, others = found.entries[place], len(found.entries) - 1
        score = float(found.raw_image_scores[place])
        line = self.held.of_number.get(entry.number)
        path = entry.id if line is None else line.path  # the id may be "path (2)"
        return _row(path, entry.number, score, others, said, time, state)

    def _draw(self, row: Row, anomaly_map: Callable[[], Tensor]) -> None:
        """Write the picture of a flagged image, unless its file is gone or has changed."""
        path = Path(row.path)
        if row.flagged != "1" or not self.settings.pictures or not row.state.is_now(path):
            return
        held = self.held.judge().held
        usual = 0.0 if held is None else held.usual
        white = self.bank.source.get("white")
        reading = replace(self._extractor.reading, white=white)
        with suppress(ImageError):
            write_picture(self.held.record, row, anomaly_map(), usual, reading)


def _row(
    path: str,
    number: int,
    raw_score: float,
    references: int,
    said: Judgement,
    time: str,
    state: FileState,
) -> Row:
    """The row of a scored image, without its place in the bank."""
    return Row(
        path=path,
        number=str(number),
        raw_score=repr(raw_score),
        references=str(references),
        flagged=str(int(said.verdict == "flagged")),
        time=time,
        reason="",
        size=state.size,
        modified=state.modified,
        sha256=state.sha256,
        verdict=said.verdict,
        threshold="" if said.threshold is None else repr(said.threshold),
        p_value="" if said.p_value is None else f"{said.p_value:.4g}",
    )


def _unreadable(path: Path, error: ImageError, time: str, state: FileState) -> Row:
    reason = str(error).rpartition(f"{path}: ")[2]  # the path has a column of its own
    return Row(
        path=str(path),
        number="",
        raw_score="",
        references="",
        flagged="",
        time=time,
        reason=" ".join(reason.split()),
        size=state.size,
        modified=state.modified,
        sha256=state.sha256,
    )
