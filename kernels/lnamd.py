"""Local neighbourhood aggregation (LNAMD): LayerNorm, box means of all degrees, L2 norm.

    z_r[n, p, :] = v / max(|v|, 1e-12),   v = mean over the r x r box around p of LN(x[n])

tokens: [N, P, C] of any float dtype, P = H W, stride 1 along C, any other strides. Results: one
float32 [N, P, C] a degree. LN runs over (C, H, W) of an image, eps 1e-5, no affine; the mean of a
box divides by r x r at the edge too, where the box is padded with zeros.

LN is affine, so v = rstd / r^2 * (box sum of x - (tokens in the box) * mean): aggregation takes a
box sum, and rstd only matters against the 1e-12. An image is summed in parts (mean, spread, least
and greatest value); parts are added in float64 in a fixed order. The mean is clamped between the
least and the greatest value, so that a constant image gives zeros and not noise. The box sums take
x - mean token by token, so that a hot channel causes no cancellation, and sums over rows are added
up anew for each row of results and never taken back, so that a hot token leaves no rounding.

One launch does both: programs that sum image k come before those that aggregate image k - lag,
which therefore find their image in the L2 cache (1369 * 1024 * 4 = 5.6 MB). A program takes BLOCK_X
columns of the grid and walks down ROWS rows; sums over 3 and 5 columns of a row serve 3 and 5 rows
of results, held as running sums in registers. It reads a token five times (L1 serves three), and of
L2 (1 + 4 / BLOCK_X) (1 + 4 / ROWS) times its share: 4 times the tokens, 4.4 GB, beside the sums'.
Results are stored to leave the cache first. Degrees beyond 5 add each box anew.

Memory: tokens come from DRAM once where L2 holds the images in flight (about seven), 4 N P C bytes
are written a degree. Floor on an H100 for N = 200, P = 1369, C = 1024, 3 degrees: 4.5 GB, 1.3 ms.

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

SMALL = (1, 3, 5)  # degrees that one pass over the rows takes together
PARTS = 32  # partial sums of an image; a power of two
_DEGREES = 3  # larger ones, of one launch


@dataclass(frozen=True)
class Config:
    """A program takes BLOCK_X columns of the grid, ROWS rows of each, and all channels.

    BLOCK_S: tokens that are added at a time in a partial sum.
    lag: images between the sums of an image and its aggregation.
    """

    BLOCK_X: int
    BLOCK_C: int
    ROWS: int
    BLOCK_S: int
    num_warps: int
    lag: int = 2


def pick_config(width: int, channels: int) -> Config:
    """The config with which six running sums and a row stay in registers."""
    block_c = next_power_of_2(channels)
    block_x = max(1, min(next_power_of_2(width), 2048 // block_c))
    return Config(block_x, block_c, 13, max(1, 4096 // block_c), 8 if block_c > 128 else 4)


@triton.jit
def _add_part(
    x_ptr,
    sums_ptr,
    image,
    part,
    P,
    C,
    stride_n,
    stride_p,
    PARTS: tl.constexpr,
    BLOCK_S: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Sum, sum of squares, minimum and maximum of a part of an image -> [N, 4, PARTS]."""
    channels = tl.arange(0, BLOCK_C)[None, :]
    base = x_ptr + image.to(tl.int64) * stride_n
    size = tl.cdiv(P, PARTS)
    last = tl.minimum((part + 1) * size, P)
    total = tl.zeros([BLOCK_S, BLOCK_C], tl.float32)
    square = total
    least = tl.full([BLOCK_S, BLOCK_C], float("inf"), tl.float32)
    greatest = -least
    for first in range(part * size, last, BLOCK_S):
        token = first + tl.arange(0, BLOCK_S)
        mask = (token < last)[:, None] & (channels < C)
        at = token.to(tl.int64)[:, None] * stride_p + channels
        x = tl.load(base + at, mask=mask, other=0.0).to(tl.float32)
        total += x
        square += x * x
        least = tl.minimum(least, tl.where(mask, x, float("inf")))
        greatest = tl.maximum(greatest, tl.where(mask, x, float("-inf")))
    out = sums_ptr + image * (4 * PARTS) + part
    tl.store(out, tl.sum(tl.sum(total, axis=1), axis=0))
    tl.store(out + PARTS, tl.sum(tl.sum(square, axis=1), axis=0))
    tl.store(out + 2 * PARTS, tl.min(tl.min(least, axis=1), axis=0))
    tl.store(out + 3 * PARTS, tl.max(tl.max(greatest, axis=1), axis=0))


@triton.jit
def _statistics(sums_ptr, image, P, C, PARTS: tl.constexpr):
    """Mean of an image, between its least and greatest value, and 1 / sqrt(variance + 1e-5)."""
    at = sums_ptr + image * (4 * PARTS) + tl.arange(0, PARTS)
    total = tl.load(at, cache_modifier=".cg").to(tl.float64)
    square = tl.load(at + PARTS, cache_modifier=".cg").to(tl.float64)
    least = tl.min(tl.load(at + 2 * PARTS, cache_modifier=".cg"), axis=0)
    greatest = tl.max(tl.load(at + 3 * PARTS, cache_modifier=".cg"), axis=0)
    count = (P * 1.0) * C
    mean = (tl.sum(total, axis=0) / count).to(tl.float32)
    mean = tl.minimum(tl.maximum(mean, least), greatest)
    variance = (tl.sum(square, axis=0) / count - mean.to(tl.float64) * mean).to(tl.float32)
    return mean, 1.0 / tl.sqrt_rn(tl.maximum(variance, 0.0) + 1e-5)


@triton.jit(do_not_specialize=["P"])
def _moments_kernel(
    x_ptr,
    sums_ptr,
    P,
    C,
    stride_n,
    stride_p,
    PARTS: tl.constexpr,
    BLOCK_S: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Program (image, part) -> sums [N, 4, PARTS]."""
    image, part = tl.program_id(0), tl.program_id(1)
    _add_part(x_ptr, sums_ptr, image, part, P, C, stride_n, stride_p, PARTS, BLOCK_S, BLOCK_C)


@triton.jit
def _store_normalised(out_ptr, v, rows, mask, C, channels, factor):
    """Store v * factor [BLOCK_X, BLOCK_C], each row scaled to norm 1."""
    norm = tl.sqrt_rn(tl.sum(v * v, axis=1)) * factor  # [BLOCK_X]
    z = v * (factor / tl.maximum(norm, 1e-12))[:, None]
    at = out_ptr + rows[:, None] * C + channels[None, :]
    tl.store(at, z, mask=mask, eviction_policy="evict_first")


@triton.jit
def _load_row(base, columns, row, channels, mean, H, W, C, stride_p, WHOLE: tl.constexpr):
    """x - mean of tokens (row, columns) [BLOCK_X, BLOCK_C], 0 beyond the grid."""
    inside = (columns >= 0) & (columns < W) & (row >= 0) & (row < H)
    token = tl.minimum(tl.maximum(row, 0), H - 1) * W + tl.minimum(tl.maximum(columns, 0), W - 1)
    at = base + token.to(tl.int64)[:, None] * stride_p + channels[None, :]
    weight = tl.where(inside, 1.0, 0.0)[:, None]
    if WHOLE:
        x = tl.load(at).to(tl.float32)
    else:
        mask = (channels < C)[None, :]
        x = tl.load(at, mask=mask, other=0.0).to(tl.float32)
        weight = tl.where(mask, weight, 0.0)
    return x * weight - mean * weight  # exact: the weight is 0 or 1


@triton.jit(do_not_specialize=["N", "H", "W", "LAG"])
def _lnamd_kernel(
    x_ptr,
    sums_ptr,
    count_ptr,
    out_1_ptr,
    out_3_ptr,
    out_5_ptr,
    N,
    H,
    W,
    C,
    stride_n,
    stride_p,
    LAG,
    TAKE_1: tl.constexpr,
    TAKE_3: tl.constexpr,
    TAKE_5: tl.constexpr,
    WHOLE: tl.constexpr,
    PARTS: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_S: tl.constexpr,
    BLOCK_X: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Sums of image k, then degrees 1, 3 and 5 of image k - LAG, for k = 0, 1, ..., N + LAG - 1.

    count_ptr: [1 + N], zeros; how many programs have started, and how many parts of each image are
        summed. A program takes its place in the order in which programs start, so whatever it waits
        for has started before, and no such program waits.
    WHOLE: C = BLOCK_C.
    """
    strips = tl.cdiv(W, BLOCK_X)
    programs = strips * tl.cdiv(H, ROWS)
    pid = tl.atomic_add(count_ptr, 1, sem="relaxed")
    step = pid // (PARTS + programs)
    part = pid % (PARTS + programs)
    if part < PARTS:
        if step < N:
            _add_part(
                x_ptr, sums_ptr, step, part, H * W, C, stride_n, stride_p, PARTS, BLOCK_S, BLOCK_C
            )
            tl.debug_barrier()
            tl.atomic_add(count_ptr + 1 + step, 1, sem="release")
    elif step >= LAG:
        image = step - LAG
        while tl.atomic_add(count_ptr + 1 + image, 0, sem="acquire") < PARTS:
            pass
        mean, rstd = _statistics(sums_ptr, image, H * W, C, PARTS)
        base = x_ptr + image.to(tl.int64) * stride_n
        start = image.to(tl.int64) * H
        channels = tl.arange(0, BLOCK_C)
        columns = (part - PARTS) % strips * BLOCK_X + tl.arange(0, BLOCK_X)
        mask = (columns < W)[:, None] & (channels < C)[None, :]
        first = (part - PARTS) // strips * ROWS
        last = tl.minimum(first + ROWS, H)
        # Row sums over 3 and 5 columns; three_2 is the sum of the last two rows of them, and so on.
        three_1 = tl.zeros([BLOCK_X, BLOCK_C], tl.float32)
        three_2 = three_1
        five_1 = three_1
        five_2 = three_1
        five_3 = three_1
        five_4 = three_1
        halo: tl.constexpr = 2 if TAKE_5 else 1 if TAKE_3 else 0
        for row in range(first - halo, last + halo):
            x = _load_row(base, columns, row, channels, mean, H, W, C, stride_p, WHOLE)
            if TAKE_1:  # noqa: SIM102  (a constant, and then a value of run time)
                if (row >= first) & (row < last):
                    rows = (start + row) * W + columns
                    _store_normalised(out_1_ptr, x, rows, mask, C, channels, rstd)
            if halo > 0:
                x += _load_row(base, columns - 1, row, channels, mean, H, W, C, stride_p, WHOLE)
                x += _load_row(base, columns + 1, row, channels, mean, H, W, C, stride_p, WHOLE)
            if TAKE_3:
                if (row > first) & (row <= last):
                    rows = (start + row - 1) * W + columns
                    _store_normalised(
                        out_3_ptr, three_2 + x, rows, mask, C, channels, rstd * (1.0 / 9)
                    )
                three_2 = three_1 + x
                three_1 = x
            if TAKE_5:
                x += _load_row(base, columns - 2, row, channels, mean, H, W, C, stride_p, WHOLE)
                x += _load_row(base, columns + 2, row, channels, mean, H, W, C, stride_p, WHOLE)
                if row > first + 1:
                    rows = (start + row - 2) * W + columns
                    _store_normalised(
                        out_5_ptr, five_4 + x, rows, mask, C, channels, rstd * (1.0 / 25)
                    )
                five_4 = five_3 + x
                five_3 = five_2 + x
                five_2 = five_1 + x
                five_1 = x


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
    """HALF_A >= HALF_B >= HALF_C are (r - 1) / 2 of up to three degrees."""
    strips = tl.cdiv(W, BLOCK_X)
    pid = tl.program_id(0)
    image = pid // (strips * H)
    y = pid // strips % H
    columns = pid % strips * BLOCK_X + tl.arange(0, BLOCK_X)
    channels = tl.arange(0, BLOCK_C)
    mean, rstd = _statistics(sums_ptr, image, H * W, C, PARTS)
    base = x_ptr + image.to(tl.int64) * stride_n
    a = tl.zeros([BLOCK_X, BLOCK_C], tl.float32)
    b = a
    c = a
    for row in range(tl.maximum(y - HALF_A, 0), tl.minimum(y + HALF_A + 1, H)):
        for shift in range(-HALF_A, HALF_A + 1):
            x = _load_row(base, columns + shift, row, channels, mean, H, W, C, stride_p, WHOLE)
            a += x
            off = tl.maximum(tl.abs(row - y), tl.abs(shift))
            if DEGREES > 1:
                b += x * (off <= HALF_B).to(tl.float32)
            if DEGREES > 2:
                c += x * (off <= HALF_C).to(tl.float32)
    rows = (image.to(tl.int64) * H + y) * W + columns
    mask = (columns < W)[:, None] & (channels < C)[None, :]
    side = (2 * HALF_A + 1).to(tl.float32)
    _store_normalised(out_a_ptr, a, rows, mask, C, channels, rstd / (side * side))
    if DEGREES > 1:
        side = (2 * HALF_B + 1).to(tl.float32)
        _store_normalised(out_b_ptr, b, rows, mask, C, channels, rstd / (side * side))
    if DEGREES > 2:
        side = (2 * HALF_C + 1).to(tl.float32)
        _store_normalised(out_c_ptr, c, rows, mask, C, channels, rstd / (side * side))


def aggregate_neighbourhoods(
    tokens: Tensor,
    grid: tuple[int, int],
    degrees: Sequence[int],
    *,
    config: Config | None = None,
) -> list[Tensor]:
    """LNAMD of tokens [N, P, C], one float32 [N, P, C] for each degree.

    tokens: any float dtype, stride 1 along C.
    grid: (H, W) with H W = P.
    degrees: side lengths r of the boxes, odd, in any order.
    config: None picks by the width and the channels.
    """
    n, p, c = tokens.shape
    height, width = grid
    config = config or pick_config(width, c)
    found = {
        r: torch.empty(n, p, c, dtype=torch.float32, device=tokens.device) for r in set(degrees)
    }
    sums = torch.empty(n, 4, PARTS, dtype=torch.float32, device=tokens.device)
    shape = {
        "WHOLE": c == config.BLOCK_C,
        "PARTS": PARTS,
        "BLOCK_C": config.BLOCK_C,
        "num_warps": config.num_warps,
        "enable_fp_fusion": True,
    }
    strips = triton.cdiv(width, config.BLOCK_X)
    if any(r in SMALL for r in degrees):
        lag = min(config.lag, n)
        programs = (n + lag) * (PARTS + strips * triton.cdiv(height, config.ROWS))
        _lnamd_kernel[(programs,)](
            tokens,
            sums,
            torch.zeros(1 + n, dtype=torch.int32, device=tokens.device),
            *(found.get(r, sums) for r in SMALL),
            n,
            height,
            width,
            c,
            tokens.stride(0),
            tokens.stride(1),
            lag,
            **{f"TAKE_{r}": r in found for r in SMALL},
            ROWS=config.ROWS,
            BLOCK_S=config.BLOCK_S,
            BLOCK_X=config.BLOCK_X,
            **shape,
        )
    else:
        _moments_kernel[(n, PARTS)](
            tokens,
            sums,
            p,
            c,
            tokens.stride(0),
            tokens.stride(1),
            PARTS=PARTS,
            BLOCK_S=config.BLOCK_S,
            BLOCK_C=config.BLOCK_C,
            enable_fp_fusion=True,
        )
    order = sorted(found.keys() - set(SMALL), reverse=True)
    for first in range(0, len(order), _DEGREES):
        group = order[first : first + _DEGREES]
        padded = [*group, *[group[-1]] * (_DEGREES - len(group))]
        _large_degrees_kernel[(n * height * strips,)](
            tokens,
            sums,
            *(found[r] for r in padded),
            height,
            width,
            c,
            tokens.stride(0),
            tokens.stride(1),
            *(r // 2 for r in padded),
            DEGREES=len(group),
            BLOCK_X=config.BLOCK_X,
            **shape,
        )
    return [found[r] for r in degrees]
