"""A watch's judge: the verdict on new images and on those of the bank, by the bank's own scores.

The scale is what good images score. Flagged ones do not enter the bank: were they left out of the
scale, too, the highest of the good images would be missing from the scale, the threshold would sink
and flag more of them, and so on. So the scale also has the scores of the images that were left out
lately; only what stands apart from the rest, bank or not, is taken for defects and for no part of
the scale. Defects in the bank are found by the same test.
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
from ..threshold.tail import TailModel

_MOST_DEFECTS = 0.25  # of the images of the scale
_GAPS = 3  # the widest steps between scores, at which groups are tested
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


class Judge:
    """Judges images at one state of the bank.

    held: the leave-one-out scores of the bank's images; None where it has too few.
    left_out: raw scores, by number, of the images that were lately left out of the bank.

    level: raw score from which on a new image is flagged; None where the bank cannot tell.
    entries: the images of the bank. apart: the places, there, of those that stand apart.
    """

    def __init__(self, rule: Rule, held: LeaveOneOut | None, left_out: Mapping[int, float]) -> None:
        self._rule = rule
        self.entries: list[Entry] = [] if held is None else held.entries
        own = np.zeros(0) if held is None else held.raw_image_scores.double().cpu().numpy()
        self._own: _Floats = own
        scores = np.concatenate([own, np.array(list(left_out.values()), dtype=np.float64)])
        lowest = (
            standing_apart(scores, rule.false_alarms) if rule.threshold is None else rule.threshold
        )
        self.apart: list[int] = np.flatnonzero(own >= lowest).tolist()
        usual = scores[scores < lowest]
        self._scale = (
            ReferenceScale(usual)
            if rule.threshold is None and len(usual) >= MIN_REFERENCES
            else None
        )
        self.level = rule.threshold
        if self._scale is not None:
            self.level = self._scale.level(rule.false_alarms)

    def of_new(self, score: float) -> Judgement:
        """The verdict on an image that was scored against the bank."""
        if self._rule.threshold is not None:
            return Judgement("flagged" if score >= self._rule.threshold else "clear", self.level)
        if self._scale is None:
            return Judgement("look", None)
        judged = self._scale.judge([score], self._rule.false_alarms)
        assert judged.p_values is not None  # of a scale
        verdict: Verdict = "flagged" if judged.flagged[0] else "look" if judged.look[0] else "clear"
        return Judgement(verdict, self.level, float(judged.p_values[0]))

    def of_held(self) -> list[Judgement]:
        """The verdicts on the images of the bank, in the order of its entries.

        Only what stands apart is flagged: the highest of many good images are as high as one new
        image in a hundred.
        """
        found = []
        for place, score in enumerate(self._own):
            said = self.of_new(float(score))
            if place in self.apart:
                said = replace(said, verdict="flagged")
            elif said.verdict == "flagged":
                said = replace(said, verdict="look")
            found.append(said)
        return found


def standing_apart(scores: _Floats, chance: float) -> float:
    """The lowest of the scores that stand apart above the rest; infinite where none does.

    The groups of the m highest scores are tested at the widest steps between scores: given the
    tail of the others, what is the chance that all of the m highest of as many good scores lie as
    far above the next lower as the m-th? Times m (m + 1), since the weights 1 / (m (m + 1)) sum to
    1 over all m, this must be at most `chance`.
    """
    ordered = np.sort(scores)
    most = int(_MOST_DEFECTS * ordered.size)
    if ordered.size - most < MIN_REFERENCES or most == 0:
        return np.inf
    steps = np.diff(ordered)[-most:][::-1]  # that of the highest score first
    found = np.inf
    for m in 1 + np.argsort(-steps)[:_GAPS]:
        edge, below = ordered[-m], ordered[-m - 1]
        if edge == below:
            continue
        model = TailModel(ordered, suspects=int(m))
        above, next_lower = model.survivals(np.array([edge, below]))
        ratio = np.minimum(above / np.maximum(next_lower, 1e-300), 1.0)
        if float((ratio**m) @ model.weights) * m * (m + 1) <= chance:
            found = min(found, float(edge))
    return found
