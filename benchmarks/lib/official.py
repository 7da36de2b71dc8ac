"""The official mutual scoring, as its code computes it with torch.cdist, and its result in fp64.

Distances are those of every patch of one image to the nearest patch of each other image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor


def count_lowest(others: int) -> int:
    """How many of a patch's distances the official score averages: the lowest 30%."""
    return max(1, int(0.3 * others))


def mean_of_lowest(distances: Tensor, count: int) -> Tensor:
    """Mean [P] of the `count` lowest of the distances [P, M] of each patch."""
    return distances.topk(count, largest=False).values.mean(1)


def other_images(z: Tensor, i: int) -> list[Tensor]:
    """Every image [P, C] of z [N, P, C] but image i."""
    return [z[j] for j in range(len(z)) if j != i]


def distances_by_pairs(x: Tensor, others: Iterable[Tensor]) -> Tensor:
    """Distances [P, M] of image x [P, C] to M others, one torch.cdist a pair."""
    return torch.stack([torch.cdist(x, y).amin(1) for y in others], 1)


def distances_at_once(z: Tensor, i: int) -> Tensor:
    """Distances [P, N - 1] of image i of z [N, P, C], one torch.cdist against all others."""
    patches, channels = z.shape[1:]
    others = torch.cat([z[:i], z[i + 1 :]]).reshape(1, -1, channels)
    return torch.cdist(z[i : i + 1], others)[0].view(patches, len(z) - 1, patches).amin(2)


# Distances [P, N - 1] of image i of z [N, P, C], by the two ways of the official code.
OFFICIAL: dict[str, Callable[[Tensor, int], Tensor]] = {
    "official, one cdist": distances_at_once,
    "official, cdist per pair": lambda z, i: distances_by_pairs(z[i], other_images(z, i)),
}


def distances_in_fp64(x: Tensor, others: Iterable[Tensor]) -> Tensor:
    """Distances [P, M] float64 of image x [P, C] to M others, free of cancellation."""
    x, columns = x.double(), []
    for other in others:
        y = other.double()
        square = x.square().sum(1)[:, None] + y.square().sum(1) - 2 * (x @ y.T)
        columns.append((x - y[square.argmin(1)]).norm(dim=1))
    return torch.stack(columns, 1)
