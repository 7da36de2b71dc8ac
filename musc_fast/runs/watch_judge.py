"""A watch's judge: the verdict on new images and on those of the bank, by the bank's own scores.

The scale is what good images score. Flagged ones do not enter the bank: were they left out of the
scale, too, the highest of the good images would be missing from the scale, the threshold would sink
and flag more of them, and so on. So the scale also has the scores of the images that were left out
lately; only what stands far apart from the rest, bank or not, is taken for defects and for no part
of the scale. Defects in the bank are found by the same test.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ..bank.file import Entry
from ..bank.own_distances import LeaveOneOut
from ..threshold.references import MIN_REFERENCES, ReferenceScale
from ..threshold.result import Verdict

_MOST_DEFECTS = 0.2  # of the images of the scale
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

    def level(self, usual: _Floats) -> float | None:
        """Raw score from which on, by the scores of good images; None where they cannot tell."""
        if self.threshold is not None:
            return self.threshold
        if len(usual) < MIN_REFERENCES:
            return None
        return ReferenceScale(usual).level(self.false_alarms)

    def judgement(self, score: float, usual: _Floats) -> Judgement:
        """The verdict on one image by the scores of good ones."""
        level = self.level(usual)
        if self.threshold is not None:
            return Judgement("flagged" if score >= self.threshold else "clear", level)
        if len(usual) < MIN_REFERENCES:
            return Judgement("look", None)
        judged = ReferenceScale(usual).judge([score], self.false_alarms)
        assert judged.p_values is not None  # of a scale
        verdict: Verdict = "flagged" if judged.flagged[0] else "look" if judged.look[0] else "clear"
        return Judgement(verdict, level, float(judged.p_values[0]))

    def stand_apart(self, scores: _Floats) -> NDArray[np.bool_]:
        """Which images stand so far above the rest that no good one of so many would.

        Of the k highest, the lowest is compared with the scores below it, for every k up to
        a fifth of the images, and the largest k with a finding counts (as in Rosner 1983,
        "Percentage points for a generalized ESD many-outlier procedure"): several alike do not
        hide each other. All n images are looked at, so the chance for each is the n-th part.
        """
        if self.threshold is not None:
            return np.asarray(scores >= self.threshold)
        order = np.argsort(scores)
        for most in range(int(_MOST_DEFECTS * len(scores)), 0, -1):
            usual, lowest = scores[order[:-most]], scores[order[-most]]
            if len(usual) < MIN_REFERENCES:
                continue
            p_value = float(ReferenceScale(usual).p_values([lowest])[0])
            if p_value <= self.false_alarms / len(scores):
                return np.asarray(scores >= lowest)
        return np.zeros(len(scores), dtype=np.bool_)


class Judge:
    """Judges images at one state of the bank.

    held: the leave-one-out scores of the bank's images; None where it has too few.
    left_out: raw scores, by number, of the images that were lately left out of the bank.
    """

    def __init__(self, rule: Rule, held: LeaveOneOut | None, left_out: Mapping[int, float]) -> None:
        self._rule = rule
        self.entries: list[Entry] = [] if held is None else held.entries
        own = np.zeros(0) if held is None else held.raw_image_scores.double().cpu().numpy()
        self._scores = np.concatenate([own, np.array(list(left_out.values()), dtype=np.float64)])
        self._apart = rule.stand_apart(self._scores)

    @property
    def level(self) -> float | None:
        """Raw score from which on a new image is flagged; None where the bank cannot tell."""
        return self._rule.level(self._scores[~self._apart])

    def of_new(self, score: float) -> Judgement:
        """The verdict on an image that was scored against the bank."""
        return self._rule.judgement(score, self._scores[~self._apart])

    def of_held(self) -> list[Judgement]:
        """The verdicts on the images of the bank, in the order of its entries.

        Each is compared with the others of the scale; only what stands far apart is flagged.
        """
        found = []
        for place in range(len(self.entries)):
            others = np.delete(self._scores, place)[~np.delete(self._apart, place)]
            said = self._rule.judgement(float(self._scores[place]), others)
            if self._apart[place]:
                said = replace(said, verdict="flagged")
            elif said.verdict == "flagged":  # the highest of many are as high as that
                said = replace(said, verdict="look")
            found.append(said)
        return found

    def apart(self) -> list[int]:
        """The places, in `entries`, of the bank's images that stand far apart."""
        return [place for place in range(len(self.entries)) if self._apart[place]]
