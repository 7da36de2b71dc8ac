"""The rounding with which the certified search on a GPU should be quickest.

The costs are those of an H100 by its data sheet. Only their ratios matter, and only to speed.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..rounded_images import (
    RoundedImages,
    RoundingSpace,
    centred_sample,
    fit_sample,
    principal_directions,
)

# Seconds: two thirds of the peak, 16 operations an entry of the epilogue, gathers through L2.
_OPERATION = 1 / 0.65e15  # in 16 bits
_EPILOGUE = 16 / 28e12
_BYTE = 1 / 2.5e12
_RECOMPUTED = 0.4  # share of the images of a patch whose candidates are recomputed


def choose_space(
    z: Tensor,
    references: Tensor,
    symmetric: bool,
    device: torch.device | None = None,
    int8_gain: float = 2.0,
) -> RoundingSpace:
    """The space in which the search of z [N, P, C] in references [M, Q, C] should be quickest.

    For 64 patches and up to two reference images, the candidates that each space would leave are
    counted; the cost is the time of two passes over the pairs and of recomputing the candidates.

    symmetric: the references are z itself.
    device: where the rounded images will be; None means the device of z.
    int8_gain: how many times as fast an int8 product is as one in 16 bits.
    """
    device = device or z.device
    query = z[:1, :: max(1, z.shape[1] // 64)].to(device)
    chosen = [references.shape[0] - 1, references.shape[0] // 2]
    images = references[sorted({each for each in chosen if each > 0 or not symmetric})].to(device)
    truth = torch.stack([_nearest(query[0], image) for image in images.float()], dim=1)
    options = _options(z.shape[2], torch.int8 if int8_gain > 1 else torch.float16)
    mean, centred = centred_sample(z, None if symmetric else references, device)
    sizes = [channels for _, channels in options if channels is not None]
    basis = principal_directions(centred, max(sizes)) if sizes else None
    best, best_cost = None, math.inf
    for dtype, channels in options:
        part = None if channels is None or basis is None else basis[:, :channels].contiguous()
        space = fit_sample(mean, centred, dtype, part)
        x, y = space.apply(query), space.apply(images)
        survivors = _count_survivors(x, y, truth)
        depth = x.values.shape[2]
        operation = _OPERATION / (int8_gain if dtype == torch.int8 else 1)
        cost = 2 * references.shape[1] * (2 * depth * operation + _EPILOGUE)
        cost += _RECOMPUTED * survivors * 8 * z.shape[2] * _BYTE
        if cost < best_cost:
            best, best_cost = space, cost
    assert best is not None
    return best


def _options(channels: int, low: torch.dtype) -> list[tuple[torch.dtype, int | None]]:
    """`low` in 64, 128 or 256 channels (one of them the residual's norm), int8 and float16 in all.

    float16 and not bfloat16: both run at one rate, float16 has three bits more, hence an eighth of
    the rounding error, and its range suffices, since the scale makes the largest entry 1.
    """
    sizes = [size - 1 for size in (64, 128, 256) if 2 * size <= channels]
    return [*((low, size) for size in sizes), (torch.int8, None), (torch.float16, None)]


def _nearest(x: Tensor, image: Tensor) -> Tensor:
    """Distance of rows x [R, C] to the nearest of image [Q, C], by differences -> [R]."""
    pairs = torch.cdist(x.float(), image, compute_mode="donot_use_mm_for_euclid_dist")
    nearest: Tensor = pairs.amin(dim=1)
    return nearest


def _count_survivors(x: RoundedImages, y: RoundedImages, truth: Tensor) -> float:
    """Mean number of candidates of (row, image) that the bound leaves; truth [R, images]."""
    values = y.values.float().flatten(0, 1)
    squared = torch.cdist(x.values[0].double(), values.double()).square() * x.scale**2
    error = x.error(max(x.largest(), y.largest()))
    lower = (squared - error).clamp_min(0).sqrt().view(-1, *y.rounding_error.shape)
    lower = lower - x.rounding_error[0, :, None, None]
    lower = lower - y.rounding_error.amax(dim=1)[None, :, None]
    return float((lower <= truth[:, :, None]).sum(dim=2).double().mean())
