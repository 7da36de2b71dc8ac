"""What a backend is: the operators, as typed functions.

A backend is a module that defines these functions and ends with

    OPERATORS = with_defaults(lnamd=lnamd, patch_to_image=patch_to_image, ...)

(`musc_fast.backends.defaults`). `musc_fast.ops` checks arguments before it calls an operator, so a
backend need not. Where options name a window, patches are compared with those near their own place
alone; a backend gives that as `local_patch_to_image` and `local_msm_parts`, and its other operators
never see a window. Shapes: N query images, M reference images, P and Q patches, C channels; results
are float32 on the device of the input.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ..settings import SearchOptions


class Lnamd(Protocol):
    """LNAMD of tokens [N, P, C] on a grid (H, W), one [N, P, C] for each degree."""

    def __call__(
        self, tokens: Tensor, grid: tuple[int, int], degrees: Sequence[int]
    ) -> list[Tensor]: ...


class PatchToImage(Protocol):
    """Distance of each patch of z [N, P, C] to the nearest patch of each image -> [N, P, M].

    references: [M, Q, C]; None means z itself, where an image's distance to itself is +inf.
    """

    def __call__(self, z: Tensor, references: Tensor | None, options: SearchOptions) -> Tensor: ...


class IntervalMean(Protocol):
    """Mean of the sorted distances [N, P, M] from place k_min to before k_max -> [N, P]."""

    def __call__(self, distances: Tensor, k_min: int, k_max: int) -> Tensor: ...


class Msm(Protocol):
    """`interval_mean` of `patch_to_image`, fused -> [N, P]."""

    def __call__(
        self,
        z: Tensor,
        references: Tensor | None,
        k_min: int,
        k_max: int,
        options: SearchOptions,
    ) -> Tensor: ...


class MsmParts(Protocol):
    """`msm` of the query images first to last - 1 of each part -> [last - first, P], part by part.

    lists: [N, K] int, ascending rows: the images that each query is scored against instead of all.
    """

    def __call__(
        self,
        z: Tensor,
        references: Tensor | None,
        k_min: int,
        k_max: int,
        parts: Sequence[tuple[int, int]],
        options: SearchOptions,
        lists: Tensor | None = None,
    ) -> Iterator[Tensor]: ...


class Between(Protocol):
    """`patch_to_image` of a [N, P, C] and b [M, Q, C] both ways: [N, P, M] and [M, Q, N]."""

    def __call__(self, a: Tensor, b: Tensor, options: SearchOptions) -> tuple[Tensor, Tensor]: ...


class NearestImages(Protocol):
    """The k nearest images of each patch of z [N, P, C], by `patch_to_image`, 1 <= k <= M (N - 1).

    Distances float32, ascending, and two int64 indices: the image, and its patch that is nearest;
    each [N, P, k]. Equal distances are ordered by image.
    """

    def __call__(
        self, z: Tensor, references: Tensor | None, k: int, options: SearchOptions
    ) -> tuple[Tensor, Tensor, Tensor]: ...


class KeptReferences(Protocol):
    """Reference images [P, C] in slots whose operands are kept from one query to the next."""

    def __len__(self) -> int:
        """The number of slots filled."""

    @property
    def images(self) -> Tensor:
        """The images of the slots, [len, P, C]."""

    def put(self, slot: int, z: Tensor) -> None:
        """Make z [P, C] the image of `slot`: a filled one, or the next."""

    def msm(self, z: Tensor, k_min: int, k_max: int, options: SearchOptions) -> Tensor:
        """`msm` of z [N, P, C] against the images of all slots -> [N, P]."""


class KeepReferences(Protocol):
    """Room for `capacity` reference images of [patches, channels] on a device."""

    def __call__(
        self, capacity: int, patches: int, channels: int, device: torch.device
    ) -> KeptReferences: ...


@dataclass(frozen=True)
class Operators:
    """The operators of one backend."""

    lnamd: Lnamd
    patch_to_image: PatchToImage
    interval_mean: IntervalMean
    msm: Msm
    msm_parts: MsmParts
    between: Between
    nearest_images: NearestImages
    keep_references: KeepReferences
