"""A threshold on image scores without labels: which images of a batch stand apart?

- `"auto"` (default): "tail" and "split", each at half of `alpha`, so that the chance of a false
  alarm is `alpha` for both together. "tail" finds few defects in small batches, "split" many.
- `"tail"`: do the m highest scores lie further above the others than the tail of normal scores
  reaches? That tail is a model, with the margin that its error asks for: see `tail.py`.
- `"split"`: the sorted scores are cut at every rank into a lower and an upper group. The distance
  between the groups' means is measured in two units: the pooled standard deviation (finds groups of
  like spread) and the lower group's standard deviation (finds defects that differ among
  themselves). Both are compared with their values at that rank in simulated batches of the same
  number of images in which nothing stands apart. Where the largest excess is significant, the batch
  is cut by Otsu's criterion (Otsu 1979, "A threshold selection method from gray-level histograms")
  on the logarithm of the scores.
- `"gap"`: as "split", but with one statistic, the step between neighbouring scores over the lower
  group's standard deviation; the batch is cut at the step with the largest excess.
- `"mad"`: the textbook's robust outlier rule. The threshold is the median plus k spreads, where the
  spread is the median distance of the lower half from the median, and k is such that a Gaussian
  batch has a score above the threshold with chance alpha.

Normal scores have no fixed distribution: on public test data it is Gaussian (metal plates) to
exponential (commutators, whose best 50 of 60 images lie between 0.25 and 0.44 and the other ten up
to 0.74). "split" and "gap" simulate three shapes, Gaussian, Gumbel (a raw score is a maximum) and
exponential, and the batch must look odd under all three: their p-value is an upper bound. The
statistics do not depend on location and scale.

Where the patches' scores are given, "tail" models the tail by three peaks an image, not one: see
`tail.py`.

The verdict of an image that is not flagged is "look" where "auto" or "tail" finds its group to
stand apart with less certainty ("tail" at 2 alpha, "split" at alpha): an all-normal batch has such
a group with chance 3 alpha at most. A batch in which nothing is flagged by these two rules is
undecided, not clear: a defect may score like good images. Of it the tenth (`LOOK_SHARE`) that a
defect is most likely among is "look" as well: the highest by score and, in turn, those with the
highest relief (`peaks.py`), which finds defects that a score hides.

What the rules find and how often they are wrong: docs/verdict.md, measured by
benchmarks/verdicts.py; benchmarks/thresholds.py compares the rules on stored scores.

At most half of a batch is flagged. Limits of every rule that sees scores alone: normal images in
two groups (two products, two poses), or with evenly spread scores, look like normal and defective
images; a defect that scores like normal images is not found.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ..errors import InputError
from .peaks import check_patch_scores, next_peaks, reliefs
from .result import Threshold, check_scores, verdicts_of
from .rules import best_cut, level_between, mad_cut
from .tail import standing_out

Rule = Literal["auto", "tail", "split", "gap", "mad"]
RULES: tuple[Rule, ...] = ("auto", "tail", "split", "gap", "mad")
DEFAULT_RULE: Rule = "auto"
ALPHA = 0.1
MIN_IMAGES = 5
LOOK_SHARE = 0.1
SMALL = 20  # below so many images a batch is called too small to decide on one part
_Floats = npt.NDArray[np.float64]
_Patches = npt.NDArray[np.floating[Any]]


def find_threshold(
    scores: npt.ArrayLike,
    *,
    patch_scores: npt.ArrayLike | None = None,
    rule: Rule = DEFAULT_RULE,
    alpha: float = ALPHA,
    value: float | None = None,
    expected_defect_rate: float | None = None,
    look_share: float = LOOK_SHARE,
) -> Threshold:
    """Decide which images of a batch to flag. Deterministic; needs no labels.

    scores: [N] raw image scores, distances, before RsCIN, whose rescaling hides whether any score
        stands out.
    patch_scores: [N, H, W] of the same images, with which "auto" and "tail" decide better; None:
        unknown.
    rule: "auto", "tail", "split", "gap" or "mad"; see the text of this module.
    alpha: how often an all-normal batch may be flagged under the worst of the simulated shapes, in
        (0, 0.5].
    value: flag scores >= this value, instead of using a rule.
    expected_defect_rate: in [0, 1]; flag this share of the batch with the highest scores, rounded
        to whole images, instead of using a rule.
    look_share: in [0, 1]; "auto" and "tail" give the verdict "look" to this share, rounded up, of a
        batch of which they flag nothing. 0: to those alone that stand apart somewhat. Of fewer than
        five images all are to be looked at, by every rule.

    Raises InputError where scores are not [N] or patch scores not [N, H, W], not finite or
    negative, an option is out of range, or both `value` and `expected_defect_rate` are given.
    """
    x = np.asarray(scores, dtype=np.float64)
    _check(x, rule, alpha, value, expected_defect_rate)
    if not (_is_number(look_share) and 0 <= look_share <= 1):
        raise InputError(f"look_share: found {look_share!r}, wanted a share, 0 to 1")
    patches = None
    if patch_scores is not None:
        patches = check_patch_scores("patch_scores", patch_scores, x)
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
    found = _by_rule(x, patches, rule, alpha, look_share)
    share = look_share if rule in ("auto", "tail") else None
    return replace(found, false_alarms=alpha, look_share=share)


def _by_rule(
    x: _Floats, patches: _Patches | None, rule: Rule, alpha: float, look_share: float
) -> Threshold:
    """Verdicts by a rule, of any number of images."""
    if x.size < MIN_IMAGES:
        few = f"none flagged: {x.size} images are too few to tell (at least {MIN_IMAGES})"
        return _flag_none(x, rule, f"{few}; look at them yourself", look=np.ones(x.shape, np.bool_))
    ordered = np.sort(x)
    if ordered[0] == ordered[-1]:
        return _flag_none(x, rule, "none flagged: all scores are equal")
    found = _judged(x, patches, rule, alpha)
    if rule not in ("auto", "tail") or found.flagged.any():
        return found
    return _undecided(x, patches, found, look_share)


def _judged(x: _Floats, patches: _Patches | None, rule: Rule, alpha: float) -> Threshold:
    """Verdicts by a rule, and what stands apart with less certainty by the model of the tail."""
    cut: float | None = None
    look = np.zeros(x.shape, np.bool_)
    order = np.argsort(x, kind="stable")
    ordered = x[order]
    if rule in ("auto", "tail"):
        tail_p, apart = standing_out(
            ordered, None if patches is None else next_peaks(patches, x)[order]
        )
        cut, p_value = level_between(float(ordered[-apart - 1]), float(ordered[-apart])), tail_p
        look = np.asarray((x >= cut) & (tail_p <= 2 * alpha))
    if rule == "auto":
        split_cut, split_p = best_cut(ordered, "split")
        if split_cut is not None and split_p <= alpha:
            look |= x >= split_cut
        # Two rules have two chances of a false alarm.
        cut = split_cut if split_p <= alpha / 2 else cut
        p_value = min(1.0, 2 * min(split_p, tail_p))
    elif rule == "mad":
        cut, p_value = mad_cut(ordered, alpha)
    elif rule in ("split", "gap"):
        cut, p_value = best_cut(ordered, rule)
    if cut is None or p_value > alpha:
        reason = (
            "none flagged: no image stands apart (defects that score like normal images, or that "
            "many images share, cannot be seen)"
        )
        return _flag_none(x, rule, reason, p_value, look)
    flagged = np.asarray(x >= cut)
    count = int(flagged.sum())
    verb = "stands" if count == 1 else "stand"
    reason = f"{count} of {x.size} images {verb} apart from the others ({_odds(p_value)})"
    unsure = int((look & ~flagged).sum())
    if unsure:
        reason += f"; look at {unsure} more yourself, the scores cannot tell"
    return Threshold(cut, rule, verdicts_of(flagged, look), reason, p_value)


def _odds(p_value: float) -> str:
    return f"at most {max(1, math.ceil(1000 * p_value))} in 1000 all-normal batches look like this"


def _undecided(
    x: _Floats, patches: _Patches | None, found: Threshold, look_share: float
) -> Threshold:
    """What to look at where nothing is flagged: what stands apart somewhat, and a share of all."""
    assert found.p_value is not None  # of a rule
    apart = found.look
    relief = None if patches is None else reliefs(patches)
    # 0.07 * 100 is a little above 7.
    share = _most_suspect(x, relief, math.ceil(round(look_share * x.size, 9)))
    look = apart | share
    if not look.any():
        return found
    told = f"look at {int(look.sum())} yourself"
    if apart.any():
        told += f": {int(apart.sum())} higher than the others, but chance may do that"
        told += f" ({_odds(found.p_value)})"
    if (share & ~apart).any():
        told += "; " if apart.any() else ": "
        told += "no image stands apart, but a defect that scores like good images is most likely "
        told += "among the highest"
        if relief is not None and relief.any():
            told += " and those with a patch far above those around it"
    small = f"a batch of {x.size} is too small to decide on one part; " if x.size < SMALL else ""
    return _flag_none(x, found.rule, f"none flagged: {small}{told}", found.p_value, look)


def _most_suspect(x: _Floats, relief: _Floats | None, count: int) -> npt.NDArray[np.bool_]:
    """About `count` images [N]: the highest by score and, in turn, by relief."""
    if count == 0:
        return np.zeros(x.shape, np.bool_)
    place = 2 * _worst_rank(x)
    if relief is not None:
        place = np.minimum(place, 2 * _worst_rank(relief) + 1)
    last = np.sort(place)[count - 1]
    chosen = np.asarray(place <= last)
    # Many equal scores tell nothing of any of these images.
    return chosen if chosen.sum() <= 2 * count else np.asarray(place < last)


def _worst_rank(values: _Floats) -> npt.NDArray[np.int64]:
    """How many others are as high as each of `values` [N]; equal ones have the same rank."""
    below = np.searchsorted(np.sort(values), values, side="left")
    rank: npt.NDArray[np.int64] = values.size - 1 - below
    return rank


def _flag_share(x: _Floats, rate: float) -> Threshold:
    count = int(rate * x.size + 0.5)
    name = "expected_defect_rate"
    if count == 0:
        return _flag_none(
            x, name, f"none flagged: {rate:g} of {x.size} images is less than half of one"
        )
    ordered = np.sort(x)[::-1]
    lowest = float(ordered[count - 1])
    cut = level_between(float(ordered[count]), lowest) if count < x.size else lowest
    flagged = x >= cut
    return Threshold(
        cut,
        name,
        verdicts_of(flagged),
        f"the {int(flagged.sum())} highest of {x.size} images, by an expected defect rate of "
        f"{rate:g}",
    )


def _flag_none(
    x: _Floats,
    rule: str,
    reason: str,
    p_value: float | None = None,
    look: npt.NDArray[np.bool_] | None = None,
) -> Threshold:
    return Threshold(
        None, rule, verdicts_of(np.zeros(x.shape, dtype=np.bool_), look), reason, p_value
    )


def _check(
    x: _Floats,
    rule: str,
    alpha: float,
    value: float | None,
    expected_defect_rate: float | None,
) -> None:
    check_scores("scores", x)
    if rule not in RULES:
        raise InputError(f"unknown rule {rule!r}; known are {', '.join(RULES)}")
    if not (_is_number(alpha) and 0 < alpha <= 0.5):
        raise InputError(f"alpha must be in (0, 0.5], but is {alpha!r}")
    if value is not None and expected_defect_rate is not None:
        raise InputError("give a threshold or an expected defect rate, not both")
    if value is not None and not (_is_number(value) and value >= 0):
        raise InputError(f"threshold: found {value!r}, wanted a distance, 0 or more")
    rate = expected_defect_rate
    if rate is not None and not (_is_number(rate) and 0 <= rate <= 1):
        raise InputError(f"expected defect rate: found {rate!r}, wanted 0 to 1")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float | np.number) and not isinstance(value, bool)
