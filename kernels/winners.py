"""Distances of the winners of the search that matter, from the original rows.

    out[i, j, p] = sum over c of (x[i, p, c] - y[j, q, c])^2,   q the patch that keys[i, j, p] names

where the bound of patch p does not exclude image j, +inf elsewhere. x: [N, P, C], y: [m, Q, C],
contiguous, any float dtype; keys: [N, M, P] int64 of `min_distance`; out: [N, M, P] float32. y may
hold a part of the M images (rows streamed from host memory); out is filled for these alone. The
order of sums is that of `refine`.

Memory: 12 bytes a (patch, image) and one gathered row a winner, 4 C bytes; the row of x is read for
BLOCK_L images at a time and stays in the L1 cache for these. Programs of the same images lie
together, so that these stay in L2. Floor on an H100 for 200 images of 1369 patches, C = 1024, 59
winners a patch, from L2 at 5.7 TB/s: 14 ms, of which 66 GB are y and 15 GB are x.
"""

# mypy: disable-error-code="no-untyped-def,untyped-decorator"

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from .bounds import lower_bound, searched_distance
from .refine import pick_config, squared_distances


@triton.jit(do_not_specialize=["M", "P", "Q", "FIRST", "IMAGES"])
def _winner_kernel(
    x_ptr,
    y_ptr,
    key_ptr,
    kth_ptr,
    x_error_ptr,
    y_error_ptr,
    error_ptr,
    out_ptr,
    M,
    P,
    Q,
    C,
    FIRST,
    IMAGES,
    SCALE_SQUARED,
    INTEGERS: tl.constexpr,
    SELECT: tl.constexpr,
    CERTIFIED: tl.constexpr,
    BLOCK_L: tl.constexpr,
    BLOCK_C: tl.constexpr,
    STAGES: tl.constexpr,
):
    """Patch p of image i against BLOCK_L of the images FIRST to FIRST + IMAGES - 1, held in y."""
    at = tl.program_id(0).to(tl.int64)  # i P + p
    local = tl.program_id(1) * BLOCK_L + tl.arange(0, BLOCK_L)
    listed = local < IMAGES
    j = FIRST + local
    slot = (at // P * M + j) * P + at % P
    key = tl.load(key_ptr + slot, mask=listed, other=0)
    searched = searched_distance(key, SCALE_SQUARED, INTEGERS)
    wanted = listed & (searched < float("inf"))
    if SELECT:
        kth = tl.load(kth_ptr + at)
        if CERTIFIED:
            slack = tl.load(x_error_ptr + at) + tl.load(y_error_ptr + j, mask=listed, other=0.0)
            wanted = wanted & (lower_bound(searched, tl.load(error_ptr), slack) <= kth)
        else:
            wanted = wanted & (searched <= kth)
    x_row = x_ptr + at * C + tl.zeros([BLOCK_L], tl.int64)
    y_row = y_ptr + (local.to(tl.int64) * Q + (key & 0x7FFFFFFF)) * C
    squared = squared_distances(x_row, y_row, wanted, C, BLOCK_L, BLOCK_C, STAGES)
    tl.store(out_ptr + slot, tl.where(wanted, squared, float("inf")), mask=listed)


def recompute_winners(
    x: Tensor,
    y: Tensor,
    keys: Tensor,
    kth: Tensor | None,
    out: Tensor,
    x_errors: Tensor,
    y_errors: Tensor,
    error: Tensor,
    scale: float,
    first: int = 0,
    *,
    integers: bool,
    certified: bool,
) -> None:
    """Fill `out` [N, M, P] float32 for the images of y with squared distances of the winners.

    x: [N, P, C], the queries.
    y: [m, Q, C], the images `first` to `first` + m - 1 of the M references.
    keys: [N, M, P] int64.
    kth: [N, P], the bound of each patch; None takes all winners.
    certified: a winner is taken where its lower bound is within the bound, else where its search
        distance, squared, is.

    The other arguments are those of `bounds.bound_distances`.
    """
    if keys.numel() == 0 or y.shape[0] == 0:
        return
    config = pick_config(x.shape[2])
    _winner_kernel[(x.shape[0] * x.shape[1], triton.cdiv(y.shape[0], config.BLOCK_L))](
        x,
        y,
        keys,
        x_errors if kth is None else kth,
        x_errors,
        y_errors,
        error,
        out,
        keys.shape[1],
        x.shape[1],
        y.shape[1],
        x.shape[2],
        first,
        y.shape[0],
        scale**2,
        INTEGERS=integers,
        SELECT=kth is not None,
        CERTIFIED=certified,
        BLOCK_L=config.BLOCK_L,
        BLOCK_C=config.BLOCK_C,
        STAGES=config.BLOCK_C.bit_length() - 1,
        num_warps=config.num_warps,
        enable_fp_fusion=True,
    )
