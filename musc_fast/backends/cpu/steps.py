"""The steps that rows are rounded in: what a bound loses to rounding, and to clipping.

What lies beyond the largest level is clipped. That brings no two rows further apart, so the bound
needs no allowance for it (csrc/cpu/search.hpp); it only sees less of the rows that lie far out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

LEVELS = 127  # of int8, to either side
_PAIRS = 64
_SHARES = tuple(0.9**power for power in range(16))  # of a step that clips nothing but rows far out
_FAR_OUT = 0.06  # share of the pairs that a step need not suit
_LEAST = 1e-23  # a step's levels may not vanish in float32


@dataclass(frozen=True)
class NearRows:
    """Rows of a sample and the nearest other row of each that is not the same, as indices.

    Where there is none: some rows with themselves.
    """

    rows: Tensor
    others: Tensor

    @classmethod
    def of(cls, sample: Tensor) -> NearRows:
        """Of `sample` [n, m]: up to 64 of its rows against the rest of them."""
        count = min(_PAIRS, len(sample) // 4)
        rows = torch.arange(count)
        if count > 0:
            distances = torch.cdist(sample[:count], sample[count:])
            same = 0.01 * distances.median()  # or as good as
            near = distances.where(distances > same, math.inf).min(1)
            others = near.indices + count
            # cdist sees equal rows at some distance.
            apart = (sample[rows] != sample[others]).any(1) & (near.values < math.inf)
            rows, others = rows[apart], others[apart]
        if len(rows) == 0:
            rows = torch.arange(min(_PAIRS, len(sample)))
            return cls(rows, rows)
        return cls(rows, others)

    def __call__(self, of: Tensor) -> tuple[Tensor, Tensor]:
        """Both rows of each pair in `of` [n, C]: another view of the sample."""
        return of[self.rows], of[self.others]


def clipped_distances(x: Tensor, y: Tensor, most: float) -> Tensor:
    """The distances of rows x to y [n, m] once their values are brought within +-most."""
    distances: Tensor = (x.clamp(-most, most) - y.clamp(-most, most)).norm(dim=1)
    return distances


def safe_step(rows: Tensor, levels: int = LEVELS) -> float:
    """The step that clips next to nothing of rows [n, m]."""
    return max(1.12 * float(rows.abs().max()), _LEAST) / levels


def best_step(x: Tensor, y: Tensor) -> float:
    """The int8 step whose bound leaves the most of the distances of rows x to y [n, m].

    A finer step clips more and rounds less (each row by sqrt(m / 12) steps): from the coarsest on,
    finer ones are tried until the bound is no better. Judged by a low quantile of the pairs, not by
    their mean, which a few rows far out would decide.
    """
    most = torch.cat((x, y)).abs().amax(1)
    step = max(min(float(most.max()), 2.0 * float(most.quantile(0.95))), _LEAST) / LEVELS
    distances = (x - y).norm(dim=1).clamp_min(_LEAST)
    rounding = 2.0 * math.sqrt(x.shape[1] / 12)
    if torch.equal(x, y):
        return step
    best, found = -math.inf, step
    for share in _SHARES:
        finer = share * step
        known = clipped_distances(x, y, LEVELS * finer) - rounding * finer
        bound = float((known / distances).quantile(_FAR_OUT))
        if bound <= best:
            break
        best, found = bound, finer
    return found


def distance_ratio(true: Tensor, known: Tensor) -> float:
    """By how much distances exceed what is known of them, for nine of ten."""
    ratio = float((true / known.clamp_min(1e-30)).quantile(0.9))
    return min(max(ratio, 1.0), 8.0)
