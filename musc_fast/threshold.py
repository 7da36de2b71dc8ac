"""A threshold on image scores without labels: which images of a batch stand apart?

The rules compare a batch with simulated batches of the same size in which nothing stands apart; a
statistic that does not depend on location and scale has one distribution there, so no constant was
fitted to any data set.

- `"shorth"`: the shortest half of the scores gives location and scale (Rousseeuw and Leroy 1988),
  which defects cannot touch while they are under half; an image is flagged beyond the distance that
  one of a batch of Gaussian scores exceeds with probability `alpha` (about 3.5 deviations).
- `"split"`: the batch is cut at every rank into a lower and an upper group. The distance of their
  means in pooled standard deviations is compared with what it is, at that rank, for one group; the
  cut that exceeds it most wins. It finds a batch whose half is defective, but seldom a few defects.
- `"gap"`: likewise with the step between neighbouring scores over the standard deviation of the
  lower group. It needs clean space between the groups.
- `"mad"`: median plus k times the median distance of the lower half from it.
- `"auto"` (default): the lower cut of `shorth` and, where it finds any, `split`.

`split`, `gap` and `mad` want Gaussian and Gumbel scores (a maximum over patches has a longer upper
tail) both rejected at `alpha`: next to no false alarm. But on sub-batches of real scores of metal
plates, a twentieth to a fifth of them defective (best possible F1 0.76 to 0.93), they reach F1 0.0
to 0.2 where `shorth` reaches 0.35 to 0.66; on the whole set, half defective, `split` reaches 0.92
(benchmarks/thresholds.py, results/thresholds.json). Hence the default, whose price is a flagged
image in about a tenth of all-normal batches, more where normal scores have a heavy tail (a tenth of
the good commutators): a person looks at it and is done.

At most half of a batch is flagged. What no rule can know from scores alone: normal images that are
themselves two groups (two products, two poses), or spread evenly, look like normal and defective.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from musc_fast.errors import InputError

Rule = Literal["auto", "shorth", "split", "gap", "mad"]
RULES: tuple[Rule, ...] = ("auto", "shorth", "split", "gap", "mad")
DEFAULT_ALPHA = {"shorth": 0.1, "split": 0.02, "gap": 0.02, "mad": 0.02}
MIN_IMAGES = 5

# Spreads below 1% of the median score are rounding and compression noise, not evidence.
_FLOOR = 0.01
_DRAWS_LIMIT = 2_000_000
_Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Threshold:
    """What to flag, and why.

    Attributes:
        value: images with score >= value are flagged; None where a rule flags none.
        rule: one of `RULES`, "value" or "expected_defect_rate".
        flagged: [N] bool.
        reason: a sentence for the reader.
        p_value: how often one group of normal scores looks as extreme; None where not tested.
    """

    value: float | None
    rule: str
    flagged: npt.NDArray[np.bool_]
    reason: str
    p_value: float | None = None


def find_threshold(
    scores: npt.ArrayLike,
    *,
    rule: Rule = "auto",
    alpha: float | None = None,
    value: float | None = None,
    expected_defect_rate: float | None = None,
) -> Threshold:
    """Decide which images of a batch to flag. Deterministic; needs no labels.

    Args:
        scores: raw image scores [N], before RsCIN (whose rescaling hides whether any stand out).
        rule: see the module's text.
        alpha: how often an all-normal batch may be flagged, in (0, 0.5]; None takes the rule's own
            (`DEFAULT_ALPHA`), and so does "auto" always.
        value: flag scores >= this, instead of any rule.
        expected_defect_rate: in [0, 1]; flag this share of the batch with the highest scores,
            rounded to whole images, instead of any rule.

    Raises:
        InputError: scores are not [N] or not finite, an option is out of range, or both overrides
            are given.
    """
    x = np.asarray(scores, dtype=np.float64)
    _check(x, rule, alpha, value, expected_defect_rate)
    if value is not None:
        flagged = x >= value
        return Threshold(
            float(value),
            "value",
            flagged,
            f"{int(flagged.sum())} of {x.size} images score {value:g} or more, the threshold given",
        )
    if expected_defect_rate is not None:
        return _by_rate(x, expected_defect_rate)
    if x.size < MIN_IMAGES:
        return _none(
            x, rule, f"none flagged: {x.size} images are too few to tell (at least {MIN_IMAGES})"
        )
    ordered = np.sort(x)
    if ordered[0] == ordered[-1]:
        return _none(x, rule, "none flagged: all scores are equal")
    cut, p_value = _cut(ordered, rule, alpha)
    if cut is None:
        return _none(x, rule, f"none flagged: no image stands apart (p = {p_value:.2g})", p_value)
    flagged = x >= cut
    return Threshold(
        cut,
        rule,
        flagged,
        f"{int(flagged.sum())} of {x.size} images stand apart from the others (p = {p_value:.2g})",
        p_value,
    )


def _cut(ordered: _Floats, rule: str, alpha: float | None) -> tuple[float | None, float]:
    """The rule's cut of ascending scores, None where it flags none, and its p-value."""
    if rule == "auto":
        found = [_cut(ordered, each, None) for each in ("shorth", "split")]
        cuts = [cut for cut, _ in found if cut is not None]
        return (min(cuts) if cuts else None), min(p_value for _, p_value in found)
    level = DEFAULT_ALPHA[rule] if alpha is None else alpha
    if rule in ("shorth", "mad"):
        return _beyond(ordered, rule, level)
    return _scan(ordered, rule, level)


def _scan(ordered: _Floats, rule: str, alpha: float) -> tuple[float | None, float]:
    """Best cut of ascending scores, None if not significant, and its p-value."""
    count = ordered.size
    observed = _STATISTICS[rule](ordered[None], _FLOOR * abs(float(np.median(ordered))))[0]
    lower = _lower_sizes(count)
    observed[ordered[lower] == ordered[lower - 1]] = -np.inf  # equal scores stay together
    excess, p_value = np.full(observed.shape, np.inf), 0.0
    for shape in _SHAPES:
        middle, width, highest = _one_group(rule, shape, count)
        standard = (observed - middle) / width
        excess = np.minimum(excess, standard)
        p_value = max(p_value, _p_value(highest, float(standard.max())))
    if p_value > alpha:
        return None, p_value
    best = int(lower[np.argmax(excess)])
    return _between(float(ordered[best - 1]), float(ordered[best])), p_value


def _beyond(ordered: _Floats, rule: str, alpha: float) -> tuple[float | None, float]:
    """As `_scan`: the cut is the score that one group exceeds with probability alpha."""
    middle, spread = _LOCATIONS[rule](ordered[None])
    centre, scale = float(middle[0]), max(float(spread[0]), _FLOOR * abs(float(middle[0])))
    shapes = ("normal",) if rule == "shorth" else tuple(_SHAPES)
    highest = [_highest(rule, shape, ordered.size) for shape in shapes]
    reach = (ordered[-1] - centre) / scale if scale > 0 else math.inf
    p_value = max(_p_value(each, float(reach)) for each in highest)
    if p_value > alpha:
        return None, p_value
    # The score from which on the p-value is at most alpha.
    keep = max(float(each[-max(1, math.floor(alpha * (each.size + 1)))]) for each in highest)
    cut = max(centre + keep * scale, float(np.median(ordered)))
    above = ordered[ordered > cut]
    return (float(above[0]), p_value) if above.size else (None, p_value)


def _lower_sizes(count: int) -> npt.NDArray[np.int64]:
    """Sizes of the lower group that are tried: at most half the images may be flagged."""
    return np.arange(max(2, count - count // 2), count)


def _moments(x: _Floats) -> tuple[_Floats, _Floats, _Floats, _Floats]:
    """Means and sums of squared deviations of the lower and the upper group, each [B, cuts]."""
    count = x.shape[1]
    lower = _lower_sizes(count)
    centred = x - x.mean(axis=1, keepdims=True)  # else the squares cancel
    sums, squares = np.cumsum(centred, axis=1), np.cumsum(centred**2, axis=1)
    low = sums[:, lower - 1] / lower
    high = (sums[:, -1:] - sums[:, lower - 1]) / (count - lower)
    low_dev = squares[:, lower - 1] - lower * low**2
    high_dev = squares[:, -1:] - squares[:, lower - 1] - (count - lower) * high**2
    return low, high, np.maximum(low_dev, 0), np.maximum(high_dev, 0)


def _split_statistic(x: _Floats, floor: float = 0.0) -> _Floats:
    """(mean of upper - mean of lower group) / pooled deviation; x [B, N] ascending."""
    low, high, low_dev, high_dev = _moments(x)
    pooled = np.sqrt((low_dev + high_dev) / (x.shape[1] - 1))
    return _ratio(high - low, pooled, floor)


def _gap_statistic(x: _Floats, floor: float = 0.0) -> _Floats:
    """(lowest of upper - highest of lower group) / deviation of the lower; x [B, N] ascending."""
    lower = _lower_sizes(x.shape[1])
    _, _, low_dev, _ = _moments(x)
    return _ratio(x[:, lower] - x[:, lower - 1], np.sqrt(low_dev / lower), floor)


_STATISTICS: dict[str, Callable[..., _Floats]] = {"split": _split_statistic, "gap": _gap_statistic}


def _ratio(difference: _Floats, spread: _Floats, floor: float) -> _Floats:
    # The spread is zero where both groups are constant; with a median of 0 the floor is, too.
    spread = np.maximum(spread, max(floor, 1e-100))
    ratio: _Floats = difference / spread
    return ratio


_SHAPES: dict[str, Callable[[np.random.Generator, tuple[int, int]], _Floats]] = {
    "normal": lambda rng, size: rng.standard_normal(size),
    "gumbel": lambda rng, size: rng.gumbel(size=size),
}


def _draw(shape: str, count: int) -> _Floats:
    """Simulated batches of one group, [B, count], ascending; the same for the same count."""
    draws = min(999, max(199, _DRAWS_LIMIT // count))
    rng = np.random.default_rng([count, list(_SHAPES).index(shape)])
    x = _SHAPES[shape](rng, (draws, count))
    x.sort(axis=1)
    return x


@lru_cache(maxsize=32)
def _one_group(rule: str, shape: str, count: int) -> tuple[_Floats, _Floats, _Floats]:
    """Median and upper half-width (to the 95% point) of the statistic at every cut, and the
    highest standardised value of each simulated batch, ascending."""
    drawn = _STATISTICS[rule](_draw(shape, count))
    middle = np.median(drawn, axis=0)
    width = np.quantile(drawn, 0.95, axis=0) - middle
    return middle, width, np.sort(((drawn - middle) / width).max(axis=1))


@lru_cache(maxsize=32)
def _highest(rule: str, shape: str, count: int) -> _Floats:
    """(highest score - location) / scale of each simulated batch, ascending."""
    drawn = _draw(shape, count)
    middle, spread = _LOCATIONS[rule](drawn)
    return np.sort((drawn[:, -1] - middle) / spread)


def _median_and_spread(x: _Floats) -> tuple[Any, Any]:
    """Median [B] and median distance [B] from it of the lower half; x [B, N] ascending."""
    middle = np.median(x, axis=1)
    lower = x[:, : (x.shape[1] + 1) // 2]
    return middle, np.median(middle[:, None] - lower, axis=1)


def _shorth(x: _Floats) -> tuple[Any, Any]:
    """Median and width of the shortest half, each [B]; x [B, N] ascending."""
    half = x.shape[1] // 2 + 1
    width = x[:, half - 1 :] - x[:, : x.shape[1] - half + 1]
    first = width.argmin(axis=1)
    rows = np.arange(x.shape[0])
    middle = (x[rows, first + (half - 1) // 2] + x[rows, first + half // 2]) / 2
    return middle, width[rows, first]


_LOCATIONS: dict[str, Callable[[_Floats], tuple[Any, Any]]] = {
    "shorth": _shorth,
    "mad": _median_and_spread,
}


def _p_value(highest: _Floats, observed: float) -> float:
    """Share of simulated batches, the observed one included, that reach `observed`."""
    reached = highest.size - int(np.searchsorted(highest, observed, side="left"))
    return (reached + 1) / (highest.size + 1)


def _between(below: float, above: float) -> float:
    middle = below + (above - below) / 2
    return middle if below < middle <= above else above


def _by_rate(x: _Floats, rate: float) -> Threshold:
    count = int(rate * x.size + 0.5)
    name = "expected_defect_rate"
    if count == 0:
        return _none(x, name, f"none flagged: {rate:g} of {x.size} images is less than half of one")
    ordered = np.sort(x)[::-1]
    lowest = float(ordered[count - 1])
    cut = _between(float(ordered[count]), lowest) if count < x.size else lowest
    flagged = x >= cut
    return Threshold(
        cut,
        name,
        flagged,
        f"the {int(flagged.sum())} highest of {x.size} images, by an expected defect rate of "
        f"{rate:g}",
    )


def _none(x: _Floats, rule: str, reason: str, p_value: float | None = None) -> Threshold:
    return Threshold(None, rule, np.zeros(x.shape, dtype=np.bool_), reason, p_value)


def _check(
    x: _Floats,
    rule: str,
    alpha: float | None,
    value: float | None,
    expected_defect_rate: float | None,
) -> None:
    if x.ndim != 1 or x.size == 0:
        raise InputError(f"scores must be [N] with N > 0, but are {list(x.shape)}")
    if not np.isfinite(x).all():
        index = int(np.flatnonzero(~np.isfinite(x))[0])
        raise InputError(f"scores[{index}] is {x[index]}; scores must be finite")
    if rule not in RULES:
        raise InputError(f"unknown rule {rule!r}; known are {', '.join(RULES)}")
    if alpha is not None and not 0 < alpha <= 0.5:
        raise InputError(f"alpha must be in (0, 0.5], but is {alpha}")
    if value is not None and expected_defect_rate is not None:
        raise InputError("give a threshold or an expected defect rate, not both")
    if value is not None and not value >= 0:
        raise InputError(f"threshold: found {value}, wanted a distance, 0 or more")
    if expected_defect_rate is not None and not 0 <= expected_defect_rate <= 1:
        raise InputError(f"expected defect rate: found {expected_defect_rate}, wanted 0 to 1")
