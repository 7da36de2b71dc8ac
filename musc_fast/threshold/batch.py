"""A threshold on image scores without labels: which images of a batch stand apart?

Two rules, "split" and "gap", compare the batch with simulated batches of the same number of images
in which nothing stands apart. Normal scores have no fixed distribution: on public test data it is
Gaussian (metal plates) to exponential (commutators, whose best 50 of 60 images lie between 0.25 and
0.44 and the other ten up to 0.74). So three shapes are simulated, Gaussian, Gumbel (a raw score is
a maximum) and exponential, and the batch must look odd under all three. The statistics do not
depend on location and scale; only the default rule and `ALPHA` were chosen with data sets in view.

- `"split"` (default): the sorted scores are cut at every rank into a lower and an upper group. The
  distance between the groups' means is measured in two units: the pooled standard deviation (finds
  groups of like spread) and the lower group's standard deviation (finds defects that differ among
  themselves). Both are compared with their values at that rank in the simulated batches. Where the
  largest excess is significant, the batch is cut by Otsu's criterion (Otsu 1979, "A threshold
  selection method from gray-level histograms") on the logarithm of the scores.
- `"gap"`: as "split", but with one statistic, the step between neighbouring scores over the lower
  group's standard deviation; the batch is cut at the step with the largest excess.
- `"mad"`: the textbook's robust outlier rule. The threshold is the median plus k spreads, where the
  spread is the median distance of the lower half from the median, and k is such that a Gaussian
  batch has a score above the threshold with chance alpha.

Why "split" is the default (benchmarks/thresholds.py, results/thresholds.json; metal plates,
commutators and drawn parts, called sample; two backbones, 1 to 10 draws a kind; F1, or batches
flagged at all; the best cut knows the labels; both are plates and sample):

    batch                    best cut      split         gap           mad
    all-normal, flagged      0 of 120      7             6             48
    metal plates, 80 with 40 0.95 to 0.96  0.95 to 0.96  0.00          0.00
    sample, 84 with 24       0.91 to 0.93  0.80 to 0.93  0.82 to 0.93  0.86 to 0.88
    both, 40 with 2          1.00          0.80 to 0.87  0.67 to 0.80  0.70 to 1.00
    both, 20 with 1          0.83 to 1.00  0.00 to 0.40  0.00 to 0.40  0.40 to 0.80
    commutators, any defects 0.48 to 0.75  0.00          0.00          0.04 to 0.40

Only "split" keeps its false alarms near alpha and finds defects up to half a batch. The price: in
small batches "split" misses defects that labels would separate. Where the scores of normal and
defective images overlap, as those of the commutators do, no defect stands apart and "split" flags
none; "mad" flags some there, because "mad" flags normal batches too.

At most half of a batch is flagged. Limits of every rule that sees scores alone: normal images in
two groups (two products, two poses), or with evenly spread scores, look like normal and defective
images; a single defect among few images is not found where its score is no higher than an
exponential tail reaches.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
import numpy.typing as npt

from ..errors import InputError
from .result import Threshold, verdicts_of

Rule = Literal["split", "gap", "mad"]
RULES: tuple[Rule, ...] = ("split", "gap", "mad")
ALPHA = 0.1
MIN_IMAGES = 5

# A spread below this share of the median score is rounding and compression noise, not evidence.
_SPREAD_FLOOR = 0.01
_SIMULATED_SCORES = 2_000_000  # most scores a shape, but never under 199 batches
_MOST_CUTS = 1000  # ranks tested in a large batch
_Floats = npt.NDArray[np.float64]
_Sizes = npt.NDArray[np.int64]


def find_threshold(
    scores: npt.ArrayLike,
    *,
    rule: Rule = "split",
    alpha: float = ALPHA,
    value: float | None = None,
    expected_defect_rate: float | None = None,
) -> Threshold:
    """Decide which images of a batch to flag. Deterministic; needs no labels.

    scores: [N] raw image scores, distances, before RsCIN, whose rescaling hides whether any score
        stands out.
    rule: "split", "gap" or "mad"; see the text of this module.
    alpha: how often an all-normal batch may be flagged under the worst of the simulated shapes, in
        (0, 0.5].
    value: flag scores >= this value, instead of using a rule.
    expected_defect_rate: in [0, 1]; flag this share of the batch with the highest scores, rounded
        to whole images, instead of using a rule.

    Raises InputError where scores are not [N], not finite or negative, an option is out of range,
    or both `value` and `expected_defect_rate` are given.
    """
    x = np.asarray(scores, dtype=np.float64)
    _check(x, rule, alpha, value, expected_defect_rate)
    if value is not None:
        flagged = x >= value
        return Threshold(
            float(value),
            "value",
            verdicts_of(flagged),
            f"{int(flagged.sum())} of {x.size} images score {value:g} or more, the threshold given",
        )
    if expected_defect_rate is not None:
        return _flag_share(x, expected_defect_rate)
    if x.size < MIN_IMAGES:
        return _flag_none(
            x, rule, f"none flagged: {x.size} images are too few to tell (at least {MIN_IMAGES})"
        )
    ordered = np.sort(x)
    if ordered[0] == ordered[-1]:
        return _flag_none(x, rule, "none flagged: all scores are equal")
    cut, p_value = _mad_cut(ordered, alpha) if rule == "mad" else _best_cut(ordered, rule)
    odds = f"p = {p_value:.2g}: {1000 * p_value:.0f} in 1000 all-normal batches look like this"
    if cut is None or p_value > alpha:
        return _flag_none(x, rule, f"none flagged: no image stands apart ({odds})", p_value)
    flagged = x >= cut
    count = int(flagged.sum())
    verb = "stands" if count == 1 else "stand"
    return Threshold(
        cut,
        rule,
        verdicts_of(flagged),
        f"{count} of {x.size} images {verb} apart from the others ({odds})",
        p_value,
    )


def _best_cut(ordered: _Floats, rule: str) -> tuple[float | None, float]:
    """Best cut of ascending scores and its p-value; no cut where equal scores leave none."""
    lower = _lower_sizes(ordered.size)
    floor = _SPREAD_FLOOR * abs(float(np.median(ordered)))
    raised = _raise_low_outliers(ordered[None])
    observed = _STATISTICS[rule](raised, lower, floor)
    tied = ordered[lower] == ordered[lower - 1]  # equal scores stay together
    null = _null_distribution(rule, ordered.size)
    excess = np.where(
        np.tile(tied, observed.shape[1] // lower.size),
        -np.inf,
        _excess(observed, null.middles, null.widths),
    )
    p_value = max(_p_value(highest, float(excess.max())) for highest in null.highest)
    if tied.all():
        return None, p_value
    best = int(lower[excess[0].argmax()]) if rule == "gap" else _otsu(raised[0])
    return _level_between(float(ordered[best - 1]), float(ordered[best])), p_value


def _otsu(ordered: _Floats) -> int:
    """Size of the lower group that leaves the least variance of the logarithm within groups."""
    # Without a floor, the logarithm of a score near 0 would outweigh the defects.
    floor = max(0.1 * float(np.median(ordered)), 1e-6 * float(ordered[-1]))
    lower = np.arange(_smallest_lower(ordered.size), ordered.size)
    _, _, low, high = _moments(np.log(np.maximum(ordered, floor))[None], lower)
    within = np.where(ordered[lower] == ordered[lower - 1], np.inf, (low + high)[0])
    return int(lower[within.argmin()])


def _mad_cut(ordered: _Floats, alpha: float) -> tuple[float | None, float]:
    """For "mad": the lowest score more than k spreads above the median, None if none; p-value."""
    middle, spread = _median_and_spread(ordered[None])
    centre, scale = float(middle[0]), max(float(spread[0]), _SPREAD_FLOOR * abs(float(middle[0])))
    highest = _gaussian_maxima(ordered.size)
    observed = (ordered[-1] - centre) / scale if scale > 0 else math.inf
    # A score more than k spreads above the median has a p-value of at most alpha.
    k = float(highest[-max(1, math.floor(alpha * (highest.size + 1)))])
    above = ordered[ordered > max(centre + k * scale, centre)]
    return (float(above[0]) if above.size else None), _p_value(highest, float(observed))


def _raise_low_outliers(x: _Floats) -> _Floats:
    """Ascending scores [B, N], with low outliers raised to four spreads below the median.

    Copies of one image score near 0; their distance from the median must not hide a defect's.
    """
    middle, spread = _median_and_spread(x)
    lowest = np.where(spread > 0, middle - 4 * spread, x[:, 0])
    return np.maximum(x, lowest[:, None])


def _smallest_lower(count: int) -> int:
    """Least size of the lower group: half of the batch, and two, which a spread needs."""
    return max(2, count - count // 2)


def _lower_sizes(count: int) -> _Sizes:
    """Sizes of the lower group to test: all; of a large batch a choice, denser towards the top."""
    largest_upper = count - _smallest_lower(count)
    upper = np.arange(1, largest_upper + 1)
    if largest_upper > _MOST_CUTS:
        upper = np.unique(np.geomspace(1, largest_upper, _MOST_CUTS).round().astype(np.int64))
    sizes: _Sizes = count - upper[::-1]
    return sizes


def _moments(x: _Floats, lower: _Sizes) -> tuple[_Floats, _Floats, _Floats, _Floats]:
    """Means of the lower and upper group, then their sums of squared deviations; [B, cuts] each.

    x: [B, N] ascending scores.
    lower: [cuts] sizes of the lower group.
    """
    count = x.shape[1]
    # Centred, so that the differences of squares below do not cancel.
    centred = x - x.mean(axis=1, keepdims=True)
    sums, squares = np.cumsum(centred, axis=1), np.cumsum(centred**2, axis=1)
    low = sums[:, lower - 1] / lower
    high = (sums[:, -1:] - sums[:, lower - 1]) / (count - lower)
    low_dev = squares[:, lower - 1] - lower * low**2
    high_dev = squares[:, -1:] - squares[:, lower - 1] - (count - lower) * high**2
    return low, high, np.maximum(low_dev, 0), np.maximum(high_dev, 0)


def _split_statistics(x: _Floats, lower: _Sizes, floor: float = 0.0) -> _Floats:
    """Difference of the means over the pooled and over the lower deviation, [B, 2 cuts]."""
    low, high, low_dev, high_dev = _moments(x, lower)
    pooled, low_std = np.sqrt((low_dev + high_dev) / (x.shape[1] - 1)), np.sqrt(low_dev / lower)
    return np.concatenate([_ratio(high - low, each, floor) for each in (pooled, low_std)], axis=1)


def _gap_statistic(x: _Floats, lower: _Sizes, floor: float = 0.0) -> _Floats:
    """(lowest of upper - highest of lower group) / deviation of the lower, [B, cuts]."""
    _, _, low_dev, _ = _moments(x, lower)
    return _ratio(x[:, lower] - x[:, lower - 1], np.sqrt(low_dev / lower), floor)


_STATISTICS: dict[str, Callable[..., _Floats]] = {"split": _split_statistics, "gap": _gap_statistic}


def _ratio(difference: _Floats, spread: _Floats, floor: float) -> _Floats:
    # The spread of a constant group is 0, and so is the floor of a batch with median 0.
    ratio: _Floats = difference / np.maximum(spread, max(floor, 1e-100))
    return ratio


_SHAPES: dict[str, Callable[[np.random.Generator, tuple[int, int]], _Floats]] = {
    "normal": lambda rng, size: rng.standard_normal(size),
    "gumbel": lambda rng, size: rng.gumbel(size=size),
    "exponential": lambda rng, size: rng.exponential(size=size),
}


def _simulate(shape: str, count: int, statistic: Callable[[_Floats], _Floats]) -> _Floats:
    """The statistic [draws, M] of simulated normal batches; the same for the same count."""
    draws = min(999, max(199, _SIMULATED_SCORES // count))
    rows = max(1, _SIMULATED_SCORES // count)
    rng = np.random.default_rng([count, list(_SHAPES).index(shape)])
    parts = []
    for start in range(0, draws, rows):  # a part at a time, to bound the memory
        x = _SHAPES[shape](rng, (min(rows, draws - start), count))
        x.sort(axis=1)
        parts.append(statistic(x))
    return np.concatenate(parts)


@dataclass(frozen=True)
class _NullDistribution:
    """A rule's M statistics in simulated normal batches; one entry a shape in each list.

    middles: [M] medians.
    widths: [M] distances from the median to the 95% point.
    highest: [draws] the largest `_excess` of each simulated batch, ascending.
    """

    middles: list[_Floats]
    widths: list[_Floats]
    highest: list[_Floats]


def _excess(statistics: _Floats, middles: list[_Floats], widths: list[_Floats]) -> _Floats:
    """How far statistics [B, M] exceed the simulated medians, in units of `widths`.

    Of the shapes, the one with the smallest excess counts: it explains the statistic best.
    """
    pairs = zip(middles, widths, strict=True)
    least: _Floats = np.minimum.reduce([(statistics - m) / width for m, width in pairs])
    return least


@lru_cache(maxsize=32)
def _null_distribution(rule: str, count: int) -> _NullDistribution:
    """Simulate normal batches of `count` images for a rule."""
    lower = _lower_sizes(count)
    statistic = _STATISTICS[rule]
    simulated = [
        _simulate(shape, count, lambda x: statistic(_raise_low_outliers(x), lower))
        for shape in _SHAPES
    ]
    middles = [np.median(each, axis=0) for each in simulated]
    widths = [np.quantile(s, 0.95, axis=0) - m for s, m in zip(simulated, middles, strict=True)]
    highest = [np.sort(_excess(each, middles, widths).max(axis=1)) for each in simulated]
    return _NullDistribution(middles, widths, highest)


@lru_cache(maxsize=32)
def _gaussian_maxima(count: int) -> _Floats:
    """(highest score - median) / spread of each simulated Gaussian batch, ascending."""

    def spreads_above(x: _Floats) -> _Floats:
        middle, spread = _median_and_spread(x)
        ratio: _Floats = (x[:, -1] - middle) / spread
        return ratio

    return np.sort(_simulate("normal", count, spreads_above))


def _median_and_spread(x: _Floats) -> tuple[_Floats, _Floats]:
    """Median [B] and the lower half's median distance [B] from the median; x [B, N] ascending."""
    middle: _Floats = np.median(x, axis=1)
    spread: _Floats = np.median(middle[:, None] - x[:, : (x.shape[1] + 1) // 2], axis=1)
    return middle, spread


def _p_value(highest: _Floats, observed: float) -> float:
    """Share of the batches, the observed one and the simulated ones, that reach `observed`.

    highest: [draws] ascending, of the simulated batches.
    """
    reaching = highest.size - int(np.searchsorted(highest, observed, side="left"))
    return (reaching + 1) / (highest.size + 1)


def _level_between(below: float, above: float) -> float:
    """The mean of two scores, or `above` where rounding leaves no number between them."""
    middle = below + (above - below) / 2
    return middle if below < middle <= above else above


def _flag_share(x: _Floats, rate: float) -> Threshold:
    count = int(rate * x.size + 0.5)
    name = "expected_defect_rate"
    if count == 0:
        return _flag_none(
            x, name, f"none flagged: {rate:g} of {x.size} images is less than half of one"
        )
    ordered = np.sort(x)[::-1]
    lowest = float(ordered[count - 1])
    cut = _level_between(float(ordered[count]), lowest) if count < x.size else lowest
    flagged = x >= cut
    return Threshold(
        cut,
        name,
        verdicts_of(flagged),
        f"the {int(flagged.sum())} highest of {x.size} images, by an expected defect rate of "
        f"{rate:g}",
    )


def _flag_none(x: _Floats, rule: str, reason: str, p_value: float | None = None) -> Threshold:
    return Threshold(None, rule, verdicts_of(np.zeros(x.shape, dtype=np.bool_)), reason, p_value)


def _check(
    x: _Floats,
    rule: str,
    alpha: float,
    value: float | None,
    expected_defect_rate: float | None,
) -> None:
    if x.ndim != 1 or x.size == 0:
        raise InputError(f"scores must be [N] with N > 0, but are {list(x.shape)}")
    if not np.isfinite(x).all():
        index = int(np.flatnonzero(~np.isfinite(x))[0])
        raise InputError(f"scores[{index}] is {x[index]}; scores must be finite")
    if x.min() < 0:
        index = int(x.argmin())
        raise InputError(f"scores[{index}] is {x[index]:g}; raw image scores are 0 or more")
    if rule not in RULES:
        raise InputError(f"unknown rule {rule!r}; known are {', '.join(RULES)}")
    if not 0 < alpha <= 0.5:
        raise InputError(f"alpha must be in (0, 0.5], but is {alpha}")
    if value is not None and expected_defect_rate is not None:
        raise InputError("give a threshold or an expected defect rate, not both")
    if value is not None and not value >= 0:
        raise InputError(f"threshold: found {value}, wanted a distance, 0 or more")
    if expected_defect_rate is not None and not 0 <= expected_defect_rate <= 1:
        raise InputError(f"expected defect rate: found {expected_defect_rate}, wanted 0 to 1")
