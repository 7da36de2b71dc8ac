"""The images of a folder, scored one after another as they appear, recorded and shown."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ..bank.arguments import free_id
from ..bank.stream import alignment_of_bank, features_of, frames_in_bank, joined, white_of_bank
from ..errors import ImageError
from ..progress import StageProgress
from ..registration import Frames, own_grid, own_maps
from ..settings import ReadSettings
from .watch_bank import WatchedBank
from .watch_copies import drop_copies
from .watch_files import NewFiles
from .watch_judge import Judgement
from .watch_page import WatchPage
from .watch_pictures import write_picture
from .watch_record import COPY, REMOVED, FileState, Row, now, place_in_bank
from .watch_rows import row_of_image, row_of_unreadable
from .watch_settings import WatchSettings

if TYPE_CHECKING:
    from torch import Tensor

    from ..bank.own_distances import LeaveOneOut
    from ..bank.reference_bank import ReferenceBank
    from ..features.extraction import BatchFeatures, Extractor
    from ..musc import MuSc


class Watch:
    """Scores new images of a folder against a bank; made by `watching`, which has the arguments.

    folder: as a full path.
    held: the `WatchedBank`, which has the bank and the record.
    copy_of: images of the bank by the files that are copies of them.
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
        self._page: WatchPage | None = None
        if settings.page is not None:
            self._page = WatchPage(settings.page, self.folder, self.held, self._reading)
        self.copy_of: dict[str, str] = {}
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
            # As full paths, like the folder's: the record is read from other places, too.
            references = [path.parent.resolve() / path.name for path in self.settings.references]
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

    def idle(self) -> None:
        """Note on the page, from time to time, that the watch goes on; to be called while idle."""
        if self._page is not None:
            self._page.beat()

    def end_page(self, error: BaseException | None = None) -> None:
        """Note on the page that the watch has ended, by an error or as was wanted."""
        if self._page is not None:
            self._page.end(error)

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
        alignment_of_bank(self.bank, self._extractor, paths[: 2 * most])
        for path in paths:
            time, state = now(), FileState.of(path)
            self._first.add(path)
            read = self._read(path, time, state)
            if isinstance(read, Row):
                if references:
                    raise ImageError(f"references: {path}: {read.reason}")
                self._record([read])
                self._show([(read, None)])
                yield read
            elif read is not None:
                features[str(path)] = read
                states.append((time, state))
            full = len(features) == most
            if full and not self._dropped_copies(features, states, references):
                break
        while self._dropped_copies(features, states, references):
            pass  # until the bank will take all of them in
        if len(features) >= (2 if references else wanted):
            yield from self._add_first(features, states, references=references)

    def _dropped_copies(
        self,
        features: dict[str, BatchFeatures],
        states: list[tuple[str, FileState]],
        references: bool,
    ) -> bool:
        """Drop copies among the first images, and tell whether there were any."""
        gone = drop_copies(self.bank, features, references=references)
        for place, path in reversed(gone):
            del states[place]
            self._first.discard(Path(path))
        return bool(gone)

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
                self._draw_held(found, place, rows[-1])
            self.bank.set_scores({int(row.number): float(row.raw_score) for row in rows})
            self._record(rows)
        self._show(
            (row, partial(self._map_of_held, found, place, row.path))
            for place, row in enumerate(rows)
        )
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
                self._draw_held(found, place, rows[-1])
            self._record(rows)
            places = zip(judge.apart, rows, strict=True)
            self._show(
                (row, partial(self._map_of_held, found, place, row.path)) for place, row in places
            )
            self.held.remove({int(row.number) for row in rows})
            yield from rows

    def _score_next(self, path: Path) -> Row | None:
        """The row of a new image; None where the file has the content of its line, or changes."""
        time, state = now(), FileState.of(path)
        read = self._read(path, time, state)
        if read is None or isinstance(read, Row):
            if read is not None:
                self._record([read])
                self._show([(read, None)])
            return read
        references, number = len(self.bank), self.bank.added
        scores = self.bank.score(read.tokens, valid=read.valid)
        raw_score = float(scores.raw_image_scores[0])
        said = self.held.judge().of_new(raw_score)
        references -= len(scores.copies)
        row = replace(
            row_of_image(str(path), number, raw_score, references, said, time, state),
            bank=COPY if scores.copies else self._place_in_bank(said),
        )
        for copy in scores.copies:
            self.copy_of[row.path] = self.bank.entries[copy.of].id
        grid = scores.patch_scores.shape[1:]
        own_map = partial(_own_map, scores.anomaly_maps, read.frames)
        self._draw(
            row,
            own_map,
            None if read.valid is None else own_grid(read.valid.view(1, *grid), read.frames)[0],
        )
        self._record([row])
        self._show([(row, own_map)])
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
                found = row_of_unreadable(path, error, time, state)
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
        return row_of_image(path, entry.number, score, others, said, time, state)

    def _map_of_held(self, found: LeaveOneOut, place: int, path: str) -> Tensor:
        """The map of an image of the bank, on the image as its file has it."""
        frames = frames_in_bank(self.bank, self._extractor, path)
        return _own_map(found.anomaly_map(place)[None], frames)

    def _draw_held(self, found: LeaveOneOut, place: int, row: Row) -> None:
        valid = None if found.valid is None else found.valid[place]
        with suppress(ImageError):  # the file may be gone by now
            frames = self._frames_of(row)
            self._draw(
                row,
                partial(_own_map, found.anomaly_map(place)[None], frames),
                None if valid is None else own_grid(valid[None], frames)[0],
            )

    def _frames_of(self, row: Row) -> Frames | None:
        """Where an image of the bank lies, whose picture is drawn; None without a frame."""
        if row.flagged != "1" or not self.settings.pictures:
            return None
        return frames_in_bank(self.bank, self._extractor, row.path)

    def _draw(self, row: Row, anomaly_map: Callable[[], Tensor], valid: Tensor | None) -> None:
        """Write the picture of a flagged image, unless its file is gone or has changed."""
        path = Path(row.path)
        if row.flagged != "1" or not self.settings.pictures or not row.state.is_now(path):
            return
        with suppress(ImageError):
            usual = self.held.judge().usual
            write_picture(self.held.record, row, anomaly_map(), usual, self._reading(), valid)

    def _show(self, found: Iterable[tuple[Row, Callable[[], Tensor] | None]]) -> None:
        """Show images on the page, each a row and what makes its map; those recorded together."""
        if self._page is not None:
            self._page.show(found)

    def _reading(self) -> ReadSettings:
        """How files are read, with the white level of the bank."""
        return replace(self._extractor.reading, white=self.bank.source.get("white"))


def _own_map(maps: Tensor, frames: Frames | None) -> Tensor:
    """The map [h, w] of one image [1, h, w], as the image was before it was moved."""
    return own_maps(maps, frames)[0]
