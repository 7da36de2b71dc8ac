"""How long a search would take in spaces of different sizes, estimated from a few patches."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .directions import PANEL, Products
from .steps import LEVELS

PREFIXES = (31, 47, 63, 95)  # sizes of a basis; with the tail norm the words fill whole vectors
# With fewer references than this, choosing the space is a fifth of the search, so it takes one
# power iteration and one image instead of two of each: 2 to 6% faster at 16 images, up to 10% more
# candidates.
FEW_REFERENCES = 32
# Seconds a core, measured on Zen 4; only their ratios matter.
_PER_OPERATION = 1 / 400e9  # of the first pass
_PER_SCANNED = 1 / 300e9  # of scanning a segment again, an operation
_PER_PROJECTED = 1 / 100e9  # of projecting on the basis and back, an operation
_PER_CANDIDATE = 25e-9  # closer looks, and the distances of the few candidates that they leave
_PER_IMAGE = 160e-9  # examining an image and recomputing one distance, plus:
_PER_CHANNEL = 0.1e-9


@dataclass(frozen=True)
class Workload:
    """The search that a space is chosen for.

    references: images that each query is compared with.
    symmetric: the references are the queries.
    k_max: nearest images wanted of each patch.
    segment: patches of a segment, where the space has a basis.
    """

    references: int
    symmetric: bool
    k_max: int
    segment: int


def estimate_costs(
    products: Products,
    z: Tensor,
    images: Tensor,
    mean: Tensor,
    directions: Tensor,
    work: Workload,
) -> dict[int, float]:
    """Seconds a core and patch that a search would take, by prefix (C: all channels).

    z [N, P, C] are the queries, images [M, Q, C] the references, directions [C, m] float64 a basis
    whose first columns are tried.
    """
    channels, patches = z.shape[2], images.shape[1]
    counts = _count_candidates(products, z, images, mean, directions, work)
    pass_over = work.references * patches * (0.5 if work.symmetric else 1.0)
    costs = {}
    for prefix, found in counts.items():
        candidates = sum(found) / len(found)
        # In all channels a segment is one panel, which seldom contains two candidates.
        segment, share = (work.segment, 0.07) if prefix < channels else (PANEL, 1.0)
        scans = min(1 + share * candidates, -(-patches // segment))
        scan = scans * segment * 2 * prefix * _PER_SCANNED
        examine = candidates * _PER_CANDIDATE + _PER_IMAGE + channels * _PER_CHANNEL
        project = 4 * channels * prefix * _PER_PROJECTED
        if prefix >= channels:  # No closer looks: every candidate's distance is recomputed.
            examine += candidates * channels * _PER_CHANNEL
            project = 0.0
        costs[prefix] = (
            project
            + pass_over * 2 * (prefix + 4) * _PER_OPERATION
            + 2 * work.k_max * (scan + examine)
        )
    return costs


def _count_candidates(
    products: Products,
    z: Tensor,
    images: Tensor,
    mean: Tensor,
    directions: Tensor,
    work: Workload,
) -> dict[int, list[float]]:
    """Candidates a patch that the bound would leave, by prefix: one mean for each image tried."""
    channels = z.shape[2]
    generator = torch.Generator("cpu").manual_seed(3)
    picks = torch.randint(
        z.shape[0] * z.shape[1], (64,), generator=generator, dtype=torch.int64, device="cpu"
    )
    x = z.view(-1, channels)[picks].float() - mean
    thirds = [images.shape[0] // 3, (2 * images.shape[0]) // 3]
    others = sorted(set(thirds[: 1 if work.references < FEW_REFERENCES else 2]))
    counts: dict[int, list[float]] = {}
    basis = directions.float()
    x_inside, x_square = x @ basis, x.square().sum(1)

    def count(prefix: int, candidates: Tensor, use: Tensor) -> None:
        mean_count = float(candidates[use].mean()) if bool(use.any()) else 1.0
        counts.setdefault(prefix, []).append(mean_count)

    for image in others:
        use = torch.ones(len(picks), dtype=torch.bool, device="cpu")
        if work.symmetric:  # a patch is not compared with its own image
            use = torch.div(picks, z.shape[1], rounding_mode="floor") != image
        y = images[image].float()  # tables are [patches of y, picks]
        y_inside, y_square = products(y, basis, mean), (y - mean).norm(dim=1).square()
        square = (x_square + y_square[:, None] - 2 * products(y, x.T, mean)).clamp_min(0)
        nearest = square.amin(0).sqrt()
        done, prefix_square = 0, torch.zeros_like(square)
        x_left, y_left = x_square.clone(), y_square.clone()
        for prefix in [m for m in PREFIXES if m <= directions.shape[1]]:
            a, b = x_inside[:, done:prefix], y_inside[:, done:prefix]
            x_part, y_part = a.square().sum(1), b.square().sum(1)
            prefix_square += x_part + y_part[:, None] - 2 * (b @ a.T)
            x_left, y_left = (x_left - x_part).clamp_min(0), (y_left - y_part).clamp_min(0)
            done = prefix
            lower = prefix_square + (x_left.sqrt() - y_left.sqrt()[:, None]).square()
            inside = float((y_square - y_left).mean())
            rho = _expected_rho(inside, prefix + 1)
            left = (lower.clamp_min(0).sqrt() - 2 * rho <= nearest).sum(0).double()
            count(prefix, left, use)
        rho = _expected_rho(float(y_square.mean()), channels)
        count(channels, (square.sqrt() - 2 * rho <= nearest).sum(0).double(), use)
    return counts


def _expected_rho(square: float, channels: int) -> float:
    """The rounding error of rows of mean square norm `square`, spread over `channels`."""
    # 2.8 standard deviations reach the last level: what best_step() finds on real features.
    step = 2.8 * math.sqrt(square / channels) / LEVELS
    return step * math.sqrt(channels / 12)
