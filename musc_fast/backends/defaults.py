"""What a backend may lack, in terms of what every backend has.

`ops` takes a backend's own `msm_parts`, `between` and `KeptReferences` where there are such, and
these otherwise: the same results, without the savings.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor


def msm_parts(
    backend: ModuleType,
    z: Tensor,
    references: Tensor | None,
    k_min: int,
    k_max: int,
    parts: Sequence[tuple[int, int]],
    *,
    lists: Tensor | None = None,
    **how: Any,
) -> Iterator[Tensor]:
    """`msm` of the images [first, last) of each part -> [last - first, P], one after another."""
    others = z if references is None else references
    for first, last in parts:
        if lists is not None:
            yield torch.cat(
                [
                    backend.msm(z[i : i + 1], others[lists[i].long()], k_min, k_max, **how)
                    for i in range(first, last)
                ]
            )
        elif references is None and last - first == z.shape[0]:
            yield backend.msm(z, None, k_min, k_max, **how)
        elif references is None:
            distances = backend.patch_to_image(z[first:last], z, **how)
            own = torch.arange(first, last, device=z.device)
            distances[own - first, :, own] = math.inf
            yield backend.interval_mean(distances, k_min, k_max)
        else:
            yield backend.msm(z[first:last], references, k_min, k_max, **how)


def between(backend: ModuleType, a: Tensor, b: Tensor, **how: Any) -> tuple[Tensor, Tensor]:
    """Distances of a [N, P, C] to the images of b [M, Q, C] and back: [N, P, M], [M, Q, N]."""
    return backend.patch_to_image(a, b, **how), backend.patch_to_image(b, a, **how)


class KeptReferences:
    """Up to `capacity` reference images [P, C] in slots, to score against again and again."""

    def __init__(
        self, backend: ModuleType, capacity: int, patches: int, channels: int, device: torch.device
    ) -> None:
        self._backend = backend
        self._x = torch.empty(capacity, patches, channels, device=device)
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def put(self, slot: int, z: Tensor) -> None:
        """Make z [P, C] the image of `slot`: an old one, or the next."""
        self._x[slot] = z
        self._count = max(self._count, slot + 1)

    def msm(self, z: Tensor, k_min: int, k_max: int, **how: Any) -> Tensor:
        """`msm` of z [N, P, C] against the images held -> [N, P]."""
        found: Tensor = self._backend.msm(z, self._x[: self._count], k_min, k_max, **how)
        return found
