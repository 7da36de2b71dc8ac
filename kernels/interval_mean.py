"""Mean of an interval of sorted values, without sorting.

    out[b, r] = mean of sorted(root(x[b, r, :]))[k_min:k_max],   root = sqrt or the identity

x: [B, R, M] float32 in any layout; +inf entries (images that do not count) sort last.
out: [B, R] float32. k_min < k_max <= M are known at run time.

A threshold below which exactly k values lie splits a row after its k smallest values, and their sum
needs no order. The bits of floats order as integers; a search over these starts between the least
and the greatest finite value, counts the values below a probe, and places the next probe by linear
interpolation of the counts, from the eighth on in turn with halving, so that it ends. It ends where
a count is k, or where the bounds meet: then the value at the threshold ties, and is added as often
as the places say. So ties are exact in any order. Roots are taken of summed values alone.

A program holds BLOCK_R rows in registers where M fits, so x is read once; larger M is read again
for every probe. A row lies in four lanes of a warp, or in four warps where rows are side by side in
memory, so a count takes few shuffles. Sums run in a fixed order.

Memory: 4 B R M bytes are read, 4 B R written. Floor on an H100 (3.35 TB/s) for B R = 200 * 1369,
M = 200: 66 us. A probe takes a comparison and an addition a value, M = 200 padded to 256, and rows
of a program take 8 to 11 probes: about 9e8 of them, 65 us of the H100's 14e12 comparisons a second
and 32 us of additions beside them; bounds and sums take about 10 operations a value more.
"""

# mypy: disable-error-code="no-untyped-def,untyped-decorator"

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from .devices import next_power_of_2

_RESIDENT = 8192  # largest row that a program holds in registers
_REGISTERS = 64  # values of a thread


@dataclass(frozen=True)
class Config:
    """A program takes BLOCK_R rows, BLOCK_A BLOCK_S columns at a time.

    BLOCK_A: columns in the registers of one thread.
    BLOCK_S: columns side by side in other lanes or warps.
    """

    BLOCK_R: int
    BLOCK_A: int
    BLOCK_S: int
    num_warps: int


def pick_config(rows_adjacent: bool, columns: int, *, aligned: bool = False) -> Config:
    """The config for rows of `columns` values.

    rows_adjacent: neighbouring rows lie side by side in memory, so a program takes many rows.
    aligned: rows begin at multiples of 16 bytes, and are read by four values at a time.
    """
    block_m = min(max(16, next_power_of_2(columns)), _RESIDENT)
    if rows_adjacent:
        warps = 4 if block_m <= 256 else 8 if block_m <= 512 else 16
        block_a = min(_REGISTERS, block_m // 4)
        block_r = min(32, _REGISTERS * 32 * warps // block_m)
        return Config(block_r, block_a, block_m // block_a, warps)
    warps = 1 if block_m <= 512 else 4
    block_r = max(1, min(8, _REGISTERS * 32 * warps // block_m))
    block_s = min(block_m, 32 * warps // block_r * (4 if aligned else 1))
    return Config(block_r, block_m // block_s, block_s, warps)


@triton.jit
def ordered(x):
    """Float32 -> int32 in the same order (-0 just below +0); its own inverse on the bits."""
    bits = x.to(tl.int32, bitcast=True)
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


@triton.jit
def _float_of(key):
    """The float32 that `ordered` maps to `key`."""
    return ordered(key.to(tl.float32, bitcast=True)).to(tl.float32, bitcast=True)


@triton.jit
def _spread(v, ROWS_LAST: tl.constexpr):
    """[BLOCK_R] in the shape of values: [BLOCK_S, BLOCK_A, BLOCK_R] or [BLOCK_R, BLOCK_A, BLOCK_S].

    Triton 3.6 spreads lanes and warps along the last axis first and the first one next, so the
    BLOCK_A columns in the middle stay in one thread. 3.8 takes the middle one next.
    """
    return v[None, None, :] if ROWS_LAST else v[:, None, None]


@triton.jit
def _load(
    x_ptr,
    row,
    start,
    R,
    M,
    stride_r,
    stride_m,
    ROWS_LAST: tl.constexpr,
    BLOCK_A: tl.constexpr,
    BLOCK_S: tl.constexpr,
):
    """Values of columns start, start + 1, ... of rows `row`; +inf beyond the row."""
    block = tl.arange(0, BLOCK_A)
    within = tl.arange(0, BLOCK_S)
    if ROWS_LAST:
        columns = start + block[None, :, None] * BLOCK_S + within[:, None, None]
    else:
        columns = start + block[None, :, None] * BLOCK_S + within[None, None, :]
    rows = _spread(row, ROWS_LAST)
    at = rows.to(tl.int64) * stride_r + columns.to(tl.int64) * stride_m
    return tl.load(x_ptr + at, mask=(rows < R) & (columns < M), other=float("inf"))


@triton.jit
def _sum(x, ROWS_LAST: tl.constexpr):
    """Sum of each row -> [BLOCK_R]."""
    x = tl.sum(x, axis=1)
    return tl.sum(x, axis=0 if ROWS_LAST else 1)


@triton.jit
def _max(x, ROWS_LAST: tl.constexpr):
    """Greatest value of each row -> [BLOCK_R]."""
    x = tl.max(x, axis=1)
    return tl.max(x, axis=0 if ROWS_LAST else 1)


@triton.jit
def _count(
    x,
    m,
    x_ptr,
    row,
    R,
    M,
    stride_r,
    stride_m,
    RESIDENT: tl.constexpr,
    ROWS_LAST: tl.constexpr,
    BLOCK_A: tl.constexpr,
    BLOCK_S: tl.constexpr,
):
    """How many values of each row are below m [BLOCK_R], float32 (exact below 2^24)."""
    bound = _spread(m, ROWS_LAST)
    block_m: tl.constexpr = BLOCK_A * BLOCK_S
    count = _sum((x < bound).to(tl.float32), ROWS_LAST)
    if not RESIDENT:
        for start in range(block_m, M, block_m):
            part = _load(x_ptr, row, start, R, M, stride_r, stride_m, ROWS_LAST, BLOCK_A, BLOCK_S)
            count += _sum((part < bound).to(tl.float32), ROWS_LAST)
    return count


@triton.jit
def _threshold(
    x,
    K,
    least,
    greatest,
    finite,
    x_ptr,
    row,
    R,
    M,
    stride_r,
    stride_m,
    RESIDENT: tl.constexpr,
    ROWS_LAST: tl.constexpr,
    BLOCK_A: tl.constexpr,
    BLOCK_S: tl.constexpr,
):
    """Threshold t [BLOCK_R] and how many values are below it, at most K.

    K = 1, ..., M as float32. If fewer than K values are below t, all up to place K - 1 equal t.
    least, greatest: of the finite values of a row, of which there are `finite`.
    """
    # Invariant: `below` < K values lie below `low`, `upto` >= K values up to `high`.
    infinity: tl.constexpr = 2139095040
    ends = finite <= K
    low = tl.where(ends, infinity, ordered(least))
    high = tl.where(ends, infinity, ordered(greatest))
    below = tl.where(ends, finite, 0.0)
    upto = finite
    active = (low < high).to(tl.int32)
    turn = 0
    while tl.max(active, axis=0) > 0:
        span = (high - low).to(tl.uint32, bitcast=True)
        share = (K - below) / (upto - below)
        share = tl.where((turn > 7) & (turn % 2 == 0), 0.5, share)
        share = tl.where(active > 0, share, 0.0)
        step = (span.to(tl.float32) * share).to(tl.int64)
        step = tl.minimum(tl.maximum(step, 1), span.to(tl.int64)).to(tl.int32)
        probe = low + step
        count = _count(
            x,
            _float_of(probe),
            x_ptr,
            row,
            R,
            M,
            stride_r,
            stride_m,
            RESIDENT,
            ROWS_LAST,
            BLOCK_A,
            BLOCK_S,
        )
        raised = (active > 0) & (count <= K)
        lowered = (active > 0) & (count > K)
        low = tl.where(raised, probe, low)
        below = tl.where(raised, count, below)
        high = tl.where(lowered, probe - 1, high)
        upto = tl.where(lowered, count, upto)
        active = ((active > 0) & (below < K) & (low < high)).to(tl.int32)
        turn += 1
    return _float_of(low), below


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
    if ALIGNED:
        M = M // 4 * 4
        stride_b = stride_b // 4 * 4
        stride_r = stride_r // 4 * 4
    block_m: tl.constexpr = BLOCK_A * BLOCK_S
    row = tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R)
    x_ptr += tl.program_id(1).to(tl.int64) * stride_b
    out_ptr += tl.program_id(1).to(tl.int64) * R
    x = _load(x_ptr, row, 0, R, M, stride_r, stride_m, ROWS_LAST, BLOCK_A, BLOCK_S)
    infinity: tl.constexpr = float("inf")
    least = -_max(-x, ROWS_LAST)
    greatest = _max(tl.where(x < infinity, x, -infinity), ROWS_LAST)
    if not RESIDENT:
        for start in range(block_m, M, block_m):
            part = _load(x_ptr, row, start, R, M, stride_r, stride_m, ROWS_LAST, BLOCK_A, BLOCK_S)
            least = tl.minimum(least, -_max(-part, ROWS_LAST))
            part = tl.where(part < infinity, part, -infinity)
            greatest = tl.maximum(greatest, _max(part, ROWS_LAST))
    whole = tl.full([BLOCK_R], infinity, tl.float32)
    finite = _count(
        x, whole, x_ptr, row, R, M, stride_r, stride_m, RESIDENT, ROWS_LAST, BLOCK_A, BLOCK_S
    )
    upper = K_MAX.to(tl.float32)
    last, below = _threshold(
        x,
        upper,
        least,
        greatest,
        finite,
        x_ptr,
        row,
        R,
        M,
        stride_r,
        stride_m,
        RESIDENT,
        ROWS_LAST,
        BLOCK_A,
        BLOCK_S,
    )
    bound = _spread(last, ROWS_LAST)
    if KTH_ONLY:
        found = tl.full([BLOCK_R], -infinity, tl.float32)
        for start in range(0, M, block_m):
            if not RESIDENT:
                x = _load(x_ptr, row, start, R, M, stride_r, stride_m, ROWS_LAST, BLOCK_A, BLOCK_S)
            part = tl.where(x < bound, x, -infinity)
            found = tl.maximum(found, _max(part, ROWS_LAST))
        tl.store(out_ptr + row, tl.where(below < upper, last, found), mask=row < R)
    else:
        lower = K_MIN.to(tl.float32)
        first = least
        short = lower
        if not FROM_START:
            first, short = _threshold(
                x,
                lower,
                least,
                greatest,
                finite,
                x_ptr,
                row,
                R,
                M,
                stride_r,
                stride_m,
                RESIDENT,
                ROWS_LAST,
                BLOCK_A,
                BLOCK_S,
            )
        # Some values that equal `first` lie before place K_MIN if fewer than K_MIN lie below it.
        split = short < lower
        total = tl.zeros([BLOCK_R], tl.float32)
        upto = tl.zeros([BLOCK_R], tl.float32)
        for start in range(0, M, block_m):
            if not RESIDENT:
                x = _load(x_ptr, row, start, R, M, stride_r, stride_m, ROWS_LAST, BLOCK_A, BLOCK_S)
            taken = x < bound
            if not FROM_START:
                edge = _spread(first, ROWS_LAST)
                taken = taken & ((x > edge) | ((x == edge) & _spread(split == 0, ROWS_LAST)))
                upto += _sum((x <= edge).to(tl.float32), ROWS_LAST)
            root = tl.where(taken, x, 0.0)
            if SQUARED:
                root = tl.sqrt(root)
            total += _sum(root, ROWS_LAST)
        if SQUARED:
            last = tl.sqrt_rn(last)
            first = tl.sqrt_rn(first)
        total += tl.where(below < upper, last * (upper - below), 0.0)
        mean = total / (upper - lower)
        if not FROM_START:
            copies = tl.where(split, first * (upto - lower), 0.0)
            mean = tl.where(split & (first == last), first, (total + copies) / (upper - lower))
        tl.store(out_ptr + row, mean, mask=row < R)


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
