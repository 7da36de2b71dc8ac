"""LNAMD of degrees beyond 5: each box is added anew, (2 HALF + 1)^2 tokens a result.

A launch takes up to three degrees: it reads the tokens of the largest box, and adds those that lie
in a smaller one to its sum, too. Tokens beyond the grid count as zeros and the sum is divided by
the whole box. `lnamd` describes the result; the mean and spread of the images come from
`lnamd_moments`.

Memory: 4 N P C bytes are written a degree; the tokens of a box come mostly from the caches.
"""

# mypy: disable-error-code="no-untyped-def,untyped-decorator"

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from .lnamd_moments import PARTS, load_moments
from .lnamd_strips import Config, Strip, grid_mask, load_row, store_row

_DEGREES = 3  # of one launch


@triton.jit
def _store_box_mean(out_ptr, total, strip, row, half, rstd):
    """Store the sum of a box of 2 half + 1 tokens a side as its normalised mean."""
    side = (2 * half + 1).to(tl.float32)
    store_row(
        out_ptr,
        total,
        strip,
        strip.image.to(tl.int64) * strip.H + row,
        grid_mask(strip),
        rstd / (side * side),
    )


@triton.jit
def _aggregate_row(
    out_a_ptr,
    out_b_ptr,
    out_c_ptr,
    strip,
    y,
    rstd,
    HALF_A,
    HALF_B,
    HALF_C,
    DEGREES: tl.constexpr,
):
    """DEGREES degrees of row y of a strip."""
    a = tl.zeros([strip.columns.shape[0], strip.channels.shape[0]], tl.float32)
    b = a
    c = a
    for row in range(tl.maximum(y - HALF_A, 0), tl.minimum(y + HALF_A + 1, strip.H)):
        for shift in range(-HALF_A, HALF_A + 1):
            x = load_row(strip, row, shift)
            a += x
            off = tl.maximum(tl.abs(row - y), tl.abs(shift))
            if DEGREES > 1:
                b += x * (off <= HALF_B).to(tl.float32)
            if DEGREES > 2:
                c += x * (off <= HALF_C).to(tl.float32)
    _store_box_mean(out_a_ptr, a, strip, y, HALF_A, rstd)
    if DEGREES > 1:
        _store_box_mean(out_b_ptr, b, strip, y, HALF_B, rstd)
    if DEGREES > 2:
        _store_box_mean(out_c_ptr, c, strip, y, HALF_C, rstd)


@triton.jit(do_not_specialize=["H", "W", "HALF_A", "HALF_B", "HALF_C"])
def _large_degrees_kernel(
    x_ptr,
    sums_ptr,
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
    WHOLE: tl.constexpr,
    PARTS: tl.constexpr,
    BLOCK_X: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """A program takes one row of a strip. HALF_A >= HALF_B >= HALF_C are (r - 1) / 2 of DEGREES."""
    strips = tl.cdiv(W, BLOCK_X)
    pid = tl.program_id(0)
    image = pid // (strips * H)
    y = pid // strips % H
    columns = pid % strips * BLOCK_X + tl.arange(0, BLOCK_X)
    channels = tl.arange(0, BLOCK_C)
    mean, rstd = load_moments(sums_ptr, image, H * W, C, PARTS)
    base = x_ptr + image.to(tl.int64) * stride_n
    _aggregate_row(
        out_a_ptr,
        out_b_ptr,
        out_c_ptr,
        Strip(base, mean, image, columns, channels, H, W, C, stride_p, WHOLE),
        y,
        rstd,
        HALF_A,
        HALF_B,
        HALF_C,
        DEGREES,
    )


def aggregate_large(
    tokens: Tensor,
    sums: Tensor,
    grid: tuple[int, int],
    results: dict[int, Tensor],
    config: Config,
) -> None:
    """Fill in the results [N, P, C] of any degrees.

    tokens: [N, P, C], stride 1 along C.
    sums: of the tokens, from `lnamd_moments`.
    grid: (H, W) with H W = P.
    results: what to fill in, by the degree.
    """
    height, width = grid
    order = sorted(results, reverse=True)
    for first in range(0, len(order), _DEGREES):
        group = order[first : first + _DEGREES]
        padded = [*group, *[group[-1]] * (_DEGREES - len(group))]
        _large_degrees_kernel[(len(tokens) * height * triton.cdiv(width, config.BLOCK_X),)](
            tokens,
            sums,
            *(results[r] for r in padded),
            height,
            width,
            tokens.shape[2],
            tokens.stride(0),
            tokens.stride(1),
            *(r // 2 for r in padded),
            DEGREES=len(group),
            WHOLE=tokens.shape[2] == config.BLOCK_C,
            PARTS=PARTS,
            BLOCK_X=config.BLOCK_X,
            BLOCK_C=config.BLOCK_C,
            num_warps=config.num_warps,
            enable_fp_fusion=True,
        )
