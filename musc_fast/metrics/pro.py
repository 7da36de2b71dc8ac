"""PRO, the per-region overlap, by both protocols."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .checks import Float64s, Floats

FPR_LIMIT = 0.3
_MUSC_STEPS = 200


@dataclass(frozen=True)
class Pixels:
    """All pixels of a set, by class.

    positives, negatives: scores of the defective and of all other pixels, ascending.
    weights: one a positive, 1 / (area of the pixel's region * number of regions): the sum over the
        flagged positives is the mean overlap of the regions. Empty where PRO is not asked for.
    """

    positives: Floats
    negatives: Floats
    weights: Float64s


@dataclass(frozen=True)
class Steps:
    """Counts of pixels at each distinct positive score, in descending order, as threshold.

    No other threshold matters: between two distinct positive scores, a lower threshold adds false
    positives only, which lowers precision and F1 and moves the ROC and PRO curves along a
    horizontal line.

    value: the threshold.
    count: positives equal to the threshold.
    tp, fp: positives and negatives >= the threshold.
    fp_above: negatives > the threshold.
    """

    value: Floats
    count: npt.NDArray[np.int64]
    tp: npt.NDArray[np.int64]
    fp: npt.NDArray[np.int64]
    fp_above: npt.NDArray[np.int64]


def pro_musc(pixels: Pixels) -> tuple[float, str | None]:
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


def pro_mvtec(pixels: Pixels, steps: Steps) -> float:
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


def _floor(values: Float64s, dtype: np.dtype[Any]) -> Floats:
    """The largest numbers of `dtype` not above `values`.

    A score of type `dtype` exceeds a value if and only if the score exceeds the value's floor.
    Searching for the floors saves a copy of the scores in float64.
    """
    nearest = values.astype(dtype)
    return np.where(nearest > values, np.nextafter(nearest, dtype.type(-np.inf)), nearest)
