"""Thresholds and normalisation as anomalib shows them, without anomalib.

A score x >= 0 with the threshold t is shown as x / (x + t): in 0..1, 0.5 at the threshold, and
strictly increasing without an upper end, so that the highest scores do not tie. anomalib's own rule
cuts everything above the threshold by half the range of the validation scores to 1.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import torch
from torch import Tensor

ThresholdRule = Literal["auto", "f1"]


def check_threshold(threshold: object) -> ThresholdRule | float:
    """The threshold of a user; raises ValueError where it is none."""
    if threshold == "auto":
        return "auto"
    if threshold == "f1":
        return "f1"
    number = isinstance(threshold, int | float) and not isinstance(threshold, bool)
    if not number or not (math.isfinite(float(threshold)) and float(threshold) >= 0):  # type: ignore[arg-type]
        raise ValueError(
            f"threshold: found {threshold!r}, wanted 'auto' (no labels), 'f1' (labelled validation "
            "images) or a raw score, 0 or more"
        )
    return float(threshold)  # type: ignore[arg-type]


def at_least(level: float) -> Tensor:
    """The lowest float32 that is not below a level: float32 scores reach both or neither."""
    near = np.float32(level)
    if float(near) < level:
        near = np.nextafter(near, np.float32(np.inf))
    return torch.tensor(float(near), dtype=torch.float32, device="cpu")


def at_sensitivity(threshold: Tensor, sensitivity: float) -> Tensor:
    """The score from which on is flagged, where shown scores are flagged from 1 - sensitivity on.

    0.5 gives the threshold itself, 1 flags everything, 0 nothing.
    """
    if not 0 <= sensitivity <= 1:
        raise ValueError(f"sensitivity: found {sensitivity!r}, wanted 0 to 1")
    if sensitivity == 0:
        return torch.full_like(threshold, math.inf)
    return threshold * ((1 - sensitivity) / sensitivity)


def flagged(scores: Tensor, threshold: Tensor) -> Tensor:
    """Which scores reach the threshold: at or above, bool."""
    return scores >= threshold.to(scores.device)


def shown(scores: Tensor, middle: Tensor) -> Tensor:
    """Scores >= 0 as shown, in 0..1; a score of `middle` is shown as 0.5.

    middle: 0 or more, finite.
    """
    middle = middle.to(scores.device)
    both = scores + middle
    return torch.where(both > 0, scores / both, torch.full_like(scores, 0.5))
