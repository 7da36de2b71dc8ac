"""The reference as a backend: what runs where no kernel can.

`precision="exact"` computes in fp64 whatever the input, `"fast"` in the dtype of the input. The
reference works on one pair of images at a time, so it needs no memory limit and ignores one.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .. import reference
from ..settings import DEFAULT_OPTIONS, SearchOptions
from .defaults import with_defaults


def _allowed(z: Tensor, options: SearchOptions) -> Tensor | None:
    """The pairs of patches within the window [P, P]; None where there is no window."""
    window = options.window
    if window is None:
        return None
    return reference.within_reach(window.grid, window.reach).to(z.device)


def _working(tensor: Tensor, options: SearchOptions) -> Tensor:
    return tensor.double() if options.exact else tensor.float()


def lnamd(tokens: Tensor, grid: tuple[int, int], degrees: Sequence[int]) -> list[Tensor]:
    """See `reference.lnamd`; image by image in fp64, results in fp32."""
    results = [
        torch.empty(tokens.shape, dtype=torch.float32, device=tokens.device) for _ in degrees
    ]
    for i, image in enumerate(tokens):
        for result, z in zip(
            results, reference.lnamd(image[None].double(), grid, degrees), strict=True
        ):
            result[i] = z[0]
    return results


def patch_to_image(
    z: Tensor,
    references: Tensor | None = None,
    options: SearchOptions = DEFAULT_OPTIONS,
) -> Tensor:
    """See `reference.patch_to_image`; results in fp32."""
    others = None if references is None else _working(references, options)
    return reference.patch_to_image(
        _working(z, options), others, options.on_progress, _allowed(z, options)
    ).float()


def interval_mean(distances: Tensor, k_min: int, k_max: int) -> Tensor:
    """See `reference.interval_mean`; results in fp32."""
    return reference.interval_mean(distances.double(), k_min, k_max).float()


def msm(
    z: Tensor,
    references: Tensor | None,
    k_min: int,
    k_max: int,
    options: SearchOptions = DEFAULT_OPTIONS,
) -> Tensor:
    """See `reference.msm`; results in fp32."""
    others = None if references is None else _working(references, options)
    return reference.msm(_working(z, options), others, k_min, k_max, options.on_progress).float()


OPERATORS = with_defaults(
    lnamd=lnamd,
    patch_to_image=patch_to_image,
    interval_mean=interval_mean,
    msm=msm,
    local_patch_to_image=patch_to_image,
)
