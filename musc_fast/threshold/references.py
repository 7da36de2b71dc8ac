"""A decision by references: does an image score higher than good images score among each other?

The scale is made of the references' leave-one-out scores: each against the other references, its
interval mean over as many neighbours as that of a new image (`MuSc.leave_one_out`,
`ReferenceBank.leave_one_out`). A new image has one reference more to choose its nearest from, so
it scores no higher than it would in a reference's place. Where it is as good as they are, all
orders of the n + 1 images are equally likely, and its conformal p-value

    p = (1 + references that score as high) / (n + 1)

is at most t with chance t at most, for every t and every distribution of scores.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ..errors import InputError
from .result import Threshold, verdicts_of

FALSE_ALARMS = 0.01
MIN_REFERENCES = 5
_Floats = npt.NDArray[np.float64]


class ReferenceScale:
    """The scores of good images, by which new ones are judged.

    scores: [n] leave-one-out raw scores of the references.
    patch_scores: [n, H, W] their leave-one-out patch scores; None: image scores alone.

    Raises InputError where the scores are not [n] with n > 0, not finite or negative, or the patch
    scores are not of as many images.
    """

    def __init__(self, scores: npt.ArrayLike, patch_scores: npt.ArrayLike | None = None) -> None:
        self.scores = np.sort(np.asarray(scores, dtype=np.float64))
        if self.scores.ndim != 1 or not self.scores.size or not np.isfinite(self.scores).all():
            raise InputError("reference_scores: wanted [n] finite numbers, n > 0")
        if patch_scores is not None and len(np.asarray(patch_scores)) != self.scores.size:
            raise InputError("reference_patch_scores: wanted those of as many images as scores")

    def p_values(self, scores: npt.ArrayLike) -> _Floats:
        """How often, at most, a good image scores as high as each of `scores` [N] -> [N]."""
        x = np.asarray(scores, dtype=np.float64)
        reaching = self.scores.size - np.searchsorted(self.scores, x, side="left")
        p: _Floats = (1 + reaching) / (1 + self.scores.size)
        return p

    def level(self, false_alarms: float = FALSE_ALARMS) -> float | None:
        """The lowest score whose p-value is at most `false_alarms`: flag one new image from it on.

        None where the references cannot tell at this rate, whatever the score.
        """
        allowed = int(false_alarms * (1 + self.scores.size)) - 1  # references that may score higher
        if allowed < 0 or self.scores.size < MIN_REFERENCES:
            return None
        return float(np.nextafter(self.scores[-1 - allowed], np.inf))

    def judge(self, scores: npt.ArrayLike, false_alarms: float = FALSE_ALARMS) -> Threshold:
        """Verdicts of new images; see `judge_by_references`."""
        x = np.asarray(scores, dtype=np.float64)
        p = self.p_values(x)
        flagged = _discoveries(p, false_alarms)
        look = ~flagged & (x > self.scores[-1])
        return Threshold(
            float(x[flagged].min()) if flagged.any() else None,
            "references",
            verdicts_of(flagged, look),
            f"{int(flagged.sum())} of {x.size} images flagged, {int(look.sum())} to look at",
            float(min(1.0, p.min() * x.size)),
            p,
            false_alarms,
        )


def judge_by_references(
    scores: npt.ArrayLike,
    reference_scores: npt.ArrayLike,
    *,
    false_alarms: float = FALSE_ALARMS,
    patch_scores: npt.ArrayLike | None = None,
    reference_patch_scores: npt.ArrayLike | None = None,
) -> Threshold:
    """Flag the images that score higher than references among each other. Needs no labels.

    scores: [N] raw image scores against the references; N = 1 will do.
    reference_scores: [n] leave-one-out raw scores of the references.
    false_alarms: in (0, 0.5]; at most this share of the flagged images is good, in the mean over
        many batches (Benjamini and Hochberg 1995), so that a batch of good images has a flag with
        at most this chance.
    patch_scores, reference_patch_scores: [N, H, W] and [n, H, W], the patch scores of both.

    Raises InputError where an argument is not so.
    """
    return ReferenceScale(reference_scores, reference_patch_scores).judge(scores, false_alarms)


def _discoveries(p: _Floats, rate: float) -> npt.NDArray[np.bool_]:
    """Benjamini and Hochberg's choice among p-values [N] at this false discovery rate."""
    ordered = np.sort(p)
    passing = np.flatnonzero(ordered <= rate * np.arange(1, p.size + 1) / p.size)
    return np.asarray(p <= ordered[passing[-1]] if passing.size else np.zeros(p.size, np.bool_))
