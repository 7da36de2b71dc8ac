"""A decision by references: does an image score higher than good images score among each other?

The scale is made of the references' leave-one-out scores: each against the other references, its
interval mean over as many neighbours as that of a new image (`MuSc.leave_one_out`,
`ReferenceBank.leave_one_out`). A new image has one reference more to choose its nearest from, so
it scores no higher than it would in a reference's place. Where it is as good as they are, all
orders of the n + 1 images are equally likely, and its conformal p-value

    p = (1 + references that score as high) / (n + 1)

is at most t with chance t at most, for every t and every distribution of scores (Vovk, Gammerman
and Shafer 2005). It cannot fall below 1 / (n + 1). For an image above all references the model of
the tail in `tail.py`, fitted to the references, goes on from there: a rate below 1 / (n + 1) is
kept as far as that model holds.

References that stand apart from the others, as defects among unlabelled ones do, are left out of
the count and of the fit: up to a quarter of them (`SUSPECTS_AT`).

What was measured of all this: docs/verdict.md.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ..errors import InputError
from .peaks import check_patch_scores, next_peaks
from .result import Threshold, check_scores, verdicts_of
from .tail import fit_tail, standing_out

FALSE_ALARMS = 0.01
FALSE_DISCOVERIES = 0.1
MIN_REFERENCES = 5
SUSPECTS_AT = 0.01
_Floats = npt.NDArray[np.float64]


class ReferenceScale:
    """The scores of good images, by which new ones are judged.

    scores: [n] leave-one-out raw scores of the references.
    patch_scores: [n, H, W] of the same, with which the tail is known better; None: unknown.

    suspects: the references, by index, that stand apart from the others and do not count.

    Raises InputError where the scores are not [n] with n > 0 or the patch scores not [n, H, W], not
    finite or negative.
    """

    def __init__(self, scores: npt.ArrayLike, patch_scores: npt.ArrayLike | None = None) -> None:
        given = np.asarray(scores, dtype=np.float64)
        check_scores("reference_scores", given)
        order = np.argsort(given, kind="stable")
        ordered = given[order]
        peaks = None
        if patch_scores is not None:
            patches = check_patch_scores("reference_patch_scores", patch_scores, given)
            peaks = next_peaks(patches, given)[order]
        apart = 0
        if given.size >= 2 * MIN_REFERENCES and ordered[0] < ordered[-1]:
            p_value, count = standing_out(ordered, peaks)
            apart = count if p_value <= SUSPECTS_AT else 0
        self.scores = ordered[: ordered.size - apart]
        self.suspects = np.flatnonzero(given > self.scores[-1])
        fits = self.scores.size >= MIN_REFERENCES and self.scores[-1] > 0
        self._tail = fit_tail(ordered, apart, peaks) if fits else None

    def p_values(self, scores: npt.ArrayLike) -> _Floats:
        """How often, at most, a good image scores as high as each of `scores` [N] -> [N]."""
        x = np.asarray(scores, dtype=np.float64)
        reaching = self.scores.size - np.searchsorted(self.scores, x, side="left")
        p: _Floats = (1 + reaching) / (1 + self.scores.size)
        above = reaching == 0
        if self._tail is not None and above.any():
            p[above] = np.minimum(p[above], self._tail.survival(x[above]))
        return p

    def level(self, false_alarms: float = FALSE_ALARMS) -> float | None:
        """The lowest score whose p-value is at most `false_alarms`: flag one new image from it on.

        None where the references cannot tell at this rate, whatever the score.
        """
        _check_rate(false_alarms)
        allowed = self._reaching_at(false_alarms)
        if allowed >= 0:
            return float(np.nextafter(self.scores[-1 - allowed], np.inf))
        if self._tail is None:
            return None
        return max(self._tail.level(false_alarms), float(np.nextafter(self.scores[-1], np.inf)))

    def judge(self, scores: npt.ArrayLike, false_alarms: float = FALSE_ALARMS) -> Threshold:
        """Verdicts of new images; see `judge_by_references`."""
        x = np.asarray(scores, dtype=np.float64)
        check_scores("scores", x)
        _check_rate(false_alarms)
        p = self.p_values(x)
        unusual = p <= false_alarms
        flagged = unusual & _discoveries(p, max(FALSE_DISCOVERIES, false_alarms))
        look = ~flagged & (unusual | self._too_close_to_tell(x, false_alarms))
        return Threshold(
            float(x[flagged].min()) if flagged.any() else None,
            "references",
            verdicts_of(flagged, look),
            self._reason(flagged, look, false_alarms),
            None,
            p,
            false_alarms,
        )

    def _reaching_at(self, false_alarms: float) -> int:
        """How many references may score as high as an image flagged at this rate; -1: the rate
        lies below what counting can tell."""
        n = self.scores.size
        return int(np.floor(false_alarms * (1 + n) * (1 + 1e-12))) - 1

    def _too_close_to_tell(self, x: _Floats, false_alarms: float) -> npt.NDArray[np.bool_]:
        """Images above all references that are as likely as not rarer than the rate, [N]."""
        above = np.asarray(x > self.scores[-1])
        if self._tail is not None and above.any():
            above[above] = self._tail.median_survival(x[above]) <= false_alarms
        return above

    def _reason(
        self,
        flagged: npt.NDArray[np.bool_],
        look: npt.NDArray[np.bool_],
        false_alarms: float,
    ) -> str:
        n, rate = self.scores.size, f"{100 * false_alarms:g}%"
        count, unsure = int(flagged.sum()), int(look.sum())
        verb = "scores" if count == 1 else "score"
        text = (
            f"{count} of {flagged.size} {verb} higher than {n} references by more than chance"
            if count
            else "none flagged: "
            + ("a decision is not certain" if unsure else f"all score like the {n} references")
        )
        if unsure:
            text += f"; look at {unsure} yourself, the references cannot tell"
        if self._tail is None:
            text += f" ({n} references are too few to flag by, at least {MIN_REFERENCES})"
        elif self._reaching_at(false_alarms) >= 0:
            text += f" (at most {rate} of good images would be flagged)"
        else:
            text += (
                f" (at most {rate} of good images would be flagged, by a model of the tail: "
                f"counting {n} references tells rates from {100 / (n + 1):.2g}% on)"
            )
        if self.suspects.size:
            verb = "stands" if self.suspects.size == 1 else "stand"
            text += (
                f"; {self.suspects.size} of {n + self.suspects.size} references {verb} apart and "
                "were not counted: look whether they are good"
            )
        return text


def judge_by_references(
    scores: npt.ArrayLike,
    reference_scores: npt.ArrayLike,
    *,
    reference_patch_scores: npt.ArrayLike | None = None,
    false_alarms: float = FALSE_ALARMS,
) -> Threshold:
    """Flag the images that score higher than references among each other. Needs no labels.

    An image is flagged where a good one would score as high with chance `false_alarms` at most, and
    where Benjamini and Hochberg's (1995) procedure keeps it among the batch's: in the mean at most
    `FALSE_DISCOVERIES` of the flagged images are good, and a batch of good images has a flag with
    at most this chance, however large it is. "look" is the verdict where only the first holds, and
    where an image above all references is as likely as not rarer than `false_alarms`.

    scores: [N] raw image scores against the references; N = 1 will do.
    reference_scores: [n] leave-one-out raw scores of the references.
    reference_patch_scores: [n, H, W], likewise, with which the tail is known better; None: unknown.
    false_alarms: in (0, 0.5].

    Raises InputError where an argument is not so.
    """
    scale = ReferenceScale(reference_scores, reference_patch_scores)
    return scale.judge(scores, false_alarms)


def _check_rate(false_alarms: float) -> None:
    if not 0 < false_alarms <= 0.5:
        raise InputError(f"false_alarms: found {false_alarms}, wanted a share above 0, at most 0.5")


def _discoveries(p: _Floats, rate: float) -> npt.NDArray[np.bool_]:
    """Benjamini and Hochberg's choice among p-values [N] at this false discovery rate."""
    ordered = np.sort(p)
    passing = np.flatnonzero(ordered <= rate * np.arange(1, p.size + 1) / p.size)
    return np.asarray(p <= ordered[passing[-1]] if passing.size else np.zeros(p.size, np.bool_))
