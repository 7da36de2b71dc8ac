"""Regions of an anomaly map: where an image is flagged, as numbers a tool downstream can read.

The pixel threshold needs no label and no second parameter. The raw score of an image is the maximum
of its map, its peak. A level above the highest peak of the unflagged images, and not above the
lowest peak of the flagged images, gives each flagged image a region and each unflagged image none.
The lowest such level is taken: a region is what no unflagged image of the batch reaches. A
threshold that the user gave is also the level of the regions, so that batches can be compared.

That is not enough where images are very uniform: with a hole in a plain surface the whole surface
scores above every unflagged image, since the hole is in the view of all patches. A region stands
out in its own picture, too: above a quarter of the way from the picture's background (the lowest
tenth of its values) to its peak. Where this level is the higher one, each region is cut at half of
the way to its own peak. Boxes around the region with the peak against boxes around the truth, mean
intersection over union before and after (dinov2-vit-s-14 at 392): plain surfaces with holes of 1%
0.01 and 0.33, line scans 0.01 and 0.12, commutators 0.17 and 0.25, drawn parts 0.47 and metal
plates 0.77 both times.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ..shown import path_cell, table_writer
from ..threshold import Threshold

Floats = NDArray[np.floating[Any]]
Bools = NDArray[np.bool_]

#: A region with a smaller share of the image is dropped as a speck, unless it holds the peak of the
#: image. The share is about a sixth of a ViT patch of 14 pixels at 392 x 392.
SMALLEST_SHARE = 0.0002
#: The quantile of a picture's values that is its background, and the shares of the way from there
#: to a peak at which a region starts to stand out and is cut.
_BACKGROUND, _START, _CUT = 0.1, 0.25, 0.5
COLUMNS = (
    "path",
    "region",
    "x",
    "y",
    "width",
    "height",
    "area",
    "peak_score",
    "peak_x",
    "peak_y",
    "share",
)
_EIGHT_NEIGHBOURS = np.ones((3, 3), dtype=np.int8)


@dataclass(frozen=True)
class Region:
    """One connected part of an image at or above the threshold.

    x, y, width, height: the box around the region, in pixels of the original image; x and y are
        the box's left upper corner.
    area: pixels of the original image, rounded.
    share: the area as a share of the image.
    peak_score: highest distance in the region.
    peak_x, peak_y: the place of `peak_score`, in pixels of the original image.
    """

    x: int
    y: int
    width: int
    height: int
    area: int
    share: float
    peak_score: float
    peak_x: int
    peak_y: int


def pixel_threshold(threshold: Threshold, raw_scores: Floats) -> float | None:
    """The level from which on (>=) pixels belong to a region; None where no image is flagged."""
    flagged = threshold.flagged
    if threshold.value is None or not flagged.any():
        return None
    if threshold.rule == "value" or flagged.all():
        return threshold.value
    return float(np.nextafter(float(raw_scores[~flagged].max()), np.inf))


def label_regions(
    anomaly_map: Floats,
    threshold: float | None,
    smallest: float = SMALLEST_SHARE,
    ignored: Bools | None = None,
) -> NDArray[np.int32]:
    """Number the regions of a map that reach `threshold`: int32 [h, w], 0 is outside.

    Region 1 has the highest peak. Pixels that touch at a corner are connected.

    anomaly_map: [h, w] distances.
    threshold: pixels with a distance >= threshold, that stand out in their own picture, belong to a
        region; None finds no region.
    smallest: regions with a smaller share of the map are dropped, except region 1.
    ignored: [h, w], the pixels that are not scored, which are no background; None: all are.
    """
    if threshold is None:
        return np.zeros(anomaly_map.shape, dtype=np.int32)
    # float64, as `find_threshold` compares image scores.
    values = np.asarray(anomaly_map, dtype=np.float64)
    inside = _standing_out(values, threshold, ignored)
    components, count = ndimage.label(inside, structure=_EIGHT_NEIGHBOURS)
    if count == 0:
        return np.zeros(anomaly_map.shape, dtype=np.int32)
    numbers = np.arange(1, count + 1)
    peaks = np.asarray(ndimage.maximum(values, components, numbers))
    areas = np.bincount(components.ravel(), minlength=count + 1)[1:]
    order = np.lexsort((-areas, -peaks))
    large = [k for k in order if k == order[0] or areas[k] >= smallest * values.size]
    region_numbers = np.zeros(count + 1, dtype=np.int32)
    region_numbers[numbers[large]] = np.arange(1, len(large) + 1)
    labels: NDArray[np.int32] = region_numbers[components]
    return labels


def _background(values: Floats, ignored: Bools | None) -> float:
    """The lowest tenth of the values of a picture that are scored."""
    counted = values if ignored is None or ignored.all() else values[~ignored]
    return float(np.quantile(counted, _BACKGROUND))


def _standing_out(values: Floats, threshold: float, ignored: Bools | None) -> NDArray[np.bool_]:
    """Pixels that reach `threshold` and stand out in their own picture; see the module's text."""
    inside = np.asarray(values >= threshold)
    background = _background(values, ignored)
    own = background + _START * (float(values.max()) - background)
    if own <= threshold:
        return inside
    components, count = ndimage.label(values >= own, structure=_EIGHT_NEIGHBOURS)
    peaks = np.asarray(ndimage.maximum(values, components, np.arange(1, count + 1)))
    cuts = np.append(np.inf, background + _CUT * (peaks - background))
    standing: NDArray[np.bool_] = inside & (values >= cuts[components])
    return standing


def strongest_place(
    anomaly_map: Floats, ignored: Bools | None = None
) -> tuple[float, NDArray[np.int32]]:
    """Where a picture differs most, flagged or not: a level, and [h, w] with 1 on the place.

    The place is the part around the peak that reaches half of the way from the picture's background
    to the peak. It is empty in a picture of one value.

    ignored: [h, w], the pixels that are not scored; None: all are.
    """
    values = np.asarray(anomaly_map, dtype=np.float64)
    background, peak = _background(values, ignored), float(values.max())
    level = background + _CUT * (peak - background)
    if not peak > background:
        return level, np.zeros(values.shape, dtype=np.int32)
    components, _ = ndimage.label(values >= level, structure=_EIGHT_NEIGHBOURS)
    place: NDArray[np.int32] = (components == components.flat[values.argmax()]).astype(np.int32)
    return level, place


def measure_regions(
    labels: NDArray[np.int32], anomaly_map: Floats, size: tuple[int, int]
) -> list[Region]:
    """The regions of an image, biggest peak first.

    Boxes are rounded outwards: they hold every pixel of the original under the region.

    labels: [h, w] region numbers from `label_regions`.
    anomaly_map: [h, w] distances.
    size: (h, w) of the original image, to whose pixels the numbers refer.
    """
    regions = []
    up, across = size[0] / labels.shape[0], size[1] / labels.shape[1]
    for number, box in enumerate(ndimage.find_objects(labels), 1):
        rows, columns = box
        inside = labels[box] == number
        scores = np.where(inside, anomaly_map[box], -np.inf)
        peak_row, peak_column = np.unravel_index(int(np.argmax(scores)), scores.shape)
        left, top = int(columns.start * across), int(rows.start * up)
        share = int(inside.sum()) / labels.size
        regions.append(
            Region(
                x=left,
                y=top,
                width=min(size[1], int(np.ceil(columns.stop * across))) - left,
                height=min(size[0], int(np.ceil(rows.stop * up))) - top,
                area=max(1, round(share * size[0] * size[1])),
                share=share,
                peak_score=float(scores.max()),
                peak_x=int((columns.start + peak_column + 0.5) * across),
                peak_y=int((rows.start + peak_row + 0.5) * up),
            )
        )
    return regions


def write_regions(path: Path, images: Sequence[Path], regions: Sequence[Sequence[Region]]) -> None:
    """regions.csv: a row a region, biggest peak first over all images; see `COLUMNS`.

    images: [N] paths for the column "path".
    regions: [N] lists from `measure_regions`; the column "region" counts within an image, from 1.
    """
    rows = [
        (region.peak_score, image, number, region)
        for image, image_regions in zip(images, regions, strict=True)
        for number, region in enumerate(image_regions, 1)
    ]
    rows.sort(key=lambda row: -row[0])
    with path.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        writer = table_writer(file)
        writer.writerow(COLUMNS)
        for _, image, number, r in rows:
            writer.writerow(
                [
                    path_cell(image),
                    number,
                    r.x,
                    r.y,
                    r.width,
                    r.height,
                    r.area,
                    f"{r.peak_score:.7g}",
                    r.peak_x,
                    r.peak_y,
                    f"{r.share:.6f}",
                ]
            )
