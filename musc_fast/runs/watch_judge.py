"""A watch's judge: the verdict on new images and on those of the bank, by the bank's own scores.

The scale is what good images score. Flagged ones do not enter the bank: were all of them left out
of the scale, too, the highest of the good images would be missing from the scale, the threshold
would sink and flag more of them, and so on. So a flagged image that may be a good one, as one in so
many is (`is_near`), counts in the scale, with the threshold that it reached for its score: defects
among such images do not raise the threshold. Images of the bank that stand apart from the others
are defects that have been found again, and do not count.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ..bank.own_distances import LeaveOneOut
from ..threshold import LOOK_SHARE, ReferenceScale, Verdict, find_threshold
from ..threshold.batch import SMALL

_FEWEST = 10  # images of which some may be held for defects
_CERTAIN = 0.1  # of the false alarms: the p-value of an image that is no good one
_Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Judgement:
    """What is said of an image.

    threshold: raw score from which on it would have been flagged; None where there is none.
    p_value: how often, at most, a good image scores as high; None where that is not known.
    """

    verdict: Verdict
    threshold: float | None
    p_value: float | None = None


@dataclass(frozen=True)
class Rule:
    """How images are flagged.

    threshold: raw score from which on; None: a scale of good images decides.
    false_alarms: share of the good images that may be flagged.
    """

    threshold: float | None
    false_alarms: float


def is_near(p_value: float, false_alarms: float) -> bool:
    """Whether a flagged image may well be one of the good images that are flagged."""
    return p_value > _CERTAIN * false_alarms


class Judge:
    """Judges images by one state of the bank.

    held: the leave-one-out scores of the bank's images; None where it has too few.
    left_out: the thresholds reached by those images that were lately left out of the bank and may
        be good ones.

    level: raw score from which on a new image is flagged; None where the bank cannot tell.
    apart: the places, in `held`, of the images of the bank that are defects.
    """

    def __init__(self, rule: Rule, held: LeaveOneOut | None, left_out: Sequence[float]) -> None:
        self._rule, self.held = rule, held
        self._own: _Floats = np.zeros(0)
        if held is not None:
            self._own = held.raw_image_scores.double().cpu().numpy()
        scores = np.concatenate([self._own, np.asarray(left_out, dtype=np.float64)])
        apart = np.zeros(len(scores), dtype=np.bool_)
        self._look_from = np.inf
        if rule.threshold is not None:
            apart = scores >= rule.threshold
        elif len(scores) >= _FEWEST:
            # Image scores alone decide, since images that were left out have no maps. Of a large
            # bank, whose scale tells how high good images score, no share is looked at in any case.
            # Of few images too little is known to call the highest clear.
            share = LOOK_SHARE if len(scores) < SMALL else 0.0
            among = find_threshold(scores, look_share=share)
            apart = among.flagged
            self._look_from = float(np.min(scores, where=among.look, initial=np.inf))
        self.apart: list[int] = np.flatnonzero(apart[: len(self._own)]).tolist()
        self._scale = None
        self.level = rule.threshold
        if rule.threshold is None and not apart.all():
            self._scale = ReferenceScale(scores[~apart])
            self.level = self._scale.level(rule.false_alarms)

    @cached_property
    def usual(self) -> float:
        """A distance that is usual in the images of the bank; 0 where it has too few."""
        return 0.0 if self.held is None else self.held.usual

    def of_new(self, score: float) -> Judgement:
        """The verdict on an image that was scored against the bank.

        "look" also where it is as high as those of the bank that may be defects, for all that the
        bank can tell.
        """
        if self._rule.threshold is not None:
            return Judgement("flagged" if score >= self._rule.threshold else "clear", self.level)
        if self._scale is None:
            return Judgement("look", None)
        judged = self._scale.judge([score], self._rule.false_alarms)
        assert judged.p_values is not None  # of a scale
        verdict: Verdict = "clear"
        if judged.flagged[0]:
            verdict = "flagged"
        elif judged.look[0] or score >= self._look_from:
            verdict = "look"
        return Judgement(verdict, self.level, float(judged.p_values[0]))

    def of_held(self) -> list[Judgement]:
        """The verdicts on the images of the bank, in the order of `held`.

        Only what stands apart is flagged; the highest of the rest, which is no lower than itself,
        is compared with the others.
        """
        found = [self.of_new(float(score)) for score in self._own]
        for place in self.apart:
            found[place] = replace(found[place], verdict="flagged")
        rest = [place for place in range(len(found)) if place not in self.apart]
        if self._scale is not None and len(rest) > 1:
            highest = max(rest, key=lambda place: float(self._own[place]))
            others = ReferenceScale(np.delete(self._own, [highest, *self.apart]))
            judged = others.judge([self._own[highest]], self._rule.false_alarms)
            unsure = bool(judged.flagged[0] or judged.look[0])
            found[highest] = replace(found[highest], verdict="look" if unsure else "clear")
        return found
