"""Mean of an interval of sorted values, without sorting.

    out[b, r] = mean of sorted(root(x[b, r, :]))[k_min:k_max],   root = sqrt or the identity

x: [B, R, M] float32 in any layout; +inf entries (images that do not count) sort last.
out: [B, R] float32. k_min < k_max <= M are known at run time.

A threshold below which exactly k values lie splits a row after its k smallest values, and their sum
needs no order. `interval_threshold` searches for it by counting the values below a probe. Where no
threshold leaves exactly k values below it, since values tie, the tied value is added as often as
the places say. So ties are exact in any order. Roots are taken of summed values alone.

A program holds BLOCK_R rows in registers where M fits, so x is read once; larger M is read again
for every probe (`interval_rows`). Sums run in a fixed order.

Memory: 4 B R M bytes are read, 4 B R written. Floor on an H100 (3.35 TB/s) for B R = 200 * 1369,
M = 200: 66 us. A probe takes a comparison and an addition a value, M = 200 padded to 256, and rows
of a program take 8 to 11 probes: about 9e8 of them, 65 us of the H100's 14e12 comparisons a second
and 32 us of additions beside them; bounds and sums take about 10 operations a value more.
"""

# mypy: disable-error-code="no-untyped-def,untyped-decorator"

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .interval_rows import (
    Config,
    Rows,
    find_range,
    load,
    max_columns,
    pick_config,
    spread,
    sum_columns,
)
from .interval_threshold import find_threshold, ordered

__all__ = ["Config", "average_interval", "ordered", "pick_config", "select_kth"]


@triton.jit
def _greatest_below(x, rows, bound):
    """The greatest value of each row that is below `bound` [BLOCK_R]."""
    infinity: tl.constexpr = float("inf")
    found = tl.full([rows.row.shape[0]], -infinity, tl.float32)
    for start in range(0, rows.M, rows.BLOCK_A * rows.BLOCK_S):
        if not rows.RESIDENT:
            x = load(rows, start)
        part = tl.where(x < spread(bound, rows), x, -infinity)
        found = tl.maximum(found, max_columns(part, rows))
    return found


@triton.jit
def _sum_between(x, rows, first, with_first, last, FROM_START: tl.constexpr, SQUARED: tl.constexpr):
    """Sum of the roots of each row's values in (first, last), and how many values are <= first.

    with_first: [BLOCK_R], whether values that equal `first` are summed, too.
    FROM_START: all values below `last` are summed, and none are counted.
    """
    total = tl.zeros([rows.row.shape[0]], tl.float32)
    upto = tl.zeros([rows.row.shape[0]], tl.float32)
    for start in range(0, rows.M, rows.BLOCK_A * rows.BLOCK_S):
        if not rows.RESIDENT:
            x = load(rows, start)
        taken = x < spread(last, rows)
        if not FROM_START:
            edge = spread(first, rows)
            taken = taken & ((x > edge) | ((x == edge) & spread(with_first, rows)))
            upto += sum_columns((x <= edge).to(tl.float32), rows)
        root = tl.where(taken, x, 0.0)
        if SQUARED:
            root = tl.sqrt(root)
        total += sum_columns(root, rows)
    return total, upto


@triton.jit
def _average(
    rows, K_MIN, K_MAX, FROM_START: tl.constexpr, SQUARED: tl.constexpr, KTH_ONLY: tl.constexpr
):
    """What `_interval_mean_kernel` stores for each row [BLOCK_R]."""
    x = load(rows, 0)
    least, greatest, finite = find_range(x, rows)
    upper = K_MAX.to(tl.float32)
    last, below = find_threshold(x, rows, upper, least, greatest, finite)
    if KTH_ONLY:
        result = tl.where(below < upper, last, _greatest_below(x, rows, last))
    else:
        lower = K_MIN.to(tl.float32)
        first = least
        short = lower
        if not FROM_START:
            first, short = find_threshold(x, rows, lower, least, greatest, finite)
        # Some values that equal `first` lie before place K_MIN if fewer than K_MIN lie below it.
        split = short < lower
        total, upto = _sum_between(x, rows, first, split == 0, last, FROM_START, SQUARED)
        if SQUARED:
            last = tl.sqrt_rn(last)
            first = tl.sqrt_rn(first)
        total += tl.where(below < upper, last * (upper - below), 0.0)
        result = total / (upper - lower)
        if not FROM_START:
            copies = tl.where(split, first * (upto - lower), 0.0)
            result = tl.where(split & (first == last), first, (total + copies) / (upper - lower))
    return result


@triton.jit(do_not_specialize=["R", "M", "stride_b", "stride_r", "stride_m", "K_MIN", "K_MAX"])
def _interval_mean_kernel(
    x_ptr,
    out_ptr,
    R,
    M,
    stride_b,
    stride_r,
    stride_m,
    K_MIN,
    K_MAX,
    FROM_START: tl.constexpr,
    SQUARED: tl.constexpr,
    KTH_ONLY: tl.constexpr,
    RESIDENT: tl.constexpr,
    ROWS_LAST: tl.constexpr,
    UNIT: tl.constexpr,
    ALIGNED: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_A: tl.constexpr,
    BLOCK_S: tl.constexpr,
):
    """FROM_START: K_MIN is 0. KTH_ONLY: store the value at place K_MAX - 1 instead of the mean.

    ROWS_LAST, UNIT: stride_r, or else stride_m, is 1. ALIGNED: M and the other strides divide by 4.
    """
    if ROWS_LAST:
        stride_r = 1
    elif UNIT:
        stride_m = 1
    if ALIGNED:  # The compiler learns that these divide by 4.
        M = M // 4 * 4
        stride_b = stride_b // 4 * 4
        stride_r = stride_r // 4 * 4
    row = tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R)
    x_ptr += tl.program_id(1).to(tl.int64) * stride_b
    out_ptr += tl.program_id(1).to(tl.int64) * R
    result = _average(
        Rows(x_ptr, row, R, M, stride_r, stride_m, RESIDENT, ROWS_LAST, BLOCK_A, BLOCK_S),
        K_MIN,
        K_MAX,
        FROM_START,
        SQUARED,
        KTH_ONLY,
    )
    tl.store(out_ptr + row, result, mask=row < R)


def _launch(x: Tensor, k_min: int, k_max: int, squared: bool, kth_only: bool) -> Tensor:
    batch, rows, columns = x.shape
    out = torch.empty(batch, rows, dtype=torch.float32, device=x.device)
    adjacent = x.stride(1) == 1 and columns > 1
    aligned = not adjacent and x.stride(2) == 1 and x.data_ptr() % 16 == 0
    aligned = aligned and (columns | x.stride(0) | x.stride(1)) % 4 == 0
    config = pick_config(adjacent, columns, aligned=aligned)
    _interval_mean_kernel[(triton.cdiv(rows, config.BLOCK_R), batch)](
        x,
        out,
        rows,
        columns,
        *x.stride(),
        k_min,
        k_max,
        FROM_START=k_min == 0,
        SQUARED=squared,
        KTH_ONLY=kth_only,
        RESIDENT=columns <= config.BLOCK_A * config.BLOCK_S,
        ROWS_LAST=adjacent,
        UNIT=x.stride(2) == 1,
        ALIGNED=aligned,
        BLOCK_R=config.BLOCK_R,
        BLOCK_A=config.BLOCK_A,
        BLOCK_S=config.BLOCK_S,
        num_warps=config.num_warps,
        enable_fp_fusion=True,
    )
    return out


def average_interval(x: Tensor, k_min: int, k_max: int, *, squared: bool = False) -> Tensor:
    """Mean of places k_min to k_max - 1 of sorted x [B, R, M] float32 -> [B, R] float32.

    x: in any layout.
    squared: x holds squares, and the mean is of their roots.
    """
    return _launch(x, k_min, k_max, squared, False)


def select_kth(x: Tensor, k: int) -> Tensor:
    """The k-th smallest value (from 1) of each row of x [B, R, M] float32 -> [B, R], exact."""
    return _launch(x, k - 1, k, False, True)
