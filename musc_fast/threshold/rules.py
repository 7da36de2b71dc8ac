"""The rules "split", "gap" and "mad": the best cut of a batch's scores, with its p-value.

"split" and "gap" compare the batch with simulated batches of the same number of images in which
nothing stands apart; see `batch.py` for what they measure and how well.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from .tail import SPREAD_FLOOR

_SIMULATED_SCORES = 2_000_000  # most scores a shape, but never under 199 batches
_MOST_CUTS = 1000  # ranks tested in a large batch
_Floats = npt.NDArray[np.float64]
_Sizes = npt.NDArray[np.int64]


def best_cut(ordered: _Floats, rule: str) -> tuple[float | None, float]:
    """Best cut of ascending scores and its p-value; no cut where equal scores leave none."""
    lower = _lower_sizes(ordered.size)
    floor = SPREAD_FLOOR * abs(float(np.median(ordered)))
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
    return level_between(float(ordered[best - 1]), float(ordered[best])), p_value


def _otsu(ordered: _Floats) -> int:
    """Size of the lower group that leaves the least variance of the logarithm within groups."""
    # Without a floor, the logarithm of a score near 0 would outweigh the defects.
    floor = max(0.1 * float(np.median(ordered)), 1e-6 * float(ordered[-1]))
    lower = np.arange(_smallest_lower(ordered.size), ordered.size)
    _, _, low, high = _moments(np.log(np.maximum(ordered, floor))[None], lower)
    within = np.where(ordered[lower] == ordered[lower - 1], np.inf, (low + high)[0])
    return int(lower[within.argmin()])


def mad_cut(ordered: _Floats, alpha: float) -> tuple[float | None, float]:
    """For "mad": the lowest score more than k spreads above the median, None if none; p-value."""
    middle, spread = _median_and_spread(ordered[None])
    centre, scale = float(middle[0]), max(float(spread[0]), SPREAD_FLOOR * abs(float(middle[0])))
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


def level_between(below: float, above: float) -> float:
    """The mean of two scores, or `above` where rounding leaves no number between them."""
    middle = below + (above - below) / 2
    return middle if below < middle <= above else above
