"""Local neighbourhood aggregation (LNAMD): LayerNorm, box means of all degrees, L2 norm.

    z_r[n, p, :] = v / max(|v|, 1e-12),   v = mean over the r x r box around p of LN(x[n])

tokens: [N, P, C] of any float dtype, P = H W, stride 1 along C, any other strides. Results: one
float32 [N, P, C] a degree. LN runs over (C, H, W) of an image, eps 1e-5, no affine; the mean of a
box divides by r x r at the edge too, where the box is padded with zeros.

LN is affine, so v = rstd / r^2 * (box sum of x - (tokens in the box) * mean): aggregation takes a
box sum, and rstd only matters against the 1e-12. `lnamd_moments` sums images, `lnamd_strips` loads
and stores rows of tokens, `lnamd_large` takes degrees beyond 5. The box sums take x - mean
token by token, so that a hot channel causes no cancellation, and sums over rows are added up anew
for each row of results and never taken back, so that a hot token leaves no rounding.

One launch does both: programs that sum image k come before those that aggregate image k - lag,
which therefore find their image in the L2 cache (1369 * 1024 * 4 = 5.6 MB). A program takes BLOCK_X
columns of the grid and walks down ROWS rows; sums over 3 and 5 columns of a row serve 3 and 5 rows
of results, held as running sums in registers. It reads a token five times (L1 serves three), and of
L2 (1 + 4 / BLOCK_X) (1 + 4 / ROWS) times its share: 4 times the tokens, 4.4 GB, beside the sums'.
Results are stored to leave the cache first.

Memory: tokens come from DRAM once where L2 holds the images in flight (about seven), 4 N P C bytes
are written a degree. Floor on an H100 for N = 200, P = 1369, C = 1024, 3 degrees: 4.5 GB, 1.3 ms.

The float32 results are the rows that `refine` recomputes distances from. `quantise` rounds them in
one more reading (1.1 GB, 0.33 ms a degree) and not here, since the mean, the scale and the choice
of a basis depend on all images, and since the search also takes rows that LNAMD did not make.
"""

# mypy: disable-error-code="no-untyped-def,untyped-decorator"

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from .lnamd_large import aggregate_large
from .lnamd_moments import PARTS, empty_sums, load_moments, sum_images, sum_part
from .lnamd_strips import Config, Strip, grid_mask, load_row, pick_config, store_row

__all__ = ["PARTS", "SMALL", "Config", "aggregate_neighbourhoods", "pick_config"]

SMALL = (1, 3, 5)  # degrees that one pass over the rows takes together


@triton.jit
def _aggregate_rows(
    out_1_ptr,
    out_3_ptr,
    out_5_ptr,
    strip,
    first,
    last,
    rstd,
    TAKE_1: tl.constexpr,
    TAKE_3: tl.constexpr,
    TAKE_5: tl.constexpr,
):
    """Degrees 1, 3 and 5 of rows first, ..., last - 1 of a strip."""
    inside = grid_mask(strip)
    start = strip.image.to(tl.int64) * strip.H
    # Row sums over 3 and 5 columns; three_2 is the sum of the last two rows of them, and so on.
    three_1 = tl.zeros([strip.columns.shape[0], strip.channels.shape[0]], tl.float32)
    three_2 = three_1
    five_1 = three_1
    five_2 = three_1
    five_3 = three_1
    five_4 = three_1
    halo: tl.constexpr = 2 if TAKE_5 else 1 if TAKE_3 else 0
    for row in range(first - halo, last + halo):
        x = load_row(strip, row, 0)
        if TAKE_1:  # noqa: SIM102  (a constant, and then a value of run time)
            if (row >= first) & (row < last):
                store_row(out_1_ptr, x, strip, start + row, inside, rstd)
        if halo > 0:
            x += load_row(strip, row, -1)
            x += load_row(strip, row, 1)
        if TAKE_3:
            if (row > first) & (row <= last):
                store_row(out_3_ptr, three_2 + x, strip, start + row - 1, inside, rstd * (1.0 / 9))
            three_2 = three_1 + x
            three_1 = x
        if TAKE_5:
            x += load_row(strip, row, -2)
            x += load_row(strip, row, 2)
            if row > first + 1:
                store_row(out_5_ptr, five_4 + x, strip, start + row - 2, inside, rstd * (1.0 / 25))
            five_4 = five_3 + x
            five_3 = five_2 + x
            five_2 = five_1 + x
            five_1 = x


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
            sum_part(
                x_ptr, sums_ptr, step, part, H * W, C, stride_n, stride_p, PARTS, BLOCK_S, BLOCK_C
            )
            tl.debug_barrier()
            tl.atomic_add(count_ptr + 1 + step, 1, sem="release")
    elif step >= LAG:
        image = step - LAG
        while tl.atomic_add(count_ptr + 1 + image, 0, sem="acquire") < PARTS:
            pass
        mean, rstd = load_moments(sums_ptr, image, H * W, C, PARTS)
        base = x_ptr + image.to(tl.int64) * stride_n
        channels = tl.arange(0, BLOCK_C)
        columns = (part - PARTS) % strips * BLOCK_X + tl.arange(0, BLOCK_X)
        first = (part - PARTS) // strips * ROWS
        last = tl.minimum(first + ROWS, H)
        _aggregate_rows(
            out_1_ptr,
            out_3_ptr,
            out_5_ptr,
            Strip(base, mean, image, columns, channels, H, W, C, stride_p, WHOLE),
            first,
            last,
            rstd,
            TAKE_1,
            TAKE_3,
            TAKE_5,
        )


def _aggregate_small(
    tokens: Tensor, grid: tuple[int, int], results: dict[int, Tensor], config: Config
) -> Tensor:
    """Fill in the results of degrees 1, 3 and 5; returns the sums of the images' parts."""
    n, _, c = tokens.shape
    height, width = grid
    sums = empty_sums(tokens)
    lag = min(config.lag, n)
    programs = PARTS + triton.cdiv(width, config.BLOCK_X) * triton.cdiv(height, config.ROWS)
    _lnamd_kernel[((n + lag) * programs,)](
        tokens,
        sums,
        torch.zeros(1 + n, dtype=torch.int32, device=tokens.device),
        *(results.get(r, sums) for r in SMALL),  # a degree that is not taken stores nothing
        n,
        height,
        width,
        c,
        tokens.stride(0),
        tokens.stride(1),
        lag,
        **{f"TAKE_{r}": r in results for r in SMALL},
        WHOLE=c == config.BLOCK_C,
        PARTS=PARTS,
        ROWS=config.ROWS,
        BLOCK_S=config.BLOCK_S,
        BLOCK_X=config.BLOCK_X,
        BLOCK_C=config.BLOCK_C,
        num_warps=config.num_warps,
        enable_fp_fusion=True,
    )
    return sums


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
    config = config or pick_config(grid[1], tokens.shape[2])
    found = {
        r: torch.empty(tokens.shape, dtype=torch.float32, device=tokens.device)
        for r in set(degrees)
    }
    small = {r: z for r, z in found.items() if r in SMALL}
    large = {r: z for r, z in found.items() if r not in SMALL}
    sums = _aggregate_small(tokens, grid, small, config) if small else sum_images(tokens, config)
    aggregate_large(tokens, sums, grid, large, config)
    return [found[r] for r in degrees]
