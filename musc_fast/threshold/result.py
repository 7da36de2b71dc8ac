"""What a decision says about each image: `Threshold`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from ..errors import InputError

Verdict = Literal["flagged", "look", "clear"]
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)


@dataclass(frozen=True)
class Threshold:
    """Which images to flag, which to look at, and why.

    value: images with score >= value are flagged; None where a rule flags none.
    rule: one of `RULES`, "references", "value" or "expected_defect_rate".
    verdicts: [N] of "flagged", "look" (the scores cannot tell: a person should look) or "clear".
    reason: a sentence for the reader.
    p_value: of the whole batch: how often, at most, an all-normal batch looks as extreme; None
        where no such test was made.
    p_values: [N], how often, at most, a normal image scores as high; None where no image was
        judged by itself.
    false_alarms: the stated rate, of good images by references, of all-normal batches by a rule;
        None where neither decided.
    look_share: the share of an undecided batch that a rule gives to be looked at; None where no
        such rule decided.
    """

    value: float | None
    rule: str
    verdicts: npt.NDArray[np.str_]
    reason: str
    p_value: float | None = None
    p_values: npt.NDArray[np.float64] | None = None
    false_alarms: float | None = None
    look_share: float | None = None

    @property
    def flagged(self) -> npt.NDArray[np.bool_]:
        """[N], which images are flagged."""
        return np.asarray(self.verdicts == "flagged")

    @property
    def look(self) -> npt.NDArray[np.bool_]:
        """[N], which images a person should look at, because the scores cannot tell."""
        return np.asarray(self.verdicts == "look")


def verdicts_of(
    flagged: npt.NDArray[np.bool_], look: npt.NDArray[np.bool_] | None = None
) -> npt.NDArray[np.str_]:
    """The verdicts [N] of images that are flagged [N], or else to be looked at [N]."""
    other: npt.NDArray[np.str_] = np.where(False if look is None else look, "look", "clear")
    return np.asarray(np.where(flagged, "flagged", other))


def check_scores(name: str, x: npt.NDArray[np.float64]) -> None:
    """Raise InputError naming the argument unless it is [N] finite scores of 0 or more, N > 0."""
    if x.ndim != 1 or x.size == 0:
        raise InputError(f"{name} must be [N] with N > 0, but are {list(x.shape)}")
    if not np.isfinite(x).all():
        index = int(np.flatnonzero(~np.isfinite(x))[0])
        raise InputError(f"{name}[{index}] is {x[index]}; scores must be finite")
    if x.min() < 0:
        index = int(x.argmin())
        raise InputError(f"{name}[{index}] is {x[index]:g}; raw image scores are 0 or more")
