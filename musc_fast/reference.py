"""The truth: MuSc in plain PyTorch, any float dtype, any device, no cleverness.

Every kernel is tested against these functions in fp64. They follow Li et al., "MuSc: Zero-Shot
Industrial Anomaly Classification and Segmentation with Mutual Scoring of the Unlabeled Images",
ICLR 2024, sections 3.1 to 3.3, and the official code to the digit; where we differ on purpose, the
docstring says so.

Shapes: N images (queries), M reference images, P patches on an H x W grid (P = H W), C channels.
Within a batch M = N and an image never counts as its own reference.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from .progress import Progress


def interval(topmin: tuple[float, float], count: int) -> tuple[int, int]:
    """Ranks [k_min, k_max) of the sorted distances that the interval mean averages.

    A bound below 1 is a fraction of `count` rounded down, a bound of 1 or more is a count; reversed
    bounds swap (official code). Ours: at least one neighbour always counts and none beyond
    `count`, where the official code gives NaN (N <= 4 with the default 0.3) or fails.
    """
    low, high = sorted(int(count * bound) if bound < 1 else int(bound) for bound in topmin)
    k_max = min(max(high, 1), count)
    return min(low, k_max - 1), k_max


def lnamd(tokens: Tensor, grid: tuple[int, int], degrees: Sequence[int]) -> list[Tensor]:
    """Local neighbourhood aggregation (paper 3.1): tokens [N, P, C] -> one Z [N, P, C] a degree.

    LayerNorm over (C, H, W) jointly (eps 1e-5, no affine), then an r x r mean at stride 1 whose
    zero padding counts (it always divides by r^2), then L2 normalisation over C. A zero vector
    stays zero. Degrees are odd. Results have the dtype of `tokens`.
    """
    n, p, c = tokens.shape
    height, width = grid
    maps = tokens.transpose(1, 2).reshape(n, c, height, width)
    maps = F.layer_norm(maps, maps.shape[1:], eps=1e-5)
    pooled = [
        F.avg_pool2d(maps, degree, stride=1, padding=degree // 2, count_include_pad=True)
        for degree in degrees
    ]
    return [
        F.normalize(z.reshape(n, c, p).transpose(1, 2), dim=2, eps=1e-12).contiguous()
        for z in pooled
    ]


def fuse_degrees(pooled: Sequence[Tensor]) -> Tensor:
    """The mean of LNAMD's results over the degrees, L2-normalised over C -> Z [N, P, C].

    Ours: one search of Z stands in for one a degree. A zero vector stays zero.
    """
    # In this order, so that an image's bits do not depend on the images beside it.
    total = pooled[0].clone()
    for other in pooled[1:]:
        total += other
    total /= len(pooled)
    return F.normalize(total, dim=2, eps=1e-12, out=total)


def within_reach(grid: tuple[int, int], reach: int) -> Tensor:
    """Whether two patches of a grid (H, W) lie at most `reach` places apart -> [P, P] bool.

    Places are counted along rows and columns, whichever is more (Chebyshev distance).
    """
    height, width = grid
    place = torch.arange(height * width, dtype=torch.int64, device="cpu")
    row, column = place // width, place % width
    apart = torch.maximum(
        (row[:, None] - row[None, :]).abs(), (column[:, None] - column[None, :]).abs()
    )
    return apart <= reach


def pair_distances(x: Tensor, y: Tensor, allowed: Tensor | None = None) -> Tensor:
    """Distance of every row of x [P, C] to its nearest row of y [Q, C] -> [P].

    allowed: [P, Q] bool, the pairs that are compared; None: all.


    The matrix product |x|^2 + |y|^2 - 2xy finds the nearest row; its distance is then taken
    directly as sqrt(sum (x-y)^2), because the expansion has no correct digit near zero.
    """
    squared = (x * x).sum(1)[:, None] + (y * y).sum(1)[None, :] - 2 * (x @ y.T)  # [P, Q]
    if allowed is not None:
        squared = squared.masked_fill(~allowed, math.inf)
    nearest: Tensor = torch.linalg.vector_norm(x - y[squared.argmin(dim=1)], dim=1)
    return nearest


def _distances_of_image(
    z: Tensor, i: int, references: Tensor | None, allowed: Tensor | None
) -> Tensor:
    """Distances of the patches of image i to every reference image -> [P, M]; its own is +inf."""
    others = z if references is None else references
    columns = [
        torch.full_like(z[i, :, 0], math.inf)
        if references is None and j == i
        else pair_distances(z[i], others[j], allowed)
        for j in range(others.shape[0])
    ]
    return torch.stack(columns, dim=1)


def patch_to_image(
    z: Tensor,
    references: Tensor | None = None,
    progress: Progress | None = None,
    allowed: Tensor | None = None,
) -> Tensor:
    """D[i, p, j] = min over q of ||z[i, p] - y[j, q]|| -> [N, P, M]; the self entry is +inf.

    `references` [M, Q, C] are the other images; None means the batch itself. `allowed` [P, Q] bool,
    as from `within_reach`, are the pairs of patches that are compared; None means all.
    """
    rows = []
    for i in range(z.shape[0]):
        rows.append(_distances_of_image(z, i, references, allowed))
        if progress is not None:
            progress(i + 1, z.shape[0])
    return torch.stack(rows)


def interval_mean(distances: Tensor, k_min: int, k_max: int) -> Tensor:
    """Mean of the sorted distances with ranks k_min to k_max - 1: [..., M] -> [...].

    +inf marks an image that does not count (the image itself); it sorts behind all others.
    """
    return distances.sort(dim=-1).values[..., k_min:k_max].mean(dim=-1)


def msm(
    z: Tensor,
    references: Tensor | None,
    k_min: int,
    k_max: int,
    progress: Progress | None = None,
    allowed: Tensor | None = None,
) -> Tensor:
    """Mutual scoring (paper 3.2): the interval mean of `patch_to_image` -> [N, P].

    One image at a time, so that the distances of the whole batch are never held.
    """
    rows = []
    for i in range(z.shape[0]):
        rows.append(interval_mean(_distances_of_image(z, i, references, allowed), k_min, k_max))
        if progress is not None:
            progress(i + 1, z.shape[0])
    return torch.stack(rows)


def upsample(patch_scores: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear, align_corners=True: patch scores [N, H, W] -> anomaly maps [N, h, w]."""
    return F.interpolate(patch_scores[:, None], size=size, mode="bilinear", align_corners=True)[
        :, 0
    ]


def rscin(scores: Tensor, cls_tokens: Tensor, neighbors: Sequence[int]) -> Tensor:
    """Re-scoring with constrained image-level neighbourhood (paper 3.3): [N], [N, D] -> [N].

    Scores are scaled to [0, 1]; for each k every score becomes the mean over the image's k most
    similar images (itself among them), weighted by the inner product of the class tokens; the
    results are averaged over k. Ours: k is clipped to N, a constant batch stays as it is, and a
    negative inner product weighs nothing (opposite class tokens could cancel to 0 / 0).
    """
    low, high = scores.min(), scores.max()
    if low == high:
        return scores.clone()
    scaled = (scores - low) / (high - low)
    similarity = (cls_tokens @ cls_tokens.T).clamp(min=0)  # [N, N]
    rescored = []
    for k in neighbors:
        weights, index = similarity.topk(min(k, scores.shape[0]), dim=1)  # [N, k]
        rescored.append((weights * scaled[index]).sum(1) / weights.sum(1))
    return torch.stack(rescored).mean(dim=0)
