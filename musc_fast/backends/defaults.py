"""The operators that a backend may leave out, made of those that every backend has.

They give the same results as a backend's own would, without the savings.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from ..settings import SearchOptions
from .base import (
    Between,
    IntervalMean,
    KeepReferences,
    KeptReferences,
    Lnamd,
    Msm,
    MsmParts,
    NearestImages,
    Operators,
    PatchToImage,
)
from .local import DefaultMsmParts, LocalOperators, local_patch_to_image, with_windows
from .torch_state import leaves_autocast, steps_leave_autocast


def with_defaults(
    *,
    lnamd: Lnamd,
    patch_to_image: PatchToImage,
    interval_mean: IntervalMean,
    msm: Msm,
    msm_parts: MsmParts | None = None,
    between: Between | None = None,
    nearest_images: NearestImages | None = None,
    keep_references: KeepReferences | None = None,
    local_patch_to_image: PatchToImage = local_patch_to_image,
    local_msm_parts: MsmParts | None = None,
) -> Operators:
    """The operators of a backend; those that it leaves out are made of the others.

    local_patch_to_image, local_msm_parts: those within a window, see `local`.

    All of them leave autocast, which would round what is compared exactly.
    """
    msm_parts = msm_parts or partial(_msm_parts, msm, patch_to_image, interval_mean)
    nearest_images = nearest_images or partial(_nearest_images, patch_to_image)
    keep = keep_references or partial(_PlainReferences, msm)
    local_msm_parts = local_msm_parts or DefaultMsmParts(local_patch_to_image, interval_mean)
    whole = Operators(
        lnamd=lnamd,
        patch_to_image=patch_to_image,
        interval_mean=interval_mean,
        msm=msm,
        msm_parts=msm_parts,
        between=between or partial(_between, patch_to_image),
        nearest_images=nearest_images,
        keep_references=keep,
    )
    return _leaving_autocast(
        with_windows(whole, LocalOperators(local_patch_to_image, local_msm_parts))
    )


def _leaving_autocast(of: Operators) -> Operators:
    return Operators(
        lnamd=leaves_autocast(of.lnamd),
        patch_to_image=leaves_autocast(of.patch_to_image),
        interval_mean=leaves_autocast(of.interval_mean),
        msm=leaves_autocast(of.msm),
        msm_parts=steps_leave_autocast(of.msm_parts),
        between=leaves_autocast(of.between),
        nearest_images=leaves_autocast(of.nearest_images),
        keep_references=lambda *shape: _OutsideAutocast(of.keep_references(*shape)),
    )


class _OutsideAutocast:
    """References whose methods leave autocast."""

    def __init__(self, kept: KeptReferences) -> None:
        self._kept = kept

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def images(self) -> Tensor:
        return self._kept.images

    @leaves_autocast
    def put(self, slot: int, z: Tensor) -> None:
        self._kept.put(slot, z)

    @leaves_autocast
    def msm(self, z: Tensor, k_min: int, k_max: int, options: SearchOptions) -> Tensor:
        return self._kept.msm(z, k_min, k_max, options)


def _msm_parts(
    msm: Msm,
    patch_to_image: PatchToImage,
    interval_mean: IntervalMean,
    z: Tensor,
    references: Tensor | None,
    k_min: int,
    k_max: int,
    parts: Sequence[tuple[int, int]],
    options: SearchOptions,
    lists: Tensor | None = None,
) -> Iterator[Tensor]:
    others = z if references is None else references
    for first, last in parts:
        if lists is not None:
            yield torch.cat(
                [
                    msm(z[i : i + 1], others[lists[i].long()], k_min, k_max, options)
                    for i in range(first, last)
                ]
            )
        elif references is None and last - first == z.shape[0]:
            yield msm(z, None, k_min, k_max, options)
        elif references is None:
            distances = patch_to_image(z[first:last], z, options)
            own = torch.arange(first, last, dtype=torch.int64, device=z.device)
            distances[own - first, :, own] = math.inf
            yield interval_mean(distances, k_min, k_max)
        else:
            yield msm(z[first:last], references, k_min, k_max, options)


def _between(
    patch_to_image: PatchToImage, a: Tensor, b: Tensor, options: SearchOptions
) -> tuple[Tensor, Tensor]:
    return patch_to_image(a, b, options), patch_to_image(b, a, options)


def _nearest_images(
    patch_to_image: PatchToImage,
    z: Tensor,
    references: Tensor | None,
    k: int,
    options: SearchOptions,
) -> tuple[Tensor, Tensor, Tensor]:
    others = z if references is None else references
    shape = (*z.shape[:2], k)
    distances = torch.empty(shape, dtype=torch.float32, device=z.device)
    images = torch.empty(shape, dtype=torch.int64, device=z.device)
    patches = torch.empty_like(images)
    for i in range(z.shape[0]):  # so that the distances of one query image are held
        query = z[i : i + 1]
        found = patch_to_image(query, others, replace(options, on_progress=None))[0]  # [P, M]
        if references is None:
            found[:, i] = math.inf
        nearest = found.sort(dim=1, stable=True)
        distances[i], images[i] = nearest.values[:, :k], nearest.indices[:, :k]
        patches[i] = _nearest_patches(query[0].float(), others, images[i])
        if options.on_progress is not None:
            options.on_progress(i + 1, z.shape[0])
    return distances, images, patches


def _nearest_patches(query: Tensor, others: Tensor, images: Tensor) -> Tensor:
    """The patch of each image of images [P, k] that is nearest to the row of query [P, C]."""
    patches = torch.empty_like(images)
    for image in torch.unique(images):
        rows, ranks = (images == image).nonzero(as_tuple=True)
        apart = torch.cdist(
            query[rows],
            others[image].float(),
            compute_mode="donot_use_mm_for_euclid_dist",  # exact where rows are near
        )
        patches[rows, ranks] = apart.argmin(dim=1)
    return patches


class _PlainReferences:
    """Reference images in one tensor; nothing is prepared for the search."""

    def __init__(
        self, msm: Msm, capacity: int, patches: int, channels: int, device: torch.device
    ) -> None:
        self._msm = msm
        self._images = torch.empty(
            (capacity, patches, channels), dtype=torch.float32, device=device
        )
        self._count = 0

    def __len__(self) -> int:
        return self._count

    @property
    def images(self) -> Tensor:
        return self._images[: self._count]

    def put(self, slot: int, z: Tensor) -> None:
        self._images[slot] = z
        self._count = max(self._count, slot + 1)

    def msm(self, z: Tensor, k_min: int, k_max: int, options: SearchOptions) -> Tensor:
        return self._msm(z, self._images[: self._count], k_min, k_max, options)
