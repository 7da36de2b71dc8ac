"""Defects that repeat: links between images that hide one and the same defect are left out.

A defect on several images of a batch has twins there, and scores low. Its patches give themselves
away: the distances to the images that have the defect are small, then comes a jump, and the images
before the jump are the same ones, seen from every patch of the defect and from every image that has
it. Such a group of images is a `Repeat`; at its place its images are scored against all others
alone. A normal patch finds its like in a growing number of images, without a jump, or with one
whose images differ from patch to patch, or whose far side is as near as usual.

The idea is that of CoDeGraph (Le-Gia and Ahn, "On the Problem of Consistent Anomalies in Zero-Shot
Industrial Anomaly Detection", arXiv 2510.10456): links that end abruptly, images that share many of
them as communities. The evidence and the rules here are our own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from .. import reference
from ..backends.base import Operators

FEWEST = 3  # images that share a defect; a pair hides a small part of it only
_JUMP = 1.25  # the first distance behind the links, to the last of them
_SPREADS = 3.0  # above the median image, in spreads of the lower half of the image scores
_LEAST_SPREAD = 0.03  # of the median: the spread of very even batches is chance
_ALIKE = 0.6  # Jaccard index of two sets of images from which they are taken for one
_AGREEING = 2 / 3  # of a set's images must have the same set before a jump of their own
_COMPLEMENT = 0.75  # of the batch: two sets apart that are more are two sides of one difference
_MOST_SETS = 2048  # different sets that are compared with each other
_KEPT = 4  # an image keeps the strongest 1 / _KEPT of its patches as evidence

# Distances [P, N] of the patches of images to all images, one after another; +inf to itself.
Rows = Callable[[Sequence[int]], Iterator[Tensor]]
_Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Repeat:
    """Images that share a defect, and where.

    images: places in the batch, ascending. patches: places on the grid, row by row, ascending.
    excess: by how much the scores of its patches rose in all; the larger, the surer.
    """

    images: tuple[int, ...]
    patches: tuple[int, ...]
    excess: float


@dataclass(frozen=True)
class _Evidence:
    """Patches with a jump: the place, the images before it with the own one, what is gained."""

    images: NDArray[np.int64]
    patches: NDArray[np.int64]
    sets: _Bools
    scores: NDArray[np.float64]  # without the links
    excess: NDArray[np.float64]  # `scores` less those with the links


def scores_without_links(
    rows: Rows,
    images: int,
    grid: tuple[int, int],
    operators: Operators,
    topmin: tuple[float, float],
    bounds: tuple[int, int],
) -> tuple[Tensor, list[Repeat]]:
    """Patch scores [N, P] float32 without the links of repeated defects, and these.

    bounds: the ranks that the interval mean averages of all distances of a patch; what is left
        without links has those of `topmin`.

    Memory: two images' distances and their order, and the evidence, a quarter of the patches with
    N bits each at most.
    """
    scores, found = [], []
    for image, distances in enumerate(rows(range(images))):
        own = operators.interval_mean(distances[None], *bounds)[0]
        scores.append(own)
        found.append(_jumps(image, distances, own, topmin, bounds[1]))
    total = torch.stack(scores)
    repeats = _repeats(_joined(found), total.amax(dim=1).double().cpu().numpy(), grid)
    for repeat in repeats:
        _leave_out(total, repeat, rows, operators, topmin)
    return total, repeats


def _jumps(
    image: int,
    distances: Tensor,
    scores: Tensor,
    topmin: tuple[float, float],
    k_max: int,
) -> _Evidence:
    """The patches of an image whose sorted distances jump after so many links that they count.

    distances: [P, N], +inf to itself. scores: [P].
    """
    others = distances.shape[1] - 1
    fewest, most = max(FEWEST - 1, -(-k_max // 3)), (others + 1) // 2 - 1
    if most < fewest:
        return _no_evidence(others + 1)
    ordered = distances.double().sort(dim=1)
    sums = F.pad(ordered.values[:, :others].cumsum(dim=1), (1, 0))  # [P, N]
    device = distances.device
    ranks = torch.arange(fewest, most + 1, dtype=torch.int64, device=device)
    jumps = ordered.values[:, ranks] / ordered.values[:, ranks - 1].clamp_min(1e-12)
    jump, place = jumps.max(dim=1)
    ends = [reference.interval(topmin, others - links) for links in range(fewest, most + 1)]
    low, high = torch.tensor(ends, dtype=torch.int64, device=device)[place].T + ranks[place]
    without = (sums.gather(1, high[:, None]) - sums.gather(1, low[:, None]))[:, 0] / (high - low)
    excess = without - scores
    strong = excess.masked_fill(jump < _JUMP, -1.0).topk(max(1, len(excess) // _KEPT))
    chosen = strong.indices[strong.values > 0]
    every = torch.arange(others + 1, dtype=torch.int64, device=device)
    before = every < ranks[place[chosen], None]
    sets = torch.zeros(len(chosen), others + 1, dtype=torch.bool, device=device)
    sets.scatter_(1, ordered.indices[chosen], before)
    sets[:, image] = True
    return _Evidence(
        np.full(len(chosen), image),
        chosen.cpu().numpy(),
        sets.cpu().numpy(),
        without[chosen].cpu().numpy(),
        excess[chosen].cpu().numpy(),
    )


def _no_evidence(images: int) -> _Evidence:
    none, nothing = np.zeros(0, np.int64), np.zeros(0)
    return _Evidence(none, none, np.zeros((0, images), np.bool_), nothing, nothing)


def _joined(parts: Sequence[_Evidence]) -> _Evidence:
    names = ("images", "patches", "sets", "scores", "excess")
    return _Evidence(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


def _repeats(
    evidence: _Evidence, image_scores: NDArray[np.float64], grid: tuple[int, int]
) -> list[Repeat]:
    """The groups of images that the evidence tells of, the strongest first.

    image_scores: [N], the highest patch score of each image. Without its links a patch of a defect
    reaches above what the lower half of these, which are normal or hidden, makes likely.
    """
    median = float(np.median(image_scores))
    lower = image_scores[image_scores <= median]
    spread = max(1.4826 * float(np.median(median - lower)), _LEAST_SPREAD * median)
    rises = np.flatnonzero(evidence.scores >= median + _SPREADS * spread)
    if not len(rises):
        return []
    packed, which = np.unique(
        np.packbits(evidence.sets[rises], axis=1), axis=0, return_inverse=True
    )
    which = which.reshape(-1)
    weights = np.bincount(which, evidence.excess[rises], minlength=len(packed))
    kept = np.argsort(-weights, kind="stable")[:_MOST_SETS]
    count = evidence.sets.shape[1]
    sets = np.unpackbits(packed[kept], axis=1, count=count).astype(np.float32)
    place = np.full(len(packed), -1)
    place[kept] = np.arange(len(kept))
    rises, which = rises[place[which] >= 0], place[which[place[which] >= 0]]
    shared = sets @ sets.T
    sizes = sets.sum(axis=1)
    alike = shared >= _ALIKE * (sizes[:, None] + sizes[None] - shared)
    owners = np.zeros_like(sets)
    owners[which, evidence.images[rises]] = 1
    agreeing = ((alike.astype(np.float32) @ owners > 0) & (sets > 0)).sum(axis=1)
    sure = agreeing >= np.maximum(FEWEST, np.ceil(_AGREEING * sizes))
    groups = [rises[np.isin(which, group)] for group in _components(alike, sure)]
    found = [_repeat(evidence, group) for group in groups]
    fitting = [each for each in found if FEWEST <= len(each.images) <= count // 2]
    repeats = _one_side(sorted(fitting, key=lambda each: -each.excess), count, grid)
    return [replace(each, patches=tuple(widened(each.patches, grid))) for each in repeats]


def _components(alike: _Bools, sure: _Bools) -> list[list[int]]:
    """The sets that are sure, in groups linked by likeness."""
    left, groups = set(np.flatnonzero(sure).tolist()), []
    while left:
        group, frontier = [], [left.pop()]
        while frontier:
            group.append(frontier.pop())
            near = left & set(np.flatnonzero(alike[group[-1]]).tolist())
            left -= near
            frontier += near
        groups.append(sorted(group))
    return sorted(groups)


def _repeat(evidence: _Evidence, group: NDArray[np.int64]) -> Repeat:
    """The images in at least half of the group's sets, and where those have the evidence."""
    images = np.flatnonzero(evidence.sets[group].mean(axis=0) >= 0.5)
    own = group[np.isin(evidence.images[group], images)]
    return Repeat(
        tuple(images.tolist()),
        tuple(np.unique(evidence.patches[own]).tolist()),
        float(evidence.excess[own].sum()),
    )


def _one_side(repeats: Sequence[Repeat], count: int, grid: tuple[int, int]) -> list[Repeat]:
    """The repeats without those that are the other side of a stronger one.

    Where half of a batch has a defect, the other half stands together at that place, too. A defect
    is unlike anything in the other images, and what it covers is often found elsewhere in them: its
    side is the stronger.
    """
    kept: list[Repeat] = []
    for each in repeats:
        area = set(widened(each.patches, grid))
        others = (
            other
            for other in kept
            if not set(each.images) & set(other.images)
            and len(each.images) + len(other.images) >= _COMPLEMENT * count
        )
        if not any(area & set(other.patches) for other in others):
            kept.append(each)
    return kept


def widened(patches: Sequence[int], grid: tuple[int, int]) -> list[int]:
    """The patches of a grid and those beside them, ascending."""
    area = torch.zeros(1, 1, *grid, dtype=torch.float32, device="cpu")
    area.view(-1)[list(patches)] = 1
    wide: list[int] = F.max_pool2d(area, 3, stride=1, padding=1).flatten().nonzero()[:, 0].tolist()
    return wide


def _leave_out(
    scores: Tensor,
    repeat: Repeat,
    rows: Rows,
    operators: Operators,
    topmin: tuple[float, float],
) -> None:
    """Raise the scores [N, P] at the place of a repeat to those without its links."""
    bounds = reference.interval(topmin, scores.shape[0] - len(repeat.images))
    members = list(repeat.images)
    for image, distances in zip(members, rows(members), strict=True):
        some = distances[list(repeat.patches)].clone()
        some[:, members] = torch.inf
        found = operators.interval_mean(some[None], *bounds)[0]
        places = torch.tensor(repeat.patches, dtype=torch.int64, device=scores.device)
        scores[image, places] = torch.maximum(scores[image, places], found)


def merged(repeats: Sequence[Repeat]) -> tuple[Repeat, ...]:
    """The repeats of several passes as one list: those of mostly the same images are one."""
    found: list[Repeat] = []
    for each in sorted(repeats, key=lambda repeat: -repeat.excess):
        for place, other in enumerate(found):
            own, others = set(each.images), set(other.images)
            if len(own & others) >= _ALIKE * len(own | others):
                patches = tuple(sorted({*each.patches, *other.patches}))
                found[place] = Repeat(other.images, patches, other.excess + each.excess)
                break
        else:
            found.append(each)
    return tuple(found)
