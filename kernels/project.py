"""Components of rows in a principal subspace, and the norm of what lies outside it.

    x = z - mean,   w = B^T x,   r = |x - B w|,   rows = (w, r - centre, 0, ...)

z: [R, C] of any float dtype; mean: [C] float32; B: [C, m] nearly orthonormal; rows: [R, K] float32,
K > m; errors: [R] float32, which bound |rows - (B^T x, |x - B B^T x| - centre)|.

Products run on tensor cores in float16, x (and w) and B each split into two float16 numbers, of
whose four products the smallest is left out: 22 bits of a factor are used. Sums of _DEPTH channels
are accumulated by themselves and then added in float32, so that the bound on their rounding is that
of short sums.

Bounds, u = 2^-24, with |B|_F^2 at most m (1 + |B^T B - I|): a sum of n products on tensor cores is
off by at most 4 (n + 3) u of the sum of magnitudes (see `RoundedImages.error`), the split by 12 u.
With E = B^T B - I and d the error of w: r is off the true residual norm by at most the norm of the
error of B w, and, since B^T (x - B B^T x) = -E B^T x, by at most q / r more, with
q = 2 |E| |x| d + 2 d^2.

Memory: z is read twice, 8 C bytes a row; rows are written and read, 12 K bytes; B from L2. Floor on
an H100 (3.35 TB/s) for 200 * 1369 rows, C = 1024, m = 127: 0.8 ms; 430e9 operations on tensor cores
(of them six eighths for the split), 0.7 ms at two thirds of the peak, can overlap.
"""

# mypy: disable-error-code="no-untyped-def,untyped-decorator"

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from .devices import next_power_of_2

_DEPTH = 32  # products that tensor cores sum before float32 takes over
_LIMIT = 60000.0  # of float16 factors
_BASIS_SCALE = 1024.0  # basis entries are at most 1; scaled, their second halves are normal numbers
_UNIT = 2.0**-24


@dataclass(frozen=True)
class SplitBasis:
    """B [C, m] times _BASIS_SCALE as the sum of two float16 matrices [C, W], W a power of two.

    error: at least |B^T B - I|.
    """

    high: Tensor
    low: Tensor
    size: int
    error: float


def split_basis(basis: Tensor, error: float) -> SplitBasis:
    """The halves of `basis` [C, m]; at least one column beyond m is zero."""
    width = max(32, next_power_of_2(basis.shape[1] + 1))
    scaled = torch.nn.functional.pad(basis * _BASIS_SCALE, (0, width - basis.shape[1]))
    high = scaled.half()
    return SplitBasis(high, (scaled - high.float()).half(), basis.shape[1], error)


@dataclass(frozen=True)
class Config:
    """A program takes BLOCK_R rows, and BLOCK_C channels of the residual at a time."""

    BLOCK_R: int
    BLOCK_C: int
    num_warps: int


def pick_config(rows: int, width: int) -> Config:
    """The config for `rows` rows and W = `width`: few rows are spread over more programs."""
    if width > 128:
        return Config(64, 64, 8)
    return Config(64, 64, 4) if rows < 1 << 15 else Config(128, 64, 8)


@triton.jit
def _split(x):
    """x as the sum of two float16 numbers; its magnitude must be less than 65000."""
    high = x.to(tl.float16)
    return high, (x - high.to(tl.float32)).to(tl.float16)


@triton.jit
def _product(a_high, a_low, b_high, b_low):
    """a b without low a low b."""
    total = tl.dot(a_high, b_high)
    total = tl.dot(a_low, b_high, total)
    return tl.dot(a_high, b_low, total)


@triton.jit(do_not_specialize=["R"])
def _component_kernel(
    z_ptr,
    mean_ptr,
    high_ptr,
    low_ptr,
    row_ptr,
    norm_ptr,
    error_ptr,
    R,
    C,
    FACTOR,
    UNSCALE,
    RELATIVE,
    ABSOLUTE,
    K: tl.constexpr,
    W: tl.constexpr,
    LIMIT: tl.constexpr,
    BLOCK_R: tl.constexpr,
    DEPTH: tl.constexpr,
):
    """w, |x| and the error of w. FACTOR: x is multiplied by it before the split."""
    row = tl.program_id(0).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)
    column = tl.arange(0, W)
    total = tl.zeros([BLOCK_R, W], tl.float32)
    squares = tl.zeros([BLOCK_R, DEPTH], tl.float32)
    clipped = tl.zeros([BLOCK_R, DEPTH], tl.float32)
    for start in range(0, C, DEPTH):
        channel = start + tl.arange(0, DEPTH)
        inside = (row < R)[:, None] & (channel < C)[None, :]
        z = tl.load(z_ptr + row[:, None] * C + channel[None, :], mask=inside, other=0.0)
        mean = tl.load(mean_ptr + channel, mask=channel < C, other=0.0)
        x = tl.where(inside, z.to(tl.float32) - mean[None, :], 0.0)
        squares += x * x
        scaled = x * FACTOR
        kept = tl.clamp(scaled, -LIMIT, LIMIT)
        clipped += (scaled - kept) * (scaled - kept)
        x_high, x_low = _split(kept)
        at = channel[:, None] * W + column[None, :]
        known = (channel < C)[:, None] & (column < W)[None, :]
        b_high = tl.load(high_ptr + at, mask=known, other=0.0)
        b_low = tl.load(low_ptr + at, mask=known, other=0.0)
        total += _product(x_high, x_low, b_high, b_low)
    norm = tl.sqrt_rn(tl.sum(squares, axis=1))
    # Any w will do that its error tells of: w is clipped too, so that it can be split in turn.
    total *= UNSCALE
    kept = tl.clamp(total, -LIMIT, LIMIT)
    lost = tl.sqrt_rn(tl.sum(clipped, axis=1))
    lost = (lost + tl.sqrt_rn(tl.sum((total - kept) * (total - kept), axis=1))) / FACTOR
    stored = (row < R)[:, None] & (column < K)[None, :]
    tl.store(row_ptr + row[:, None] * K + column[None, :], kept / FACTOR, mask=stored)
    tl.store(norm_ptr + row, norm, mask=row < R)
    tl.store(error_ptr + row, RELATIVE * norm + ABSOLUTE + 1.01 * lost, mask=row < R)


@triton.jit(do_not_specialize=["R"])
def _residual_kernel(
    z_ptr,
    mean_ptr,
    high_ptr,
    low_ptr,
    row_ptr,
    norm_ptr,
    error_ptr,
    R,
    C,
    CENTRE,
    FACTOR,
    UNSCALE,
    RELATIVE,
    ABSOLUTE,
    BASIS_ERROR,
    SIZE: tl.constexpr,
    K: tl.constexpr,
    W: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_C: tl.constexpr,
    DEPTH: tl.constexpr,
):
    """r from w and z; norm_ptr holds |x| before, r after; error_ptr the error of w, then of all."""
    unit: tl.constexpr = 2.0**-24
    row = tl.program_id(0).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)
    squares = tl.zeros([BLOCK_R, BLOCK_C], tl.float32)
    for start in range(0, C, BLOCK_C):
        channel = start + tl.arange(0, BLOCK_C)
        inside = (row < R)[:, None] & (channel < C)[None, :]
        z = tl.load(z_ptr + row[:, None] * C + channel[None, :], mask=inside, other=0.0)
        mean = tl.load(mean_ptr + channel, mask=channel < C, other=0.0)
        x = tl.where(inside, z.to(tl.float32) - mean[None, :], 0.0)
        total = tl.zeros([BLOCK_R, BLOCK_C], tl.float32)
        for first in tl.static_range(0, W, DEPTH):
            column = first + tl.arange(0, DEPTH)
            known = (row < R)[:, None] & (column < SIZE)[None, :]
            w = tl.load(row_ptr + row[:, None] * K + column[None, :], mask=known, other=0.0)
            w_high, w_low = _split(w * FACTOR)
            at = channel[None, :] * W + column[:, None]
            b_high = tl.load(high_ptr + at, mask=(channel < C)[None, :], other=0.0)
            b_low = tl.load(low_ptr + at, mask=(channel < C)[None, :], other=0.0)
            total += _product(w_high, w_low, b_high, b_low)
        x -= total * (UNSCALE / FACTOR)
        squares += x * x
    residual = tl.sqrt_rn(tl.sum(squares, axis=1))
    norm = tl.load(norm_ptr + row, mask=row < R, other=0.0)
    error = tl.load(error_ptr + row, mask=row < R, other=0.0)
    wrong = RELATIVE * norm + ABSOLUTE + C * unit * residual
    second = 2 * BASIS_ERROR * norm * error + 2 * error * error
    root = tl.sqrt_rn(second)
    # The true |x - B w| is at least half of `residual` where that is beyond twice its error.
    quotient = tl.where(residual > 2 * wrong, 2 * second / tl.maximum(residual, 1e-30), root)
    error += wrong + tl.minimum(root, quotient) + 4 * unit * (residual + tl.abs(CENTRE) + norm)
    tl.store(row_ptr + row * K + SIZE, residual - CENTRE, mask=row < R)
    tl.store(norm_ptr + row, residual, mask=row < R)
    tl.store(error_ptr + row, error * (1 + 64 * unit), mask=row < R)


def project_rows(
    z: Tensor, mean: Tensor, basis: SplitBasis, centre: float, depth: int, largest: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Rows z [R, C] -> rows [R, depth] float32, residual norms [R] and bounds on errors [R].

    depth: K, more than m.
    largest: about the largest entry of x; entries 4000 times as large are clipped, which the error
        takes into account.
    """
    count, channels = z.shape
    rows = torch.empty(count, depth, dtype=torch.float32, device=z.device)
    norms = torch.empty(count, dtype=torch.float32, device=z.device)
    errors = torch.empty(count, dtype=torch.float32, device=z.device)
    factor = 2.0 ** (3 - math.frexp(largest)[1]) if 1e-30 < largest < 1e30 else 1.0
    # |B|_F times the rounding of a sum: of _DEPTH products in three parts, of the parts, the split.
    parts = max(channels, basis.size) // _DEPTH + 1
    sums = 4 * (3 * _DEPTH + 3) + parts + 20
    relative = sums * _UNIT * math.sqrt(basis.size * (1 + basis.error))
    # Second halves below the normal float16 numbers: 2^-25 an entry of x, relatively less of B.
    absolute = 2.0**-24 * math.sqrt(channels) / factor
    width = basis.high.shape[1]
    config = pick_config(count, width)
    block = config.BLOCK_R
    common = {"K": depth, "W": width, "BLOCK_R": block, "DEPTH": _DEPTH}
    common |= {"num_warps": config.num_warps, "enable_fp_fusion": True}
    halves = (basis.high, basis.low, rows, norms, errors, count, channels)
    scales = (factor, 1 / _BASIS_SCALE, relative, absolute)
    grid = (triton.cdiv(count, block),)
    _component_kernel[grid](z, mean, *halves, *scales, LIMIT=_LIMIT, num_stages=3, **common)
    common |= {"SIZE": basis.size, "BLOCK_C": config.BLOCK_C, "num_stages": 2}
    _residual_kernel[grid](z, mean, *halves, centre, *scales, basis.error, **common)
    return rows, norms, errors
