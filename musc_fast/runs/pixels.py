"""Pixel metrics of a scored category, and what its masks say that a reader should know."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from ..datasets.ignored import IgnoredRegions
from ..datasets.layouts import Category, Sample, sample_mask
from ..datasets.masks import shrunk
from ..metrics import PixelMetrics, Protocol, pixel_metrics
from ..report.scored_batch import ScoredBatch

_EIGHT_NEIGHBOURS = np.ones((3, 3), dtype=np.int8)
_Bools = NDArray[np.bool_]


def measure_pixels(
    category: Category, batch: ScoredBatch, protocol: Protocol
) -> tuple[PixelMetrics, list[str]]:
    """Pixel metrics of a labelled category, and notes on its masks.

    Under "musc" masks are shrunk to the maps by nearest neighbour, as the official code does; a
    note says how many regions vanish by that. Under "mvtec" maps are enlarged to the masks.
    The pixels that the user left out are in no metric; other pixels of a patch that is left out
    count, with score 0.
    """
    if any(sample.label and sample.mask is None for sample in category.samples):
        nan = math.nan
        reason = "no masks are known for the defective images: no metrics of pixels"
        return PixelMetrics(nan, nan, nan, nan, nan, reason), []
    size = batch.anomaly_maps.shape[1:]
    masks: list[_Bools] = []
    maps: list[NDArray[Any]] = []
    odd: dict[str, list[Sample]] = {}
    regions, lost, blind = 0, 0, 0
    for sample, anomaly_map in zip(category.samples, batch.anomaly_maps, strict=True):
        mask = sample_mask(sample, None, batch.reading) if sample.label else None
        if mask is not None and not mask.any():
            odd.setdefault("its mask is empty, though it counts as defective", []).append(sample)
        elif mask is not None and mask.mean() > 0.5:
            share = "most of its mask is defective: it may be inverted"
            odd.setdefault(share, []).append(sample)
        if mask is not None and mask.any() and _all_left_out(mask, batch.left_out):
            unseen = "its whole defect is left out; the image counts as defective all the same"
            odd.setdefault(unseen, []).append(sample)
        if protocol == "mvtec":
            full = sample_mask(sample, None, batch.reading) if mask is None else mask
            masks.append(full)
            maps.append(_enlarged(anomaly_map, full.shape))
            continue
        small = np.zeros(size, dtype=np.bool_) if mask is None else shrunk(mask, size)
        if mask is not None and mask.any():
            found, vanished = _lost_regions(mask, size)
            regions, lost = regions + found, lost + vanished
            blind += not small.any()
        masks.append(small)
        maps.append(anomaly_map)
    notes = [_named(samples, text) for text, samples in odd.items()]
    if lost:
        notes.append(
            f"{lost} of {regions} defective regions vanish as masks are shrunk to "
            f"{size[0]} x {size[1]}, and leave {blind} defective images without truth; "
            "the mvtec protocol measures at the size of the masks"
        )
    given = batch.left_out
    ignored = None if given is None else [given.pixels(mask.shape) for mask in masks]
    return pixel_metrics(masks, maps, protocol, ignored=ignored), notes


def _all_left_out(mask: _Bools, left_out: IgnoredRegions | None) -> bool:
    return left_out is not None and not (mask & ~left_out.pixels(mask.shape)).any()


def _enlarged(anomaly_map: NDArray[Any], size: tuple[int, ...]) -> NDArray[np.float32]:
    picture = Image.fromarray(np.asarray(anomaly_map, dtype=np.float32))
    return np.asarray(picture.resize((size[1], size[0]), Image.Resampling.BILINEAR))


def _lost_regions(mask: _Bools, size: tuple[int, ...]) -> tuple[int, int]:
    """How many regions a mask has, and how many of them nearest neighbours at `size` miss."""
    labels, count = ndimage.label(mask, structure=_EIGHT_NEIGHBOURS)
    numbers = Image.fromarray(labels.astype(np.int32))
    small = np.asarray(numbers.resize((size[1], size[0]), Image.Resampling.NEAREST))
    return int(count), int(count) - np.count_nonzero(np.unique(small))


def _named(samples: Sequence[Sample], text: str) -> str:
    more = f" and {len(samples) - 1} more" if len(samples) > 1 else ""
    return f"{samples[0].image}{more}: {text}"
