"""Local matching: the operators within a window, and the choice between those and the whole ones.

`local_patch_to_image` and `local_msm_parts` here are what a backend without its own has.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..errors import InputError
from ..settings import SearchOptions
from .base import IntervalMean, KeptReferences, Msm, MsmParts, Operators, PatchToImage
from .memory import free_memory

_SHARE = 0.25  # of the free memory, where no limit is given


@dataclass(frozen=True)
class LocalOperators:
    """The operators that see a window."""

    patch_to_image: PatchToImage
    msm_parts: MsmParts


def local_patch_to_image(z: Tensor, references: Tensor | None, options: SearchOptions) -> Tensor:
    """`patch_to_image` within the window, in float32: all distances from their differences.

    Works on a row of the grid at a time: 4 W (N + M) C bytes, and 8 W n M for n queries.
    """
    assert options.window is not None
    (height, width), reach = options.window.grid, options.window.reach
    others = z if references is None else references
    images, columns, channels = len(z), len(others), z.shape[2]
    out = torch.full(
        (images, height, width, columns), math.inf, dtype=torch.float32, device=z.device
    )
    x, y = z.view(images, height, width, channels), others.view(columns, height, width, channels)
    chunk = _queries_at_once(z, columns, width, options)
    for row in range(height):
        left = x[:, row].transpose(0, 1).float().contiguous()  # [W, N, C]
        for other in range(max(0, row - reach), min(height, row + reach + 1)):
            right = y[:, other].transpose(0, 1).float().contiguous()
            for shift in range(max(-reach, 1 - width), min(reach, width - 1) + 1):
                first, last = max(0, -shift), min(width, width - shift)
                for start in range(0, images, chunk):
                    apart = torch.cdist(
                        left[first:last, start : start + chunk],
                        right[first + shift : last + shift],
                        compute_mode="donot_use_mm_for_euclid_dist",  # exact where rows are near
                    )
                    nearest = out[start : start + chunk, row, first:last].transpose(0, 1)
                    torch.minimum(nearest, apart, out=nearest)
        if options.on_progress is not None:
            options.on_progress(row + 1, height)
    found = out.view(images, height * width, columns)
    if references is None:
        own = torch.arange(images, dtype=torch.int64, device=z.device)
        found[own, :, own] = math.inf
    return found


def _queries_at_once(z: Tensor, columns: int, width: int, options: SearchOptions) -> int:
    """Query images whose distances are held beside the copies; InputError where not even one."""
    copied = 4 * width * (len(z) + columns) * z.shape[2]
    each = 8 * width * columns
    limit = options.memory_limit
    if limit is None:
        free = torch.cuda.mem_get_info(z.device)[0] if z.device.type == "cuda" else free_memory()
        limit = max(int(free * _SHARE), copied + each)
    if limit < copied + each:
        raise InputError(
            f"memory_limit: this search needs at least {(copied + each) / 2**20:.1f} MiB beyond "
            f"input and output, the limit is {limit / 2**20:.1f} MiB; raise it or score fewer "
            "images"
        )
    return min(len(z), (limit - copied) // each)


class DefaultMsmParts:
    """`local_msm_parts` made of a backend's `local_patch_to_image` and `interval_mean`."""

    def __init__(self, patch_to_image: PatchToImage, interval_mean: IntervalMean) -> None:
        self._patch_to_image, self._interval_mean = patch_to_image, interval_mean

    def __call__(
        self,
        z: Tensor,
        references: Tensor | None,
        k_min: int,
        k_max: int,
        parts: Sequence[tuple[int, int]],
        options: SearchOptions,
        lists: Tensor | None = None,
    ) -> Iterator[Tensor]:
        others = z if references is None else references
        limit = options.memory_limit or int(free_memory() * _SHARE)
        inner = replace(options, memory_limit=options.memory_limit and limit // 2)
        for first, last in parts:
            # Half the limit for distances, whatever backend averages them.
            step = 1 if lists is not None else max(1, limit // 2 // (12 * z.shape[1] * len(others)))
            found = []
            for begin in range(first, last, step):
                end = min(begin + step, last)
                against = others if lists is None else others[lists[begin].long()]
                distances = self._patch_to_image(
                    z[begin:end], against, replace(inner, on_progress=None)
                )
                if references is None and lists is None:
                    own = torch.arange(begin, end, dtype=torch.int64, device=z.device)
                    distances[own - begin, :, own] = math.inf
                found.append(self._interval_mean(distances, k_min, k_max))
                if options.on_progress is not None:
                    options.on_progress(end - first, last - first)
            yield torch.cat(found)


def _is_local(options: SearchOptions) -> bool:
    """Whether the window is smaller than the grid."""
    window = options.window
    return window is not None and window.reach < max(window.grid) - 1


def _whole(options: SearchOptions) -> SearchOptions:
    """The options without a window that takes in the whole grid."""
    return options if options.window is None else replace(options, window=None)


class _Windowed:
    """References that are scored against whole, or within a window."""

    def __init__(self, kept: KeptReferences, msm: Msm) -> None:
        self._kept, self._msm = kept, msm

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def images(self) -> Tensor:
        return self._kept.images

    def put(self, slot: int, z: Tensor) -> None:
        self._kept.put(slot, z)

    def msm(self, z: Tensor, k_min: int, k_max: int, options: SearchOptions) -> Tensor:
        if not _is_local(options):
            return self._kept.msm(z, k_min, k_max, _whole(options))
        return self._msm(z, self._kept.images, k_min, k_max, options)


def with_windows(whole: Operators, local: LocalOperators) -> Operators:
    """The operators that search whole images, or where options name a window, within that."""

    def patch_to_image(z: Tensor, references: Tensor | None, options: SearchOptions) -> Tensor:
        if not _is_local(options):
            return whole.patch_to_image(z, references, _whole(options))
        return local.patch_to_image(z, references, options)

    def msm_parts(
        z: Tensor,
        references: Tensor | None,
        k_min: int,
        k_max: int,
        parts: Sequence[tuple[int, int]],
        options: SearchOptions,
        lists: Tensor | None = None,
    ) -> Iterator[Tensor]:
        if not _is_local(options):
            return whole.msm_parts(z, references, k_min, k_max, parts, _whole(options), lists)
        return local.msm_parts(z, references, k_min, k_max, parts, options, lists)

    def msm(
        z: Tensor, references: Tensor | None, k_min: int, k_max: int, options: SearchOptions
    ) -> Tensor:
        if not _is_local(options):
            return whole.msm(z, references, k_min, k_max, _whole(options))
        parts = [(0, len(z))]
        return next(iter(local.msm_parts(z, references, k_min, k_max, parts, options)))

    def between(a: Tensor, b: Tensor, options: SearchOptions) -> tuple[Tensor, Tensor]:
        if not _is_local(options):
            return whole.between(a, b, _whole(options))
        return local.patch_to_image(a, b, options), local.patch_to_image(b, a, options)

    def nearest_images(
        z: Tensor, references: Tensor | None, k: int, options: SearchOptions
    ) -> tuple[Tensor, Tensor, Tensor]:
        if options.window is not None:
            raise InputError("window: nearest_images searches whole images; leave the window out")
        return whole.nearest_images(z, references, k, options)

    return replace(
        whole,
        patch_to_image=patch_to_image,
        msm=msm,
        msm_parts=msm_parts,
        between=between,
        nearest_images=nearest_images,
        keep_references=lambda *shape: _Windowed(whole.keep_references(*shape), msm),
    )
