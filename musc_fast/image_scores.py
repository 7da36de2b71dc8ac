"""Scores of named images with verdicts: what `MuSc.score` returns, and how it decides."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import InputError
from .scoring.scores import BatchScores
from .threshold import FALSE_ALARMS, Rule, Threshold, find_threshold, judge_by_references


@dataclass(frozen=True)
class Judge:
    """How images are judged by their scores.

    rule: of `threshold.RULES`; judges a batch that has no references. None: the usual one.
    false_alarms: in (0, 0.5]; by references, the share of good images that may be flagged (None:
        0.01), by a rule, the share of good batches of which images may be flagged (None: 0.1).
    value: flag raw scores >= this value instead.
    expected_defect_rate: flag this share of the batch instead.

    Raises InputError where an option is out of range, or would be idle beside another.
    """

    rule: Rule | None = None
    false_alarms: float | None = None
    value: float | None = None
    expected_defect_rate: float | None = None

    def __post_init__(self) -> None:
        rate = self.false_alarms
        number = isinstance(rate, int | float) and not isinstance(rate, bool)
        if rate is not None and not (number and 0 < rate <= 0.5):
            raise InputError(f"false_alarms: found {rate!r}, wanted a share in (0, 0.5]")
        self._by_batch(np.zeros(1))
        if not self.asks_references:
            for name, idle in (("rule", self.rule), ("false_alarms", rate)):
                if idle is not None:
                    raise InputError(
                        f"{name}: has no say where a threshold or an expected defect rate is "
                        "given; leave one of them out"
                    )

    @property
    def asks_references(self) -> bool:
        """Whether references decide, where there are any: no threshold and no share is given."""
        return self.value is None and self.expected_defect_rate is None

    def check_references(self) -> None:
        """Raise InputError where references would leave the rule idle."""
        if self.rule is not None:
            raise InputError(
                "rule: has no say where references decide; leave out the rule or the references"
            )

    def __call__(self, scores: BatchScores, references: BatchScores | None = None) -> Threshold:
        """Decide on the images of `scores`.

        references: leave-one-out scores of the images that they were scored against.
        """
        raw = scores.raw_image_scores.cpu().numpy()
        if references is None or not self.asks_references:
            return self._by_batch(raw)
        return judge_by_references(
            raw,
            references.raw_image_scores.cpu().numpy(),
            false_alarms=FALSE_ALARMS if self.false_alarms is None else self.false_alarms,
        )

    def _by_batch(self, raw: NDArray[np.floating[Any]]) -> Threshold:
        given: dict[str, Any] = {"rule": self.rule, "alpha": self.false_alarms}
        return find_threshold(
            raw,
            value=self.value,
            expected_defect_rate=self.expected_defect_rate,
            **{name: value for name, value in given.items() if value is not None},
        )


@dataclass(frozen=True, repr=False)
class ImageScores(BatchScores):
    """Scores of N images, with their names and verdicts; tensors as in `BatchScores`.

    names: [N], paths, or "image 3" for images that are no files.
    threshold: what decided.
    """

    names: tuple[str, ...]
    threshold: Threshold

    @property
    def verdicts(self) -> tuple[str, ...]:
        """[N] of "flagged", "look" (the scores cannot tell, a person should look) or "clear"."""
        return tuple(str(verdict) for verdict in self.threshold.verdicts)

    @property
    def reason(self) -> str:
        """The sentence that says why images are flagged, or why none is."""
        return self.threshold.reason

    def __repr__(self) -> str:
        verdicts = self.verdicts
        counts = ", ".join(f"{verdicts.count(v)} {v}" for v in ("flagged", "look", "clear"))
        highest = int(self.image_scores.argmax())
        return f"<{self._summary()}; {counts}; highest {self.names[highest]!r}>"


def with_verdicts(scores: BatchScores, names: tuple[str, ...], threshold: Threshold) -> ImageScores:
    """The scores of named images with what decided on them."""
    return ImageScores(
        scores.patch_scores,
        scores.anomaly_maps,
        scores.raw_image_scores,
        scores.image_scores,
        names,
        threshold,
        place=scores.place,
    )
