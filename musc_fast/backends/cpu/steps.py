"""The step that rows are rounded with: a fine step clips more values, a coarse one rounds more.

Values beyond the largest level are clipped. Clipping brings no two rows further apart, so the bound
holds without a correction (docs/exact-search.md); for outlier rows it is weaker, never wrong.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

LEVELS = 127  # of int8, to either side
_PAIRS = 64
_SHARES = tuple(
    0.9**power for power in range(16)
)  # tried, of the step that clips outlier rows only
_FAR_OUT = 0.06  # share of the pairs whose bound may get worse
_LEAST = 1e-23  # step times levels: above it no level vanishes in float32


@dataclass(frozen=True)
class NearRows:
    """Indices of some rows of a sample, and of the nearest different row of each.

    Where the sample has no two different rows, each row is its own neighbour.
    """

    rows: Tensor
    others: Tensor

    @classmethod
    def of(cls, sample: Tensor) -> NearRows:
        """The neighbours, among the other rows, of up to 64 rows of `sample` [n, m]."""
        count = min(_PAIRS, len(sample) // 4)
        rows = torch.arange(count, dtype=torch.int64, device=sample.device)
        if count > 0:
            distances = torch.cdist(sample[:count], sample[count:])
            same = 0.01 * distances.median()  # nearer rows count as the same row
            near = distances.where(distances > same, math.inf).min(1)
            others = near.indices + count
            # cdist rounds, so it finds equal rows at some distance.
            different = (sample[rows] != sample[others]).any(1) & (near.values < math.inf)
            rows, others = rows[different], others[different]
        if len(rows) == 0:
            count = min(_PAIRS, len(sample))
            rows = torch.arange(count, dtype=torch.int64, device=sample.device)
            return cls(rows, rows)
        return cls(rows, others)

    def __call__(self, of: Tensor) -> tuple[Tensor, Tensor]:
        """Both rows of each pair, from `of` [n, C]: the sample's rows in another form."""
        return of[self.rows], of[self.others]


def clipped_distances(x: Tensor, y: Tensor, most: float) -> Tensor:
    """The distances of rows x to y [n, m] once their values are brought within +-most."""
    distances: Tensor = (x.clamp(-most, most) - y.clamp(-most, most)).norm(dim=1)
    return distances


def safe_step(rows: Tensor, levels: int = LEVELS) -> float:
    """The step at which no value of rows [n, m] is clipped, with 12% to spare."""
    return max(1.12 * float(rows.abs().max()), _LEAST) / levels


def most_fine_levels(channels: int) -> int:
    """The largest level of a fine row, to either side: squared differences must sum in int32."""
    return min(math.isqrt((1 << 31) // channels) // 2 - 1, (1 << 14) - 1)


def best_step(x: Tensor, y: Tensor) -> float:
    """The int8 step with the largest lower bounds for the distances of rows x to y [n, m].

    A finer step clips more and rounds less (each row by sqrt(m / 12) steps): beginning with the
    coarsest step, finer ones are tried while the bound improves. A low quantile of the pairs
    decides; outlier rows would dominate the mean.
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
    """The ratio of `true` to `known` distances that nine pairs of ten do not exceed, 1 to 8."""
    ratio = float((true / known.clamp_min(1e-30)).quantile(0.9))
    return min(max(ratio, 1.0), 8.0)
