"""The C++ backend for CPU tensors: torch tensors to `musc_fast._C`.

The functions take valid input (`musc_fast.ops` checks it) and convert dtype and layout as needed.
They work on `torch.get_num_threads()` threads. The results do not depend on the number of threads,
on `memory_limit` or on the instruction set, to the bit. docs/exact-search.md explains the search.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from ... import _C
from ...settings import DEFAULT_OPTIONS, SearchOptions
from ..defaults import with_defaults
from ..memory import in_large_pages
from .both_ways import between
from .kept_references import KeptReferences
from .local import LocalSearch
from .options import Outputs, SearchSettings
from .rounded_images import as_float32, default_isa
from .scratch import release as release_memory
from .search import prepare, run_search

__all__ = [
    "KeptReferences",
    "between",
    "interval_mean",
    "lnamd",
    "msm",
    "msm_parts",
    "nearest_images",
    "patch_to_image",
    "release_memory",
]


def lnamd(tokens: Tensor, grid: tuple[int, int], degrees: Sequence[int]) -> list[Tensor]:
    """LayerNorm, r x r means and L2 normalisation: tokens [N, P, C] -> one [N, P, C] a degree.

    float32 results of float64 running sums, in one pass over the tokens for all degrees. `grid`
    is (H, W) with P = H W; degrees are odd. A zero vector stays zero.
    """
    tokens = as_float32(tokens)
    results = [in_large_pages(torch.empty_like(tokens)) for _ in degrees]
    images, _, channels = tokens.shape
    batch = max(1, 4 * torch.get_num_threads())
    for first in range(0, images, batch):  # Python notices Ctrl-C between two calls
        _C.lnamd(
            isa=default_isa(),
            tokens=tokens[first:],
            images=min(batch, images - first),
            height=grid[0],
            width=grid[1],
            channels=channels,
            degrees=list(degrees),
            out=[result[first:] for result in results],
            threads=torch.get_num_threads(),
        )
    return results


def interval_mean(distances: Tensor, k_min: int, k_max: int) -> Tensor:
    """The mean of `sorted(distances)[..., k_min:k_max]`: [N, P, M] -> [N, P] float32.

    0 <= k_min < k_max <= M. +inf (the image itself) sorts last; ties need no order.
    """
    distances = as_float32(distances)
    out = torch.empty(distances.shape[:-1], dtype=torch.float32, device="cpu")
    _C.interval_mean(
        distances=distances,
        out=out,
        rows=out.numel(),
        count=distances.shape[-1],
        k_min=k_min,
        k_max=k_max,
        threads=torch.get_num_threads(),
    )
    return out


def msm(
    z: Tensor,
    references: Tensor | None,
    k_min: int,
    k_max: int,
    options: SearchOptions = DEFAULT_OPTIONS,
    lists: Tensor | None = None,
) -> Tensor:
    """Mean of the k_min-th to k_max-th smallest patch-to-image distance -> [N, P] float32.

    z: [N, P, C].
    references: [M, Q, C]; None: the batch itself, each image against the others.
    k_min, k_max: 0 <= k_min < k_max <= M (N - 1 without references, K with lists).
    options: with precision "exact" the distances are those of sum((x - y)^2) in float32 over all
        pairs, to the bit; only those that can enter the mean are computed. "fast" recomputes the
        four best scores of the best segment of each image, without a certificate: on features of
        real images the scores are off by 2e-5 to 2e-3 on average (of 0.2 to 0.5) and by 0.08 at
        worst, never downwards; where all channels are searched (AMX) by 2e-5 to 8e-5 and by 0.007.
    lists: [N, K] int32, ascending: the images that each is scored against, instead of all others.
    """
    z = as_float32(z)
    out = torch.empty(z.shape[:2], dtype=torch.float32, device="cpu")
    others = None if references is None else as_float32(references)
    settings = SearchSettings.of(options)
    run_search(z, others, k_min, k_max, Outputs(means=out), settings, lists)
    return out


def msm_parts(
    z: Tensor,
    references: Tensor | None,
    k_min: int,
    k_max: int,
    parts: Sequence[tuple[int, int]],
    options: SearchOptions = DEFAULT_OPTIONS,
    lists: Tensor | None = None,
) -> Iterator[Tensor]:
    """`msm` of the images [first, last) of each part; z and references are rounded once."""
    z = as_float32(z)
    others = None if references is None else as_float32(references)
    search = prepare(z, others, k_max, SearchSettings.of(options), lists)
    for first, last in parts:
        out = torch.empty((last - first, z.shape[1]), dtype=torch.float32, device="cpu")
        search.run(first, last, k_min, k_max, Outputs(means=out))
        yield out


def patch_to_image(
    z: Tensor,
    references: Tensor | None = None,
    options: SearchOptions = DEFAULT_OPTIONS,
) -> Tensor:
    """Distance of each patch to the nearest patch of each image -> [N, P, M] float32.

    Arguments as for `msm`; within a batch (M = N) an image's distance to itself is +inf.
    """
    z = as_float32(z)
    others = None if references is None else as_float32(references)
    count = z.shape[0] if others is None else others.shape[0]
    out = torch.empty(*z.shape[:2], count, dtype=torch.float32, device="cpu")
    if others is None and count == 1:
        return out.fill_(torch.inf)
    k_max = count - 1 if others is None else count
    settings = SearchSettings.of(options)
    run_search(z, others, 0, k_max, Outputs(distances=out), settings)
    return out


def nearest_images(
    z: Tensor,
    references: Tensor | None,
    k: int,
    options: SearchOptions = DEFAULT_OPTIONS,
) -> tuple[Tensor, Tensor, Tensor]:
    """The k nearest images of each patch: distances, image and patch indices, each [N, P, k].

    Distances float32, ascending; indices int64: the image, and its patch that is nearest. Equal
    distances are ordered by index. Arguments as for `msm`, 1 <= k <= M (N - 1).
    """
    z = as_float32(z)
    shape = (*z.shape[:2], k)
    found = (
        torch.empty(shape, dtype=torch.float32, device="cpu"),
        torch.empty(shape, dtype=torch.int64, device="cpu"),
        torch.empty(shape, dtype=torch.int64, device="cpu"),
    )
    others = None if references is None else as_float32(references)
    settings = SearchSettings.of(options)
    run_search(z, others, 0, k, Outputs(nearest=found), settings)
    return found


def local_patch_to_image(z: Tensor, references: Tensor | None, options: SearchOptions) -> Tensor:
    """`patch_to_image` within the window of `options`: see `local`."""
    z = as_float32(z)
    others = None if references is None else as_float32(references)
    count = len(z) if others is None else len(others)
    out = torch.empty(*z.shape[:2], count, dtype=torch.float32, device="cpu")
    if others is None and count == 1:
        return out.fill_(torch.inf)
    k_max = count - 1 if others is None else count
    search = LocalSearch(z, others, options)
    search.run(0, len(z), 0, k_max, Outputs(distances=out))
    return out


def local_msm_parts(
    z: Tensor,
    references: Tensor | None,
    k_min: int,
    k_max: int,
    parts: Sequence[tuple[int, int]],
    options: SearchOptions,
    lists: Tensor | None = None,
) -> Iterator[Tensor]:
    """`msm_parts` within the window of `options`."""
    z = as_float32(z)
    search = LocalSearch(z, None if references is None else as_float32(references), options, lists)
    for first, last in parts:
        out = torch.empty((last - first, z.shape[1]), dtype=torch.float32, device="cpu")
        search.run(first, last, k_min, k_max, Outputs(means=out))
        yield out


def _keep_references(
    capacity: int, patches: int, channels: int, device: torch.device
) -> KeptReferences:
    return KeptReferences(capacity, patches, channels)  # this backend works on the CPU alone


OPERATORS = with_defaults(
    lnamd=lnamd,
    patch_to_image=patch_to_image,
    interval_mean=interval_mean,
    msm=msm,
    msm_parts=msm_parts,
    between=between,
    nearest_images=nearest_images,
    keep_references=_keep_references,
    local_patch_to_image=local_patch_to_image,
    local_msm_parts=local_msm_parts,
)
