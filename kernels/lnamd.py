"""Local neighbourhood aggregation (LNAMD): LayerNorm, box means of all degrees, L2 norm.

    z_r[n, p, :] = v / max(|v|, 1e-12),   v = mean over the r x r box around p of LN(x[n])

tokens: [N, P, C] of any float dtype, P = H W, stride 1 along C, any other strides. Results: one
float32 [N, P, C] a degree. LN runs over (C, H, W) of an image, eps 1e-5, no affine; the mean of a
box divides by r x r at the edge too, where the box is padded with zeros.

LN is affine, so v = rstd / r^2 * (box sum of x - (tokens in the box) * mean): the second pass takes
a box sum, and rstd only matters against the 1e-12. The first pass sums an image in parts (mean,
spread, least and greatest value); parts are added in float64 in a fixed order. The mean is clamped
between the least and the greatest value, so that a constant image gives zeros and not noise. The
box sums take x - mean token by token, so that a hot channel causes no cancellation.

Memory: tokens are read twice, the second time mostly from the L2 cache if an image fits there
(1369 * 1024 * 4 = 5.6 MB); shifted tokens come from L1 and L2. 4 N P C bytes are written a degree.
Floor on an H100 for N = 200, P = 1369, C = 1024, three degrees, float32: 4.5 GB, 1.3 ms.

The float32 results are the rows that `refine` recomputes distances from. `quantise` rounds them in
one more reading (1.1 GB, 0.33 ms a degree) and not here, since the mean, the scale and the choice
of a basis depend on all images, and since the search also takes rows that LNAMD did not make.
"""

# mypy: disable-error-code="no-untyped-def,untyped-decorator"

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from .devices import next_power_of_2

_DEGREES = 3  # of one launch


@dataclass(frozen=True)
class Config:
    """A program takes BLOCK_X tokens of a grid row, all channels; a partial sum BLOCK_S values."""

    BLOCK_X: int
    BLOCK_C: int
    BLOCK_S: int
    num_warps: int


def pick_config(width: int, channels: int) -> Config:
    """The config with which three accumulators and one load stay in registers."""
    block_c = next_power_of_2(channels)
    block_x = max(1, min(next_power_of_2(width), 4096 // block_c))
    return Config(block_x, block_c, 4096, 8 if block_x * block_c > 2048 else 4)


@triton.jit(do_not_specialize=["P", "PARTS"])
def _moments_kernel(x_ptr, sums_ptr, P, C, stride_n, stride_p, PARTS, BLOCK_S: tl.constexpr):
    """Sum, sum of squares, minimum and maximum of a part of an image -> [4, N, PARTS]."""
    image = tl.program_id(0).to(tl.int64)
    part = tl.program_id(1)
    at = part * BLOCK_S + tl.arange(0, BLOCK_S)
    mask = at < P * C
    token = (at // C).to(tl.int64)
    base = x_ptr + image * stride_n
    x = tl.load(base + token * stride_p + at % C, mask=mask, other=0.0).to(tl.float32)
    out = sums_ptr + image * PARTS + part
    stride = tl.num_programs(0).to(tl.int64) * PARTS
    tl.store(out, tl.sum(x, axis=0))
    tl.store(out + stride, tl.sum(x * x, axis=0))
    tl.store(out + 2 * stride, tl.min(tl.where(mask, x, float("inf")), axis=0))
    tl.store(out + 3 * stride, tl.max(tl.where(mask, x, float("-inf")), axis=0))


@triton.jit
def _store_normalised(out_ptr, v, rows, mask, C, channels, rstd, count):
    """Store v * rstd / count [BLOCK_X, BLOCK_C], each row scaled to norm 1."""
    v = v * (rstd / count)
    norm = tl.sqrt_rn(tl.sum(v * v, axis=1))  # [BLOCK_X]
    z = v / tl.maximum(norm, 1e-12)[:, None]
    tl.store(out_ptr + rows[:, None] * C + channels[None, :], z, mask=mask)


@triton.jit(do_not_specialize=["H", "W", "HALF_A", "HALF_B", "HALF_C"])
def _lnamd_kernel(
    x_ptr,
    mean_ptr,
    rstd_ptr,
    out_a_ptr,
    out_b_ptr,
    out_c_ptr,
    H,
    W,
    C,
    stride_n,
    stride_p,
    HALF_A,
    HALF_B,
    HALF_C,
    DEGREES: tl.constexpr,
    BLOCK_X: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """HALF_A >= HALF_B >= HALF_C are (r - 1) / 2 of up to three degrees."""
    strips = tl.cdiv(W, BLOCK_X)
    pid = tl.program_id(0)
    image = (pid // (strips * H)).to(tl.int64)
    y = pid // strips % H
    columns = pid % strips * BLOCK_X + tl.arange(0, BLOCK_X)
    channels = tl.arange(0, BLOCK_C)
    mean = tl.load(mean_ptr + image)
    rstd = tl.load(rstd_ptr + image)
    base = x_ptr + image * stride_n
    a = tl.zeros([BLOCK_X, BLOCK_C], tl.float32)
    b = a
    c = a
    for row in range(tl.maximum(y - HALF_A, 0), tl.minimum(y + HALF_A + 1, H)):
        for shift in range(-HALF_A, HALF_A + 1):
            x_at = columns + shift
            inside = (x_at >= 0) & (x_at < W)
            token = (row * W + x_at).to(tl.int64)
            mask = inside[:, None] & (channels < C)[None, :]
            x = tl.load(base + token[:, None] * stride_p + channels[None, :], mask=mask, other=0.0)
            x = tl.where(mask, x.to(tl.float32) - mean, 0.0)
            a += x
            off = tl.maximum(tl.abs(row - y), tl.abs(shift))
            if DEGREES > 1:
                b += x * (off <= HALF_B).to(tl.float32)
            if DEGREES > 2:
                c += x * (off <= HALF_C).to(tl.float32)
    rows = (image * H + y) * W + columns
    mask = (columns < W)[:, None] & (channels < C)[None, :]
    side = (2 * HALF_A + 1).to(tl.float32)
    _store_normalised(out_a_ptr, a, rows, mask, C, channels, rstd, side * side)
    if DEGREES > 1:
        side = (2 * HALF_B + 1).to(tl.float32)
        _store_normalised(out_b_ptr, b, rows, mask, C, channels, rstd, side * side)
    if DEGREES > 2:
        side = (2 * HALF_C + 1).to(tl.float32)
        _store_normalised(out_c_ptr, c, rows, mask, C, channels, rstd, side * side)


def _moments(tokens: Tensor, config: Config) -> tuple[Tensor, Tensor]:
    """Mean and 1 / sqrt(variance + 1e-5) of each image, [N] float32."""
    n, p, c = tokens.shape
    parts = triton.cdiv(p * c, config.BLOCK_S)
    sums = torch.empty(4, n, parts, dtype=torch.float32, device=tokens.device)
    _moments_kernel[(n, parts)](
        tokens,
        sums,
        p,
        c,
        tokens.stride(0),
        tokens.stride(1),
        parts,
        BLOCK_S=config.BLOCK_S,
        enable_fp_fusion=True,
    )
    mean, square = sums[:2].double().sum(2) / (p * c)
    mean = mean.float().clamp(sums[2].amin(1), sums[3].amax(1))
    variance = (square - mean.double().square()).clamp_min(0)
    return mean, (variance + 1e-5).rsqrt().float()


def aggregate_neighbourhoods(
    tokens: Tensor, grid: tuple[int, int], degrees: Sequence[int]
) -> list[Tensor]:
    """LNAMD of tokens [N, P, C], one float32 [N, P, C] for each degree.

    tokens: any float dtype, stride 1 along C.
    grid: (H, W) with H W = P.
    degrees: side lengths r of the boxes, odd, in any order.
    """
    n, p, c = tokens.shape
    height, width = grid
    config = pick_config(width, c)
    mean, rstd = _moments(tokens, config)
    found = {
        r: torch.empty(n, p, c, dtype=torch.float32, device=tokens.device) for r in set(degrees)
    }
    order = sorted(found, reverse=True)
    for first in range(0, len(order), _DEGREES):
        group = order[first : first + _DEGREES]
        padded = [*group, *[group[-1]] * (_DEGREES - len(group))]
        _lnamd_kernel[(n * height * triton.cdiv(width, config.BLOCK_X),)](
            tokens,
            mean,
            rstd,
            *(found[r] for r in padded),
            height,
            width,
            c,
            tokens.stride(0),
            tokens.stride(1),
            *(r // 2 for r in padded),
            DEGREES=len(group),
            BLOCK_X=config.BLOCK_X,
            BLOCK_C=config.BLOCK_C,
            num_warps=config.num_warps,
            enable_fp_fusion=True,
        )
    return [found[r] for r in degrees]
