"""A model of the upper tail of normal image scores, with the margin that its error asks for.

A raw image score is a maximum, so normal scores are taken as draws from a generalised extreme value
distribution (Fisher and Tippett 1928; Coles 2001, "An Introduction to Statistical Modeling of
Extreme Values"), whose shape xi covers bounded tails (xi < 0), Gumbel's (0) and heavy ones. Few
scores do not tell the shape, so no single fit is taken: all distributions on a grid count by their
likelihood (location and log scale: flat prior; xi: Gaussian about 0, deviation 0.2), and what is
said of a score is the mean over them. That mean is above the chance under the best fit, the more so
the fewer the scores: the margin.

The highest scores, where they may be defects, count as "no lower than the others" alone, and the
lowest fifth, where copies of one image score near 0, as "no higher" (censored observations). Of
many scores only the 40 highest below those count by their value: by more of them the model would be
fitted to the body, and two in five Gaussian batches of 500 looked odd.

Where the patches' scores are known, an image's next peaks count, too: the r highest of independent
values have a joint density under the same distribution (r largest order statistics, Weissman 1978;
Coles 2001, section 3.5), and three peaks an image tell the tail better than one. Peaks of one image
are alike where images differ as wholes, so that what the next peaks tell counts half (a composite
likelihood; in full it would flag too many images of such batches).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

_Floats = npt.NDArray[np.float64]
# A spread below this share of the median score is rounding and compression noise, not evidence.
SPREAD_FLOOR = 0.01
_SHAPE_DEVIATION = 0.2
_SHAPES = np.linspace(-0.6, 0.6, 13)
_SHAPES[6] = 1e-6  # Gumbel's limit to ten digits, by the formula of the others
_LOCATIONS = np.linspace(-1.4, 1.4, 17)  # from the median, in spreads
_LOG_SCALES = np.linspace(-1.4, 1.4, 15)
_XI, _MU, _LOG_SIGMA = (
    axis.ravel() for axis in np.meshgrid(_SHAPES, _LOCATIONS, _LOG_SCALES, indexing="ij")
)
_SIGMA = np.exp(_LOG_SIGMA)
_LOG_PRIOR = -0.5 * (_XI / _SHAPE_DEVIATION) ** 2
_LEFT_OUT = 1e-7  # distributions whose weight is a smaller share of the greatest
_SMALLEST_STEP = 0.1  # of the distance between the lower quartile and the median
_MOST_SCORES = 40  # the highest, which count by their value: they tell the tail, not the body
_NEXT_PEAKS_COUNT = 0.5  # of the weight that independent peaks of an image would have
_IMPOSSIBLE = 1e6  # the negative log likelihood of a score outside of a distribution's range
_RULED_OUT = 16.0  # by which log weight the scores alone rule out a distribution


@dataclass(frozen=True)
class _Grid:
    """Distributions: shapes xi, locations mu and scales sigma [D], the latter two in spreads.

    middle, unit: the location that mu is from, and the spread.
    """

    middle: float
    unit: float
    xi: _Floats
    mu: _Floats
    sigma: _Floats

    @classmethod
    def around(cls, known: _Floats, highest: float) -> _Grid:
        """All that may have made `known` [n], ascending, of a batch that goes up to `highest`."""
        quarter, middle, three = np.quantile(known, [0.25, 0.5, 0.75])
        unit = max(
            float(three - quarter) / 1.35,
            0.5 * float(np.sqrt(np.mean((np.maximum(known, quarter) - middle) ** 2))),
            SPREAD_FLOOR * abs(float(middle)),
            1e-9 * highest,
        )
        return cls(float(middle), unit, _XI, _MU, _SIGMA)

    def of(self, kept: npt.NDArray[np.bool_]) -> _Grid:
        """Those of the distributions that are kept, by [D] truth values."""
        return replace(self, xi=self.xi[kept], mu=self.mu[kept], sigma=self.sigma[kept])

    def rate(self, scores: _Floats) -> tuple[_Floats, _Floats]:
        """-log P(score <= x) and the logarithm of its slope, [M, D] each.

        The log density is the second less the first.
        """
        z = ((scores[:, None] - self.middle) / self.unit - self.mu) / self.sigma
        # Outside of a distribution's range the floor makes the rate 0, or huge, and the density 0.
        log_base = np.log(np.maximum(1 + self.xi * z, 1e-300))
        rate = np.exp(np.minimum(log_base * (-1 / self.xi), 700))
        return rate, log_base * (-1 / self.xi - 1) - np.log(self.sigma)


class TailModel:
    """Distributions that may have made the scores, with their weights: see `fit_tails`."""

    def __init__(self, grid: _Grid, log_weight: _Floats) -> None:
        weight = np.exp(log_weight - log_weight.max())
        kept = weight > _LEFT_OUT
        self.weights = weight[kept] / weight[kept].sum()
        self._grid = grid.of(kept)

    def survivals(self, scores: _Floats) -> _Floats:
        """The chance of a normal score above each of `scores` [M] -> [M, distributions]."""
        chance: _Floats = -np.expm1(-self._grid.rate(scores)[0])
        return chance

    def survival(self, scores: _Floats) -> _Floats:
        """The mean of `survivals`, [M]."""
        mean: _Floats = self.survivals(scores) @ self.weights
        return mean

    def median_survival(self, scores: _Floats) -> _Floats:
        """The median of `survivals`: the chance is as likely below as above, [M]."""
        chances = self.survivals(scores)
        order = np.argsort(chances, axis=1)
        half = (np.cumsum(self.weights[order], axis=1) < 0.5).sum(axis=1)
        rows = np.arange(len(chances))
        median: _Floats = chances[rows, order[rows, np.minimum(half, order.shape[1] - 1)]]
        return median

    def level(self, chance: float) -> float:
        """The lowest score whose mean survival is at most `chance`."""
        low, high = self._grid.middle, self._grid.middle + self._grid.unit
        while self.survival(np.array([high]))[0] > chance:
            low, high = high, 2 * high - self._grid.middle
        for _ in range(60):
            middle = 0.5 * (low + high)
            if self.survival(np.array([middle]))[0] > chance:
                low = middle
            else:
                high = middle
        return high


def fit_tail(ordered: _Floats, suspects: int = 0, next_peaks: _Floats | None = None) -> TailModel:
    """The model of scores of which so many of the highest may be no normal ones; `fit_tails`."""
    return fit_tails(ordered, [suspects], next_peaks)[0]


def fit_tails(
    ordered: _Floats, suspects: Sequence[int], next_peaks: _Floats | None = None
) -> list[TailModel]:
    """The models for several numbers of suspects: so many of the highest may be no normal ones.

    ordered: [n] ascending scores, not all equal, n - suspects >= 3.
    next_peaks: [n, r], the peaks of the same images below their scores, descending, -inf where
        there are no more; None: unknown.
    """
    ends = [ordered.size - m for m in suspects]
    starts = [max(end // 5, end - _MOST_SCORES) for end in ends]
    first = min(starts)
    grid = _Grid.around(ordered[: min(ends)], float(ordered[-1]))
    rate, log_intensity = grid.rate(ordered[first : max(ends)])
    spans = [(start - first, end - first) for start, end in zip(starts, ends, strict=True)]
    weights = []
    sums = _sums(log_intensity - rate)
    for m, start, (low, high) in zip(suspects, starts, spans, strict=True):
        log_weight = _LOG_PRIOR + sums[high] - sums[low] - start * rate[low]
        if m:
            log_weight = log_weight + m * np.log(-np.expm1(-rate[high - 1]) + 1e-300)
        weights.append(log_weight)
    if next_peaks is None:
        return [TailModel(grid, log_weight) for log_weight in weights]
    possible = [log_weight > log_weight.max() - _RULED_OUT for log_weight in weights]
    any_ = np.logical_or.reduce(possible)
    grid, told = grid.of(any_), rate[:, any_]
    floor, lowest = ordered[first], ordered[first : max(ends)]
    for column in next_peaks[first : max(ends)].T:
        lowest = np.where(np.isneginf(column), lowest, np.maximum(column, floor))
        rate, log_intensity = grid.rate(lowest)
        told = told + np.where(column[:, None] > floor, log_intensity, 0.0)
    sums = _sums(_NEXT_PEAKS_COUNT * (told - rate))
    models = []
    for log_weight, own, (low, high) in zip(weights, possible, spans, strict=True):
        both = log_weight[any_] + sums[high] - sums[low]
        models.append(TailModel(grid, np.where(own[any_], both, -np.inf)))
    return models


def _sums(values: _Floats) -> _Floats:
    """The sums of the first 0, 1, ... rows of [n, D], [n + 1, D]."""
    bounded = np.maximum(values, -_IMPOSSIBLE)  # so that differences of the sums tell parts
    return np.concatenate([np.zeros((1, values.shape[1])), np.cumsum(bounded, axis=0)])


def standing_out(ordered: _Floats, next_peaks: _Floats | None = None) -> tuple[float, int]:
    """How far the highest scores stand apart from the tail of the others: p-value, their number.

    For each m up to a quarter of the scores: given the others, what is the chance that all of the m
    highest of as many normal scores lie as far above the rest as the m-th? It is the mean over the
    distributions of (S(m-th) / S(next lower))^m. The m with the least chance times m (m + 1) is
    taken: the weights 1 / (m (m + 1)) sum to 1 over all m, which pays for the choice.

    ordered: [n] ascending scores, n >= 5, not all equal.
    next_peaks: as of `fit_tails`.
    """
    best = (1.0, 1)
    quarter, half = np.quantile(ordered, [0.25, 0.5])
    # Over a smaller step no tail falls far enough for the m to be called apart.
    least = _SMALLEST_STEP * (half - quarter)
    sizes = _group_sizes(ordered.size // 4 or 1)
    sizes = [m for m in sizes if ordered[-m] - ordered[-m - 1] > least]
    if not sizes:
        return best
    for m, model in zip(sizes, fit_tails(ordered, sizes, next_peaks), strict=True):
        above, next_lower = model.survivals(ordered[[-m, -m - 1]])
        ratio = np.minimum(above / np.maximum(next_lower, 1e-300), 1.0)
        p_value = float((ratio**m) @ model.weights) * m * (m + 1)
        best = min(best, (p_value, m))
    return best


def _group_sizes(largest: int) -> list[int]:
    """Sizes of the upper group to test: all up to 12, then a choice."""
    sizes = set(range(1, min(largest, 12) + 1))
    if largest > 12:
        sizes |= {round(m) for m in np.geomspace(12, largest, 12)}
    return sorted(sizes)
