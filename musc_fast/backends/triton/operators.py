"""The operators on CUDA GPUs, by the Triton kernels of `musc_fast.kernels`; results are float32.

Tensors in host memory are worked on by the current GPU: LNAMD takes groups of images, the search
streams rows (`rows`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from ...settings import DEFAULT_OPTIONS, SearchOptions
from ..defaults import with_defaults
from . import planning
from .device import launching_on, search_device, with_retry
from .kept_references import KeptReferences
from .local import local_patch_to_image
from .search import References, Search
from .streaming import aggregate_neighbourhoods, average_interval


def lnamd(tokens: Tensor, grid: tuple[int, int], degrees: Sequence[int]) -> list[Tensor]:
    """See `reference.lnamd`; results are float32 on the device of the tokens."""
    device = search_device(tokens)
    results = [
        torch.empty(tokens.shape, dtype=torch.float32, device=tokens.device) for _ in degrees
    ]
    n, p, c = tokens.shape
    group = max(1, planning.GROUP_BYTES // (4 * p * c))
    for first in range(0, n, n if device == tokens.device else group):
        part = tokens[first : n if device == tokens.device else first + group].to(device)
        if part.dtype == torch.float64:
            part = part.float()
        if part.stride(2) != 1:
            part = part.contiguous()
        with launching_on(device):
            pooled: list[Tensor] = aggregate_neighbourhoods(part, grid, degrees)
        if device == tokens.device:
            return pooled
        for result, z in zip(results, pooled, strict=True):
            result[first : first + group] = z
    return results


def interval_mean(distances: Tensor, k_min: int, k_max: int) -> Tensor:
    """See `reference.interval_mean`; [N, P, M] -> [N, P] float32."""
    device = search_device(distances)
    rows = distances.float().to(device)
    with launching_on(device):
        means: Tensor = average_interval(rows, k_min, k_max)
    return means.to(distances.device)


def patch_to_image(
    z: Tensor,
    references: Tensor | None = None,
    options: SearchOptions = DEFAULT_OPTIONS,
) -> Tensor:
    """See `reference.patch_to_image`; results are float32."""
    count = z.shape[0] if references is None else references.shape[0]
    shape = (z.shape[0], z.shape[1], count)
    return _reduced(
        shape, z, references, None, options, lambda squared: squared.sqrt_().transpose(1, 2)
    )


def msm(
    z: Tensor,
    references: Tensor | References | None,
    k_min: int,
    k_max: int,
    options: SearchOptions = DEFAULT_OPTIONS,
) -> Tensor:
    """See `reference.msm`; results are float32. References may be rounded already."""

    def average(squared: Tensor) -> Tensor:
        means: Tensor = average_interval(squared.transpose(1, 2), k_min, k_max, squared=True)
        return means

    return _reduced(z.shape[:2], z, references, k_max, options, average)


def _reduced(
    shape: Sequence[int],
    z: Tensor,
    references: Tensor | References | None,
    k_max: int | None,
    options: SearchOptions,
    reduce: Callable[[Tensor], Tensor],
) -> Tensor:
    """`reduce` of each chunk's squared distances [n, M, P] -> [N, ...] of `shape`, float32."""
    out: Tensor | None = None

    def run(limit: int) -> None:
        nonlocal out
        search = Search(z, references, k_max=k_max, exact=options.exact, memory_limit=limit)
        for first, last, squared in search.chunks():
            part = reduce(squared)
            if part.shape[0] == z.shape[0] and part.is_contiguous() and part.device == z.device:
                out = part  # one chunk gives all
            else:
                if out is None:
                    out = torch.empty(shape, dtype=torch.float32, device=z.device)
                out[first:last] = part
            del squared, part  # before the next chunk is made
            if options.on_progress is not None:
                options.on_progress(last, z.shape[0])

    with_retry(run, search_device(z), options.memory_limit)
    return torch.empty(shape, dtype=torch.float32, device=z.device) if out is None else out


OPERATORS = with_defaults(
    lnamd=lnamd,
    patch_to_image=patch_to_image,
    interval_mean=interval_mean,
    msm=msm,
    keep_references=partial(KeptReferences, msm),
    local_patch_to_image=local_patch_to_image,
)
