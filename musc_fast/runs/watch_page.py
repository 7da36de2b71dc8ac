"""The page of a watch, kept up while it scores: `report.line_page` shows what this gathers."""

from __future__ import annotations

import time
import warnings
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from torch import Tensor

from ..datasets.read_images import read_image
from ..errors import ImageError, InputError, MuscFastWarning
from ..report import pictures
from ..report.line_page import BEAT, MARK, UNREADABLE, LineState, ShownImage, write_line_page
from ..report.timeline import Point
from ..settings import ReadSettings
from .watch_bank import WatchedBank
from .watch_pictures import picture_scale
from .watch_record import REMOVED, Row, read_record

_IMAGES, _FLAGGED, _POINTS = 6, 3, 200  # shown at most
_PHOTO_BYTES, _PHOTO_SIDE = 30_000, 800
_HEAD = 4096  # bytes in which a page has its mark


def check_page(path: Path | None) -> None:
    """Raise InputError where a file that is no page of a watch would be written over."""
    if path is None or not path.exists():
        return
    with path.open("rb") as file:
        head = file.read(_HEAD)
    if MARK.encode() not in head:
        raise InputError(f"page: {path} exists and is no page of a watch; name another file")


class WatchPage:
    """The page of a watch.

    path: of the page. folder: the watched one, whose images are named below it.
    held: the bank and its record, which tells of the images before this watch.
    reading: gives how files are read.

    A page that cannot be written is warned of and does not end the watch: the record has all.
    """

    def __init__(
        self, path: Path, folder: Path, held: WatchedBank, reading: Callable[[], ReadSettings]
    ) -> None:
        self._path, self._folder, self._held, self._reading = path, folder, held, reading
        self._images: deque[ShownImage] = deque(maxlen=_IMAGES)
        self._flagged: deque[ShownImage] = deque(maxlen=_FLAGGED)
        self._points: deque[Point] = deque(maxlen=_POINTS)
        self._counts = dict.fromkeys(("flagged", "look", "clear", UNREADABLE), 0)
        self._is_written = True  # at the last try
        for row in read_record(held.record):
            self._take(row, None)
        self._write()

    def show(self, found: Iterable[tuple[Row, Callable[[], Tensor] | None]]) -> None:
        """Show images that have been recorded together, each a row and what makes its map."""
        rows = list(found)
        first = len(rows) - _IMAGES  # those before it would have no place
        for place, (row, anomaly_map) in enumerate(rows):
            wanted = place >= first or row.flagged == "1"
            self._take(row, anomaly_map if wanted else None)
        self._write()

    def beat(self) -> None:
        """Write the page again where it has not been for `BEAT` seconds."""
        if time.monotonic() - self._written_at >= BEAT:
            self._write()

    def end(self, error: BaseException | None) -> None:
        """Write the page of a watch that has ended: by an error, or as was wanted."""
        how = "It was asked to end."
        if isinstance(error, Exception):
            how = f"By an error: {error}"
        elif error is not None:
            how = "It was interrupted."
        self._write(ended=how)

    def _take(self, row: Row, anomaly_map: Callable[[], Tensor] | None) -> None:
        if row.is_reference or (row.raw_score and not row.verdict):  # of an earlier version
            return
        image = self._shown(row, anomaly_map)
        if row.bank == REMOVED:  # found again: counted and shown before, unless a reference
            first = self._held.of_number.get(int(row.number))
            if first is not None and not first.is_reference and first.verdict in self._counts:
                self._counts[first.verdict] -= 1
        self._counts[image.verdict] += 1
        if image.verdict == "flagged":
            self._flagged.appendleft(image)
        self._images.appendleft(image)
        if image.raw_score is not None:
            self._points.append(Point(image.raw_score, image.threshold, image.verdict, image.time))

    def _shown(self, row: Row, anomaly_map: Callable[[], Tensor] | None) -> ShownImage:
        path = Path(row.path)
        name = str(path.relative_to(self._folder)) if self._folder in path.parents else path.name
        photo, heat, ratio = "", "", 1.0
        if anomaly_map is not None and row.state.is_now(path):
            with suppress(ImageError):
                image = read_image(path, self._reading())
                found = anomaly_map().float().cpu().numpy()
                scale = picture_scale(row, found, self._held.judge().usual)
                photo = pictures.data_uri(pictures.photo(image, _PHOTO_BYTES, _PHOTO_SIDE))
                heat = pictures.data_uri(pictures.heat(found, scale))
                ratio = image.width / image.height
        note = row.reason
        if row.bank == REMOVED:
            note = "found again among the images of the bank, and removed"
        return ShownImage(
            name=name,
            verdict=row.verdict if row.raw_score else UNREADABLE,
            raw_score=float(row.raw_score) if row.raw_score else None,
            threshold=float(row.threshold) if row.threshold else None,
            time=row.seconds,
            note=note,
            photo=photo,
            heat=heat,
            ratio=ratio,
        )

    def _write(self, ended: str = "") -> None:
        self._written_at = time.monotonic()
        level, bank = self._held.judge().level, self._held.bank
        says = "it cannot tell yet" if level is None else f"flagged from {level:.4f} on"
        state = LineState(
            folder=str(self._folder),
            images=list(self._images),
            flagged=list(self._flagged),
            points=list(self._points),
            counts=self._counts,
            bank=f"the bank holds {len(bank)} images: {says}",
            ended=ended,
        )
        try:
            write_line_page(self._path, state)
        except OSError as error:
            if self._is_written:  # said once, not for each image
                reason = error.strerror or error
                warnings.warn(
                    f"page: {self._path} cannot be written ({reason}); the watch goes on",
                    MuscFastWarning,
                    stacklevel=2,
                )
            self._is_written = False
        else:
            self._is_written = True
