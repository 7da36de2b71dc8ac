"""What the report shows of one image: pictures, regions and outlines, measured and encoded."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from . import pictures
from .heatmap import Scale
from .outline import svg_path
from .regions import Region, label_regions, measure_regions, strongest_place
from .scored_batch import ScoredBatch

_PIXELS = 40_000_000  # that are decoded at a time, about 10 bytes each
_VIEW = 1000  # longest side of an outline's coordinates


@dataclass(frozen=True)
class Card:
    """What the page shows of one image.

    index: place of the image in the batch.
    width, height: of the original image, in pixels; `regions` refer to them.
    photo, heat: data URIs of the photo and of the transparent heat layer.
    scale: distances of the first and the last colour of `heat`.
    regions: biggest peak first.
    outline, hint, truth: SVG paths around the regions, around where an image without regions
        differs most, and around the labelled defect, "" for none.
    ignored: SVG path around what is not scored, "" for nothing.
    view: (width, height) of the coordinates of these paths.
    """

    index: int
    width: int
    height: int
    photo: str
    heat: str
    scale: Scale
    regions: Sequence[Region]
    outline: str
    hint: str
    truth: str
    ignored: str
    view: tuple[int, int]


def make_card(
    run: ScoredBatch,
    index: int,
    image: Image.Image,
    scale: Scale,
    mask: NDArray[np.bool_] | None = None,
) -> Card:
    """Measure and encode one image of a batch.

    index: place of the image in the batch.
    image: its original.
    scale: of its heat layer.
    mask: [h, w] bool of any size, True on the labelled defect; None where there is none.
    """
    anomaly_map, threshold = run.anomaly_maps[index], run.pixel_threshold
    ignored = run.ignored(index)
    labels = label_regions(anomaly_map, threshold, ignored=ignored)
    shrink = _VIEW / max(image.size)
    height, width = (max(1, round(side * shrink)) for side in (image.height, image.width))
    heat = pictures.heat(anomaly_map, scale)
    regions = measure_regions(labels, anomaly_map, (image.height, image.width))
    hint = ""
    if not regions and (index == run.order[0] or run.verdicts[index] == "look"):
        level, place = strongest_place(anomaly_map, ignored)
        hint = svg_path(place, anomaly_map, level, (height, width))
    return Card(
        index=index,
        width=image.width,
        height=image.height,
        photo=pictures.data_uri(pictures.photo(image, pictures.PICTURE_BYTES - len(heat))),
        heat=pictures.data_uri(heat),
        scale=scale,
        regions=regions,
        outline=(
            "" if threshold is None else svg_path(labels, anomaly_map, threshold, (height, width))
        ),
        hint=hint,
        truth=_path_around(mask, (height, width)),
        ignored=_path_around(ignored, (height, width)),
        view=(width, height),
    )


def _path_around(mask: NDArray[np.bool_] | None, size: tuple[int, int]) -> str:
    """The SVG path around what a mask marks, "" for nothing."""
    return "" if mask is None else svg_path(mask.astype(np.int8), mask * 1.0, 0.5, size)


class _Room:
    """Memory shared by threads: large images are decoded one after another, small ones together."""

    def __init__(self, most: int) -> None:
        self._most, self._used = most, 0
        self._changed = threading.Condition()

    @contextmanager
    def taken(self, pixels: int) -> Iterator[None]:
        """Hold room for an image of so many pixels; one that exceeds all room is alone."""
        with self._changed:
            self._changed.wait_for(lambda: self._used == 0 or self._used + pixels <= self._most)
            self._used += pixels
        try:
            yield
        finally:
            with self._changed:
                self._used -= pixels
                self._changed.notify_all()


def make_cards(
    make_one: Callable[[int], Card],
    count: int,
    on_progress: Callable[[int, int], None],
    pixels: Sequence[int] | None = None,
) -> list[Card]:
    """The cards `make_one(0)` to `make_one(count - 1)`, made by up to four threads.

    on_progress: called after each card with the number of cards made and `count`.
    pixels: of each image; threads wait for each other where together they would decode too many.
    """
    cards = []
    room = _Room(_PIXELS)

    def make(index: int) -> Card:
        with room.taken(0 if pixels is None else pixels[index]):
            return make_one(index)

    with ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as pool:
        for done, card in enumerate(pool.map(make, range(count)), 1):
            cards.append(card)
            on_progress(done, count)
    return cards
