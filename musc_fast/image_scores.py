"""Scores of named images with verdicts: what `MuSc.score` returns, and how it decides."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .errors import InputError
from .scoring.scores import BatchScores
from .threshold import FALSE_ALARMS, Rule, Threshold, find_threshold, judge_by_references


@dataclass(frozen=True)
class Judge:
    """How images are judged by their scores.

    rule: of `threshold.RULES`; judges a batch that has no references.
    false_alarms: share of good images that may be flagged where references judge, in (0, 0.5].
    value: flag raw scores >= this value instead.
    expected_defect_rate: flag this share of the batch instead.

    Raises InputError where an option is out of range, or `value` and `expected_defect_rate` are
    both given.
    """

    rule: Rule = "split"
    false_alarms: float = FALSE_ALARMS
    value: float | None = None
    expected_defect_rate: float | None = None

    def __post_init__(self) -> None:
        self._by_batch(np.zeros(1))
        rate = self.false_alarms
        if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 < rate <= 0.5:
            raise InputError(f"false_alarms: found {rate!r}, wanted a share in (0, 0.5]")

    @property
    def asks_references(self) -> bool:
        """Whether references decide, where there are any: no threshold and no share is given."""
        return self.value is None and self.expected_defect_rate is None

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
            false_alarms=self.false_alarms,
            patch_scores=scores.patch_scores.cpu().numpy(),
            reference_patch_scores=references.patch_scores.cpu().numpy(),
        )

    def _by_batch(self, raw: NDArray[np.floating]) -> Threshold:
        return find_threshold(
            raw,
            rule=self.rule,
            value=self.value,
            expected_defect_rate=self.expected_defect_rate,
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
    )
