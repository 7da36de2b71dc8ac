"""Detection and segmentation metrics: AUROC, F1-max, AP and PRO.

Two protocols, which differ only in how PRO is computed:

- `"musc"`: as the official MuSc code evaluates (github.com/xrli-U/MuSc), so that figures compare
  with its tables. PRO is taken at about 200 equally spaced thresholds from the lowest to the
  highest score; a pixel is flagged if its score is strictly greater. Only thresholds with a false
  positive rate below 0.3 count; their rates are rescaled to [0, 1] by minimum and maximum, and the
  curve is integrated by trapezoids.
- `"mvtec"`: as MVTec AD defines PRO (Bergmann et al., IJCV 2021, section 5.1): every distinct score
  is a threshold, the curve is integrated over false positive rates from 0 to 0.3, interpolated
  linearly at 0.3, and divided by 0.3.

AUROC, F1-max and AP equal scikit-learn's `roc_auc_score`, maximum over `precision_recall_curve` and
`average_precision_score`, ties included. An undefined metric is NaN, with a reason (the official
code gives 0 for one class at image level).

At pixel level every map is read once. Only positive pixels need an identity (their region), so the
negatives are sorted as bare numbers and looked up by binary search: 200 maps of 518 x 518 take a
few seconds. Peak memory beyond the input is one copy of the maps and up to 80 bytes a positive
pixel.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from .errors import InputError

Protocol = Literal["musc", "mvtec"]
FPR_LIMIT = 0.3

_MUSC_STEPS = 200
_EIGHT_NEIGHBOURS = np.ones((3, 3), dtype=np.int8)
_Floats = npt.NDArray[np.floating[Any]]
_Float64s = npt.NDArray[np.float64]
_Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class ImageMetrics:
    """Image-level results; the metrics are in [0, 1], or NaN where undefined.

    auroc: area under the ROC curve.
    f1_max: best F1 over all thresholds.
    ap: average precision.
    threshold_at_f1_max: score from which on (>=) an image is flagged at `f1_max`; the highest such
        threshold if several are as good.
    reason: why values are NaN; None where no value is.
    """

    auroc: float
    f1_max: float
    ap: float
    threshold_at_f1_max: float
    reason: str | None = None


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


def image_metrics(
    labels: npt.ArrayLike, scores: npt.ArrayLike, protocol: Protocol = "musc"
) -> ImageMetrics:
    """Metrics of image scores against labels.

    labels: [N] bool or 0/1, True is defective.
    scores: [N] finite numbers, higher is more anomalous.
    protocol: "musc" or "mvtec"; no effect on the result, since the protocols differ in PRO only.
        `pixel_metrics` takes the same argument.

    Raises InputError where lengths differ, labels are not 0/1, a score is NaN or Inf, or the
    protocol is unknown.
    """
    _check_protocol(protocol)
    truth = _as_bools(labels, "labels")
    values = np.asarray(scores, dtype=np.float64)
    if truth.ndim != 1 or values.shape != truth.shape:
        raise InputError(
            f"labels and scores must both be [N], but are {list(truth.shape)} and "
            f"{list(values.shape)}"
        )
    if not np.isfinite(values).all():
        index = int(np.flatnonzero(~np.isfinite(values))[0])
        raise InputError(f"scores[{index}] is {values[index]}; scores must be finite")
    reason = _one_class(int(truth.sum()), int((~truth).sum()), "image")
    if reason is not None:
        return ImageMetrics(math.nan, math.nan, math.nan, math.nan, reason)
    from sklearn import metrics as sk  # here, since its import takes a second and more

    precision, recall, thresholds = sk.precision_recall_curve(truth, values)
    # The last point (precision 1, recall 0) has no threshold; its F1 is 0.
    f1 = _f1(precision[:-1], recall[:-1])
    best = len(f1) - 1 - int(np.argmax(f1[::-1]))
    return ImageMetrics(
        auroc=float(sk.roc_auc_score(truth, values)),
        f1_max=float(f1[best]),
        ap=float(sk.average_precision_score(truth, values)),
        threshold_at_f1_max=float(thresholds[best]),
    )


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
    protocol: "musc" or "mvtec", how PRO is computed; see the text of this module.
    pro: False leaves out PRO.
    ignored: a bool [h, w] for each image, True on pixels that no metric counts; None: all count.

    Raises InputError where numbers of images or sizes differ, a mask is not 0/1, a map holds NaN or
    Inf (the message names the image), or the protocol is unknown.
    """
    _check_protocol(protocol)
    pixels = _gather(_images(masks, "masks"), _images(maps, "maps"), ignored, regions=pro)
    reason = _one_class(pixels.positives.size, pixels.negatives.size, "pixel")
    if reason is not None:
        return PixelMetrics(math.nan, math.nan, math.nan, math.nan, math.nan, reason)
    steps = _count_steps(pixels)
    positives, negatives = pixels.positives.size, pixels.negatives.size
    # A tie between a positive and a negative counts one half.
    wins = int((steps.count * (2 * negatives - steps.fp_above - steps.fp)).sum())
    precision = steps.tp / (steps.tp + steps.fp)
    f1 = _f1(precision, steps.tp / positives)
    best = int(np.argmax(f1))
    pro_score, reason = math.nan, None
    if pro and protocol == "musc":
        pro_score, reason = _pro_musc(pixels)
    elif pro:
        pro_score = _pro_mvtec(pixels, steps)
    return PixelMetrics(
        auroc=wins / (2 * positives * negatives),
        f1_max=float(f1[best]),
        ap=float((steps.count * precision).sum()) / positives,
        pro=pro_score,
        threshold_at_f1_max=float(steps.value[best]),
        reason=reason,
    )


@dataclass(frozen=True)
class _Pixels:
    """All pixels of a set, by class.

    positives, negatives: scores of the defective and of all other pixels, ascending.
    weights: one a positive, 1 / (area of the pixel's region * number of regions): the sum over the
        flagged positives is the mean overlap of the regions. Empty where PRO is not asked for.
    """

    positives: _Floats
    negatives: _Floats
    weights: _Float64s


@dataclass(frozen=True)
class _Steps:
    """Counts of pixels at each distinct positive score, in descending order, as threshold.

    No other threshold matters: between two distinct positive scores, a lower threshold adds false
    positives only, which lowers precision and F1 and moves the ROC and PRO curves along a
    horizontal line.

    value: the threshold.
    count: positives equal to the threshold.
    tp, fp: positives and negatives >= the threshold.
    fp_above: negatives > the threshold.
    """

    value: _Floats
    count: npt.NDArray[np.int64]
    tp: npt.NDArray[np.int64]
    fp: npt.NDArray[np.int64]
    fp_above: npt.NDArray[np.int64]


def _gather(
    masks: Sequence[Any], maps: Sequence[Any], ignored: Sequence[Any] | None, regions: bool
) -> _Pixels:
    """All pixels by class; `regions` asks for the weights."""
    if len(masks) != len(maps):
        raise InputError(f"{len(masks)} masks for {len(maps)} maps; there must be one for each")
    positives: list[_Floats] = []
    labels: list[npt.NDArray[np.int64]] = []
    areas: list[npt.NDArray[np.int64]] = []
    region_count = 0
    pairs = [
        _pair(mask, values, index)
        for index, (mask, values) in enumerate(zip(masks, maps, strict=True))
    ]
    dtype = np.result_type(np.float32, *(values.dtype for _, values in pairs))
    left_out: list[_Bools | None] = [None] * len(pairs)
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
        return _Pixels(scores, negatives, np.empty(0))
    order = np.argsort(scores)
    weights = np.divide(1.0, np.concatenate(areas) * float(region_count), dtype=np.float64)
    return _Pixels(scores[order], negatives, weights[np.concatenate(labels)[order]])


def _count_steps(pixels: _Pixels) -> _Steps:
    scores, negatives = pixels.positives, pixels.negatives
    starts = np.flatnonzero(np.r_[True, scores[1:] != scores[:-1]])
    value = scores[starts]
    tp = scores.size - starts
    count = np.diff(starts, append=scores.size)
    return _Steps(
        value=value[::-1],
        count=count[::-1],
        tp=tp[::-1],
        fp=negatives.size - np.searchsorted(negatives, value[::-1], side="left"),
        fp_above=negatives.size - np.searchsorted(negatives, value[::-1], side="right"),
    )


def _pro_musc(pixels: _Pixels) -> tuple[float, str | None]:
    scores, negatives = pixels.positives, pixels.negatives
    lowest = float(min(scores[0], negatives[0]))
    highest = float(max(scores[-1], negatives[-1]))
    if lowest == highest:
        return math.nan, "PRO: all pixels have the same score"
    # By rounding, arange may yield one threshold more than _MUSC_STEPS, as in the official code.
    thresholds = _floor(np.arange(lowest, highest, (highest - lowest) / _MUSC_STEPS), scores.dtype)
    flagged = np.append(np.cumsum(pixels.weights[::-1])[::-1], 0.0)
    overlap = flagged[np.searchsorted(scores, thresholds, side="right")]
    above = negatives.size - np.searchsorted(negatives, thresholds, side="right")
    rate = above / negatives.size
    low = rate < FPR_LIMIT
    rate, overlap = rate[low], overlap[low]
    if rate.size < 2 or rate.min() == rate.max():
        return math.nan, (
            f"PRO: fewer than two false positive rates below {FPR_LIMIT} at the protocol's "
            f"{_MUSC_STEPS} thresholds"
        )
    from sklearn.metrics import auc

    rate = (rate - rate.min()) / (rate.max() - rate.min())
    return min(1.0, float(auc(rate, overlap))), None


def _pro_mvtec(pixels: _Pixels, steps: _Steps) -> float:
    reached = np.cumsum(pixels.weights[::-1])[steps.tp - 1]
    # Two points of the curve a step: with the false positives above the step, and with the step.
    rate = np.empty(2 * steps.tp.size + 2)
    overlap = np.empty_like(rate)
    rate[0], rate[-1] = 0.0, 1.0
    overlap[0], overlap[-1] = 0.0, 1.0
    rate[1:-1:2], rate[2:-1:2] = steps.fp_above, steps.fp
    rate[1:-1] /= pixels.negatives.size
    overlap[1], overlap[3:-1:2], overlap[2:-1:2] = 0.0, reached[:-1], reached
    inside = int(np.searchsorted(rate, FPR_LIMIT, side="right"))
    at_limit = np.interp(FPR_LIMIT, rate[inside - 1 : inside + 1], overlap[inside - 1 : inside + 1])
    x, y = np.append(rate[:inside], FPR_LIMIT), np.append(overlap[:inside], at_limit)
    # Rounding may lift the area under a perfect curve above 1.
    return min(1.0, float((np.diff(x) * (y[1:] + y[:-1])).sum() / 2 / FPR_LIMIT))


def _floor(values: _Float64s, dtype: np.dtype[Any]) -> _Floats:
    """The largest numbers of `dtype` not above `values`.

    A score of type `dtype` exceeds a value if and only if the score exceeds the value's floor.
    Searching for the floors saves a copy of the scores in float64.
    """
    nearest = values.astype(dtype)
    return np.where(nearest > values, np.nextafter(nearest, dtype.type(-np.inf)), nearest)


def _f1(precision: _Float64s, recall: _Float64s) -> _Float64s:
    """F1 at each threshold; 0 where both are 0."""
    total = precision + recall
    return np.divide(2 * precision * recall, total, out=np.zeros_like(total), where=total > 0)


def _one_class(positives: int, negatives: int, unit: str) -> str | None:
    """Why the metrics are undefined; None where both classes are present."""
    if positives == 0 and negatives == 0:
        return f"no {unit}s"
    if positives == 0:
        return f"no defective {unit}"
    return f"every {unit} is defective" if negatives == 0 else None


def _check_protocol(protocol: str) -> None:
    if protocol not in ("musc", "mvtec"):
        raise InputError(f'protocol must be "musc" or "mvtec", but is {protocol!r}')


def _images(arrays: Any, name: str) -> Sequence[Any]:
    """One entry an image: `arrays` itself if a list or tuple, else an array over its first axis."""
    if isinstance(arrays, (list, tuple)):
        return arrays
    array = np.asarray(arrays)
    if array.ndim != 3:
        raise InputError(f"{name} must be [N, h, w] or a list of [h, w], but is {_shape(array)}")
    return array  # type: ignore[return-value]


def _pair(mask: Any, values: Any, index: int) -> tuple[_Bools, _Floats]:
    """Mask and map of image `index` as arrays, checked."""
    truth = _as_bools(mask, f"masks[{index}]")
    scores = np.asarray(values)
    if scores.dtype.kind != "f":
        scores = scores.astype(np.float64)
    if truth.ndim != 2 or truth.shape != scores.shape:
        raise InputError(
            f"image {index}: mask and map must have the same size [h, w], but are "
            f"{_shape(truth)} and {_shape(scores)}"
        )
    if not np.isfinite(scores).all():
        raise InputError(f"image {index}: its anomaly map holds NaN or Inf")
    return truth, scores


def _as_bools(values: Any, name: str) -> _Bools:
    array = np.asarray(values)
    if array.dtype != np.bool_ and array.size and not ((array == 0) | (array == 1)).all():
        raise InputError(f"{name} must be bool or 0/1 (threshold it first)")
    return array.astype(np.bool_, copy=False)


def _shape(array: npt.NDArray[Any]) -> str:
    return str(list(array.shape))
