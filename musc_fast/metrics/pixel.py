"""Metrics of anomaly maps.

Every map is read once. Only positive pixels need an identity (their region), so the negatives are
sorted as bare numbers and looked up by binary search: 200 maps of 518 x 518 take a few seconds.
Peak memory beyond the input is one copy of the maps and up to 80 bytes a positive pixel.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from ..errors import InputError
from .checks import (
    Bools,
    Floats,
    Protocol,
    as_bools,
    check_protocol,
    f1,
    one_class,
    shape_text,
)
from .pro import Pixels, Steps, pro_musc, pro_mvtec

_EIGHT_NEIGHBOURS = np.ones((3, 3), dtype=np.int8)


@dataclass(frozen=True)
class PixelMetrics:
    """Pixel-level results over all pixels of all images.

    auroc, f1_max, ap, threshold_at_f1_max, reason: as in `ImageMetrics`, of pixels.
    pro: per-region overlap, averaged over all connected defect regions (8 neighbours) of the set
        and integrated over the false positive rate; NaN without a reason if not asked for.
    """

    auroc: float
    f1_max: float
    ap: float
    pro: float
    threshold_at_f1_max: float
    reason: str | None = None


def pixel_metrics(
    masks: npt.ArrayLike | Sequence[npt.ArrayLike],
    maps: npt.ArrayLike | Sequence[npt.ArrayLike],
    protocol: Protocol = "musc",
    pro: bool = True,
    ignored: Sequence[npt.ArrayLike] | None = None,
) -> PixelMetrics:
    """Metrics of anomaly maps against masks, over all pixels of all images.

    masks: [N, h, w] bool or 0/1, True on the defect; all False for an image without a defect. Or a
        sequence of N arrays [h, w] whose size differs by image.
    maps: [N, h, w] finite real numbers, or a sequence as for `masks`.
    protocol: "musc" or "mvtec", how PRO is computed; see the text of `musc_fast.metrics`.
    pro: False leaves out PRO.
    ignored: a bool [h, w] for each image, True on pixels that no metric counts; None: all count.

    Raises InputError where numbers of images or sizes differ, a mask is not 0/1, a map holds NaN or
    Inf (the message names the image), or the protocol is unknown.
    """
    check_protocol(protocol)
    pixels = _gather(_images(masks, "masks"), _images(maps, "maps"), ignored, regions=pro)
    reason = one_class(pixels.positives.size, pixels.negatives.size, "pixel")
    if reason is not None:
        return PixelMetrics(math.nan, math.nan, math.nan, math.nan, math.nan, reason)
    steps = _count_steps(pixels)
    positives, negatives = pixels.positives.size, pixels.negatives.size
    # A tie between a positive and a negative counts one half.
    wins = int((steps.count * (2 * negatives - steps.fp_above - steps.fp)).sum())
    precision = steps.tp / (steps.tp + steps.fp)
    values = f1(precision, steps.tp / positives)
    best = int(np.argmax(values))
    pro_score, reason = math.nan, None
    if pro and protocol == "musc":
        pro_score, reason = pro_musc(pixels)
    elif pro:
        pro_score = pro_mvtec(pixels, steps)
    return PixelMetrics(
        auroc=wins / (2 * positives * negatives),
        f1_max=float(values[best]),
        ap=float((steps.count * precision).sum()) / positives,
        pro=pro_score,
        threshold_at_f1_max=float(steps.value[best]),
        reason=reason,
    )


def _gather(
    masks: Sequence[Any], maps: Sequence[Any], ignored: Sequence[Any] | None, regions: bool
) -> Pixels:
    """All pixels by class; `regions` asks for the weights."""
    if len(masks) != len(maps):
        raise InputError(f"{len(masks)} masks for {len(maps)} maps; there must be one for each")
    positives: list[Floats] = []
    labels: list[npt.NDArray[np.int64]] = []
    areas: list[npt.NDArray[np.int64]] = []
    region_count = 0
    pairs = [
        _pair(mask, values, index)
        for index, (mask, values) in enumerate(zip(masks, maps, strict=True))
    ]
    dtype = np.result_type(np.float32, *(values.dtype for _, values in pairs))
    left_out: list[Bools | None] = [None] * len(pairs)
    if ignored is not None:
        left_out = [
            _pair(each, values, index)[0]
            for index, (each, (_, values)) in enumerate(zip(ignored, pairs, strict=True))
        ]
    pairs = [
        (mask if out is None else mask & ~out, values)
        for (mask, values), out in zip(pairs, left_out, strict=True)
    ]
    # Written image by image, since `np.concatenate` would hold all pixels twice.
    others = sum(
        values.size - int(mask.sum()) - (0 if out is None else int(out.sum()))
        for (mask, values), out in zip(pairs, left_out, strict=True)
    )
    negatives = np.empty(others, dtype=dtype)
    start = 0
    for (mask, values), out in zip(pairs, left_out, strict=True):
        if mask.any():
            positives.append(values[mask].astype(dtype, copy=False))
            if regions:
                region, count = ndimage.label(mask, structure=_EIGHT_NEIGHBOURS)
                labels.append(region[mask].astype(np.int64) - 1 + region_count)
                areas.append(np.bincount(region[mask], minlength=count + 1)[1:])
                region_count += count
        if out is not None or mask.any():
            values = values[~mask if out is None else ~(mask | out)]
        negatives[start : start + values.size] = values.ravel()
        start += values.size
    negatives.sort()
    scores = np.concatenate(positives) if positives else np.empty(0, dtype=dtype)
    if not regions or not positives:
        scores.sort()
        return Pixels(scores, negatives, np.empty(0))
    order = np.argsort(scores)
    weights = np.divide(1.0, np.concatenate(areas) * float(region_count), dtype=np.float64)
    return Pixels(scores[order], negatives, weights[np.concatenate(labels)[order]])


def _count_steps(pixels: Pixels) -> Steps:
    scores, negatives = pixels.positives, pixels.negatives
    starts = np.flatnonzero(np.r_[True, scores[1:] != scores[:-1]])
    value = scores[starts]
    tp = scores.size - starts
    count = np.diff(starts, append=scores.size)
    return Steps(
        value=value[::-1],
        count=count[::-1],
        tp=tp[::-1],
        fp=negatives.size - np.searchsorted(negatives, value[::-1], side="left"),
        fp_above=negatives.size - np.searchsorted(negatives, value[::-1], side="right"),
    )


def _images(arrays: Any, name: str) -> Sequence[Any]:
    """One entry an image: `arrays` itself if a list or tuple, else an array over its first axis."""
    if isinstance(arrays, (list, tuple)):
        return arrays
    array = np.asarray(arrays)
    if array.ndim != 3:
        raise InputError(
            f"{name} must be [N, h, w] or a list of [h, w], but is {shape_text(array)}"
        )
    return array  # type: ignore[return-value]


def _pair(mask: Any, values: Any, index: int) -> tuple[Bools, Floats]:
    """Mask and map of image `index` as arrays, checked."""
    truth = as_bools(mask, f"masks[{index}]")
    scores = np.asarray(values)
    if scores.dtype.kind != "f":
        scores = scores.astype(np.float64)
    if truth.ndim != 2 or truth.shape != scores.shape:
        raise InputError(
            f"image {index}: mask and map must have the same size [h, w], but are "
            f"{shape_text(truth)} and {shape_text(scores)}"
        )
    if not np.isfinite(scores).all():
        raise InputError(f"image {index}: its anomaly map holds NaN or Inf")
    return truth, scores
