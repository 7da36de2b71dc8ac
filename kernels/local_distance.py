"""Distances of patches to the nearest patch near their own place in other images.

    out[p, i, j] = min over q near p of sum over c of (x[p, c, i] - y[q, c, j])^2

x: [rows of the grid here * W, C, N], y: [rows here, C, M] float32 by place, C a multiple of
BLOCK_C; `near` are the places of the grid H x W at most `reach` rows and columns away.
out: [places of x, N, M] float32. The images lie side by side, so that all images at a place against
all images at another are an outer product a channel, from two rows of memory.

Every distance is summed from differences in float32, BLOCK_C of them at a time, so none is lost
near zero, and nothing is computed again. Memory: a program reads (BLOCK_N + BLOCK_M) C values for
each place near its own. Floor on an H100 for 200 images of 1369 patches, C = 1024, reach 2: 1.3e12
differences of two instructions each, 0.09 s at 29e12 instructions a second (a model: the kernel has
not run on a card).
"""

# mypy: disable-error-code="no-untyped-def,untyped-decorator"

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor


@dataclass(frozen=True)
class Config:
    """A launch: a program takes BLOCK_N images against BLOCK_M at one place."""

    BLOCK_N: int
    BLOCK_M: int
    num_warps: int


BLOCK_C = 8  # channels whose squares are summed before they are added to the sum


def pick_config(images: int, references: int) -> Config:
    """The config for N images against M references: tiles of up to 64 x 64."""
    n = min(64, max(16, triton.next_power_of_2(images)))
    m = min(64, max(16, triton.next_power_of_2(references)))
    return Config(n, m, max(1, min(8, n * m // 512)))


@triton.jit
def _squared_distances(
    x_ptr, y_ptr, i, j, N, M, C, BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr
):
    """Squared distances [BLOCK_N, BLOCK_M] of the images i at a place to the images j at another.

    x_ptr, y_ptr: the places' values, [C, N] and [C, M].
    """
    total = tl.zeros([BLOCK_N, BLOCK_M], tl.float32)
    for start in range(0, C, BLOCK_C):
        part = tl.zeros([BLOCK_N, BLOCK_M], tl.float32)
        for k in tl.static_range(BLOCK_C):
            a = tl.load(x_ptr + (start + k) * N + i, mask=i < N, other=0.0)
            b = tl.load(y_ptr + (start + k) * M + j, mask=j < M, other=0.0)
            apart = a[:, None] - b[None, :]
            part += apart * apart
        total += part
    return total


@triton.jit(do_not_specialize=["N", "M", "H", "W", "REACH", "X_ROW", "Y_ROW"])
def _local_distance_kernel(
    x_ptr,
    y_ptr,
    out_ptr,
    N,
    M,
    C,
    H,
    W,
    REACH,
    X_ROW,
    Y_ROW,
    BLOCK_N: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """One place of x against those near it. X_ROW, Y_ROW: the rows of the grid that x and y begin
    with.
    """
    place = tl.program_id(0)
    row = X_ROW + place // W
    column = place % W
    i = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    j = tl.program_id(2) * BLOCK_M + tl.arange(0, BLOCK_M)
    size = C.to(tl.int64)
    x_ptr += place * size * N
    least = tl.full([BLOCK_N, BLOCK_M], float("inf"), tl.float32)
    for v in range(tl.maximum(row - REACH, 0), tl.minimum(row + REACH + 1, H)):
        for u in range(tl.maximum(column - REACH, 0), tl.minimum(column + REACH + 1, W)):
            other = y_ptr + ((v - Y_ROW) * W + u) * size * M
            squared = _squared_distances(x_ptr, other, i, j, N, M, C, BLOCK_N, BLOCK_M, BLOCK_C)
            least = tl.minimum(least, squared)
    slot = (place.to(tl.int64) * N + i[:, None]) * M + j[None, :]
    tl.store(out_ptr + slot, least, mask=(i[:, None] < N) & (j[None, :] < M))


def match_locally(
    x: Tensor,
    y: Tensor,
    grid: tuple[int, int],
    reach: int,
    x_row: int = 0,
    y_row: int = 0,
    *,
    config: Config | None = None,
) -> Tensor:
    """Squared distances [places of x, N, M] float32 of x [places, C, N] to y [places, C, M].

    x, y: contiguous float32, whole rows of the grid from `x_row` and `y_row` on; y has all rows
        within `reach` of those of x. C divides by BLOCK_C.
    """
    places, channels, images = x.shape
    references = y.shape[2]
    config = config or pick_config(images, references)
    out = torch.empty(places, images, references, dtype=torch.float32, device=x.device)
    rows, columns = triton.cdiv(images, config.BLOCK_N), triton.cdiv(references, config.BLOCK_M)
    _local_distance_kernel[(places, rows, columns)](
        x,
        y,
        out,
        images,
        references,
        channels,
        *grid,
        reach,
        x_row,
        y_row,
        BLOCK_N=config.BLOCK_N,
        BLOCK_M=config.BLOCK_M,
        BLOCK_C=BLOCK_C,
        num_warps=config.num_warps,
        enable_fp_fusion=True,
    )
    return out
