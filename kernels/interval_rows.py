"""Rows of a matrix in registers, and their sums, maxima and counts, for `interval_mean`.

A program takes BLOCK_R rows and holds BLOCK_A BLOCK_S columns of them at a time. Their layout is
[BLOCK_S, BLOCK_A, BLOCK_R] where neighbouring rows lie side by side in memory (ROWS_LAST), and
[BLOCK_R, BLOCK_A, BLOCK_S] otherwise. Triton 3.6 spreads lanes and warps along the last axis first
and the first one next, so the BLOCK_A columns in the middle stay in one thread, and reductions
start with them. (Triton 3.8 takes the middle axis next.) A row lies in four lanes of a warp, or in
four warps with ROWS_LAST, so a reduction takes few shuffles.
"""

# mypy: disable-error-code="no-untyped-def,untyped-decorator"

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import triton
import triton.language as tl

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


class Rows(NamedTuple):
    """The rows of a program, inside a kernel.

    Four fields are constants. They stay constants where a call builds the tuple as its argument;
    an assignment would make them values of run time.

    x_ptr: to a matrix [R, M].
    row: [BLOCK_R], the rows' places in it; those beyond R are not read.
    RESIDENT: whether the columns that a program holds at a time are all M.
    """

    x_ptr: Any
    row: Any
    R: Any
    M: Any
    stride_r: Any
    stride_m: Any
    RESIDENT: Any
    ROWS_LAST: Any
    BLOCK_A: Any
    BLOCK_S: Any


@triton.jit
def spread(v, rows):
    """A value of each row [BLOCK_R] in the layout of the rows, to compare with all columns."""
    return v[None, None, :] if rows.ROWS_LAST else v[:, None, None]


@triton.jit
def load(rows, start):
    """Columns start, start + 1, ... of the rows; +inf beyond the matrix."""
    block = tl.arange(0, rows.BLOCK_A)
    within = tl.arange(0, rows.BLOCK_S)
    if rows.ROWS_LAST:
        columns = start + block[None, :, None] * rows.BLOCK_S + within[:, None, None]
    else:
        columns = start + block[None, :, None] * rows.BLOCK_S + within[None, None, :]
    row = spread(rows.row, rows)
    at = row.to(tl.int64) * rows.stride_r + columns.to(tl.int64) * rows.stride_m
    mask = (row < rows.R) & (columns < rows.M)
    return tl.load(rows.x_ptr + at, mask=mask, other=float("inf"))


@triton.jit
def sum_columns(x, rows):
    """Sum of the columns of x in each row [BLOCK_R], in a fixed order."""
    x = tl.sum(x, axis=1)
    return tl.sum(x, axis=0 if rows.ROWS_LAST else 1)


@triton.jit
def max_columns(x, rows):
    """Greatest of the columns of x in each row [BLOCK_R]."""
    x = tl.max(x, axis=1)
    return tl.max(x, axis=0 if rows.ROWS_LAST else 1)


@triton.jit
def count_below(x, rows, bound):
    """How many of all M values of each row are below `bound` [BLOCK_R], float32, exact to 2^24.

    x: the first columns of the rows.
    """
    bound = spread(bound, rows)
    block_m: tl.constexpr = rows.BLOCK_A * rows.BLOCK_S
    count = sum_columns((x < bound).to(tl.float32), rows)
    if not rows.RESIDENT:
        for start in range(block_m, rows.M, block_m):
            count += sum_columns((load(rows, start) < bound).to(tl.float32), rows)
    return count


@triton.jit
def find_range(x, rows):
    """Least value, greatest finite value, and number of finite values of each row, +inf apart.

    x: the first columns of the rows.
    """
    infinity: tl.constexpr = float("inf")
    block_m: tl.constexpr = rows.BLOCK_A * rows.BLOCK_S
    least = -max_columns(-x, rows)
    greatest = max_columns(tl.where(x < infinity, x, -infinity), rows)
    if not rows.RESIDENT:
        for start in range(block_m, rows.M, block_m):
            part = load(rows, start)
            least = tl.minimum(least, -max_columns(-part, rows))
            part = tl.where(part < infinity, part, -infinity)
            greatest = tl.maximum(greatest, max_columns(part, rows))
    finite = count_below(x, rows, tl.full([rows.row.shape[0]], infinity, tl.float32))
    return least, greatest, finite
