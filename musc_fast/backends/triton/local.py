"""Local matching on the GPU: patches against those near their own place in the other images."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from ...errors import InputError
from ...kernels.local_distance import BLOCK_C, match_locally
from ...settings import SearchOptions
from .device import search_device, with_retry


def local_patch_to_image(z: Tensor, references: Tensor | None, options: SearchOptions) -> Tensor:
    """`patch_to_image` within the window of `options`, a band of rows of the grid at a time."""
    others = z if references is None else references
    out = torch.empty(*z.shape[:2], len(others), dtype=torch.float32, device=z.device)

    def run(limit: int) -> None:
        _fill(out, z, others, options, limit)

    with_retry(run, search_device(z), options.memory_limit)
    if references is None:
        own = torch.arange(len(z), dtype=torch.int64, device=z.device)
        out[own, :, own] = math.inf
    return out


def _fill(out: Tensor, z: Tensor, others: Tensor, options: SearchOptions, limit: int) -> None:
    """Fill out [N, P, M], with at most `limit` bytes beside; InputError where that is too few."""
    assert options.window is not None
    (height, width), reach = options.window.grid, options.window.reach
    device = search_device(z)

    def needed(rows: int) -> int:
        near = min(height, rows + 2 * reach)
        values = (rows * len(z) + near * len(others)) * z.shape[2]
        return 8 * width * (values + rows * len(z) * len(others))

    rows = max((rows for rows in range(1, height + 1) if needed(rows) <= limit), default=0)
    if rows == 0:
        raise InputError(
            f"memory_limit: this search needs at least {needed(1) / 2**20:.1f} MiB beyond input "
            f"and output, the limit is {limit / 2**20:.1f} MiB; raise it or score fewer images"
        )
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        first, last = max(0, top - reach), min(height, bottom + reach)
        x = _by_place(z[:, top * width : bottom * width], device)
        y = _by_place(others[:, first * width : last * width], device)
        squared = match_locally(x, y, (height, width), reach, top, first)
        out[:, top * width : bottom * width] = squared.sqrt_().transpose(0, 1)
        if options.on_progress is not None:
            options.on_progress(bottom, height)


def _by_place(rows: Tensor, device: torch.device) -> Tensor:
    """Patches [N, places, C] as [places, C, N] float32, C made a multiple of BLOCK_C by zeros."""
    placed = rows.to(device).float().permute(1, 2, 0)
    return F.pad(placed, (0, 0, 0, -placed.shape[1] % BLOCK_C)).contiguous()
