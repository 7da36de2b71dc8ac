"""Distances of listed candidates, from the original rows.

    out[i, j, p] = min(out[i, j, p], sum over c of (x[i, p, c] - y[j, q, c])^2)

for a list of (slot, q), slot = (i M + j) P + p. x: [N, P, C], y: [M, Q, C], contiguous, any float
dtype; out: [N, M, P] float32, at least 0 (or +inf). y may hold a part of the M images (rows
streamed from host memory); candidates of other images are passed over. A float32 that is at least 0
orders as its bits do, so an integer minimum combines the candidates of a slot, in whatever order
they come.

Exactness: differences and sums are float32, in one order that C alone fixes: channel c is added to
the sum of channels c mod BLOCK_C by a fused multiply-add, and these sums are added in pairs that
lie half a block apart, then a quarter, and so on. Neither the layout of a program nor the place in
a list has a part in it. So a distance has the same bits wherever it is computed, in `winners` too.

A candidate that a closer rounding excludes is passed over: with rows rounded to `fine` 16-bit
values of all channels, their distance less both rounding errors is a lower bound; where it exceeds
what out holds already, the candidate cannot lower the minimum. `few` 16-bit values in a subspace
are looked at before: what they lose is mostly the rounding to int8 by which the candidate was
listed. Of drawn tokens with the spectrum of real ones `few` rows leave a quarter of the candidates
of a subspace of 128, and `fine` rows 3%.

Memory: a candidate takes 12 bytes of the list, 4 K bytes of `few` rows of K values, 4 C of `fine`
rows where those do not exclude it, 8 C where neither does. Floor on an H100 for C = 1024, K = 128,
from L2 at 5.7 TB/s: 40e6 candidates 58 ms without such rows; with both 4 ms, 0.29 ms for each
percent that the first leave and 0.58 ms for each percent that is left.
"""

# mypy: disable-error-code="no-untyped-def,untyped-decorator"

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from .devices import next_power_of_2


@dataclass(frozen=True)
class Config:
    """A program takes BLOCK_L candidates, BLOCK_C channels (BLOCK_F of fine rows) at a time."""

    BLOCK_L: int
    BLOCK_C: int
    BLOCK_F: int
    num_warps: int


@dataclass(frozen=True)
class FineRows:
    """Rows rounded in all channels: |x - y| >= scale |values_x - values_y| - both errors.

    In a subspace it is at least root(scale^2 |values_x - values_y|^2 - e) less both errors.
    values: [N, P, F] float16; errors: [N, P] float32.
    """

    values: Tensor
    errors: Tensor
    scale: float


def pick_config(channels: int) -> Config:
    """The config for rows of `channels`: BLOCK_C, which fixes the order of sums, by C alone."""
    return Config(16, min(128, max(16, next_power_of_2(channels))), 128, 4)


@triton.jit
def _sum_rows(values, BLOCK_L: tl.constexpr, BLOCK_C: tl.constexpr, STAGES: tl.constexpr):
    """Sums of the rows of values [BLOCK_L, BLOCK_C], BLOCK_C = 2^STAGES, in a fixed order."""
    for stage in tl.static_range(STAGES):
        halves = tl.reshape(values, [BLOCK_L, 2, BLOCK_C >> (stage + 1)])
        values = tl.sum(halves, axis=1)  # of two: the same in either order
    return tl.reshape(values, [BLOCK_L])


@triton.jit
def squared_distances(
    x_row, y_row, taken, C, BLOCK_L: tl.constexpr, BLOCK_C: tl.constexpr, STAGES: tl.constexpr
):
    """d of the rows at x_row and y_row [BLOCK_L] pointers, of those taken [BLOCK_L]."""
    total = tl.zeros([BLOCK_L, BLOCK_C], tl.float32)
    for start in range(0, C, BLOCK_C):
        channel = start + tl.arange(0, BLOCK_C)
        mask = taken[:, None] & (channel < C)[None, :]
        x = tl.load(x_row[:, None] + channel[None, :], mask=mask, other=0.0).to(tl.float32)
        y = tl.load(y_row[:, None] + channel[None, :], mask=mask, other=0.0).to(tl.float32)
        difference = x - y
        total = tl.fma(difference, difference, total)
    return _sum_rows(total, BLOCK_L, BLOCK_C, STAGES)


@triton.jit
def _may_lower(out, listed, distance, errors, C):
    """Whether a sum over C channels for rows `distance` less `errors` apart may be below `out`."""
    unit: tl.constexpr = 2.0**-24
    lower = tl.maximum(distance - errors * (1 + 2 * unit), 0.0)
    lower = lower * lower * (1 - (C + 8) * unit)  # the sum is off by C u
    return lower <= tl.load(out, mask=listed, other=0).to(tl.float32, bitcast=True)


@triton.jit(do_not_specialize=["COUNT", "M", "P", "Q", "FIRST", "IMAGES"])
def _refine_kernel(
    x_ptr,
    y_ptr,
    slot_ptr,
    q_ptr,
    out_ptr,
    x_fine_ptr,
    y_fine_ptr,
    x_fine_error_ptr,
    y_fine_error_ptr,
    x_few_ptr,
    y_few_ptr,
    x_few_error_ptr,
    y_few_error_ptr,
    few_error_ptr,
    COUNT,
    M,
    P,
    Q,
    C,
    F,
    FIRST,
    IMAGES,
    FINE_SCALE,
    FEW_SCALE,
    FILTER: tl.constexpr,
    FEW: tl.constexpr,
    BLOCK_FEW: tl.constexpr,
    BLOCK_L: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_F: tl.constexpr,
    STAGES: tl.constexpr,
):
    """Lower out by BLOCK_L candidates; y holds the images FIRST to FIRST + IMAGES - 1 of M.

    FILTER: pass over candidates by the fine rows, which hold all M images. FEW: first by rows of so
    many values, if any, in a subspace.
    """
    unit: tl.constexpr = 2.0**-24
    at = tl.program_id(0).to(tl.int64) * BLOCK_L + tl.arange(0, BLOCK_L)
    listed = at < COUNT
    slot = tl.load(slot_ptr + at, mask=listed, other=0)
    q = tl.load(q_ptr + at, mask=listed, other=0).to(tl.int64)
    p = slot % P
    j = slot // P % M
    i = slot // P // M
    listed = listed & (j >= FIRST) & (j < FIRST + IMAGES)
    x_at = i * P + p
    y_at = j * Q + q
    if FEW > 0:
        place = tl.arange(0, BLOCK_FEW)  # names of their own: a loop below fixes the others' shapes
        held = listed[:, None] & (place < FEW)[None, :]
        x_part = tl.load(x_few_ptr + (x_at * FEW)[:, None] + place[None, :], mask=held, other=0.0)
        y_part = tl.load(y_few_ptr + (y_at * FEW)[:, None] + place[None, :], mask=held, other=0.0)
        few_apart = x_part.to(tl.float32) - y_part.to(tl.float32)
        square = tl.sum(few_apart * few_apart, axis=1) * (1 - (FEW + 8) * unit)
        square = square * FEW_SCALE * FEW_SCALE - tl.load(few_error_ptr)
        distance = tl.sqrt_rn(tl.maximum(square, 0.0)) * (1 - 8 * unit)
        errors = tl.load(x_few_error_ptr + x_at, mask=listed, other=0.0)
        errors += tl.load(y_few_error_ptr + y_at, mask=listed, other=0.0)
        listed = listed & _may_lower(out_ptr + slot, listed, distance, errors, C)
    if FILTER:
        total = tl.zeros([BLOCK_L, BLOCK_F], tl.float32)
        for start in range(0, F, BLOCK_F):
            value = start + tl.arange(0, BLOCK_F)
            mask = listed[:, None] & (value < F)[None, :]
            x = tl.load(x_fine_ptr + (x_at * F)[:, None] + value[None, :], mask=mask, other=0.0)
            y = tl.load(y_fine_ptr + (y_at * F)[:, None] + value[None, :], mask=mask, other=0.0)
            apart = x.to(tl.float32) - y.to(tl.float32)
            total += apart * apart
        distance = tl.sqrt_rn(tl.sum(total, axis=1)) * FINE_SCALE
        errors = tl.load(x_fine_error_ptr + x_at, mask=listed, other=0.0)
        errors += tl.load(y_fine_error_ptr + y_at, mask=listed, other=0.0)
        distance *= 1 - (F + 8) * unit  # sums of float32 are off by F u
        listed = listed & _may_lower(out_ptr + slot, listed, distance, errors, C)
    if tl.max(listed.to(tl.int32), axis=0) > 0:
        x_row = x_ptr + x_at * C
        y_row = y_ptr + ((j - FIRST) * Q + q) * C
        squared = squared_distances(x_row, y_row, listed, C, BLOCK_L, BLOCK_C, STAGES)
        tl.atomic_min(out_ptr + slot, squared.to(tl.int32, bitcast=True), mask=listed)


def recompute(
    x: Tensor,
    y: Tensor,
    slots: Tensor,
    q: Tensor,
    out: Tensor,
    first: int = 0,
    *,
    fine: tuple[FineRows, FineRows] | None = None,
    few: tuple[FineRows, FineRows, Tensor] | None = None,
) -> None:
    """Lower `out` [N, M, P] float32 to the squared distances of the listed candidates.

    x: [N, P, C], the queries.
    y: [m, Q, C], the images `first` to `first` + m - 1 of the M references.
    slots: [L] int64, (i M + j) P + p.
    q: [L] int32 or int64, the patch of image j.
    fine: closer roundings of the queries and of all M references, in one space; None takes every
        candidate.
    few: rows in a subspace, which are looked at first, and e, [1] float32.
    """
    count = slots.shape[0]
    if count == 0:
        return
    config = pick_config(x.shape[2])
    x_fine, y_fine = fine or (None, None)
    x_few, y_few, few_error = few or (None, None, None)
    width = 0 if x_few is None else x_few.values.shape[2]
    _refine_kernel[(triton.cdiv(count, config.BLOCK_L),)](
        x,
        y,
        slots,
        q,
        out.view(torch.int32),
        out if x_fine is None else x_fine.values,
        out if y_fine is None else y_fine.values,
        out if x_fine is None else x_fine.errors,
        out if y_fine is None else y_fine.errors,
        out if x_few is None else x_few.values,
        out if y_few is None else y_few.values,
        out if x_few is None else x_few.errors,
        out if y_few is None else y_few.errors,
        out if few_error is None else few_error,
        count,
        out.shape[1],
        x.shape[1],
        y.shape[1],
        x.shape[2],
        0 if x_fine is None else x_fine.values.shape[2],
        first,
        y.shape[0],
        0.0 if x_fine is None else x_fine.scale,
        0.0 if x_few is None else x_few.scale,
        FILTER=fine is not None,
        FEW=width,
        BLOCK_FEW=next_power_of_2(max(width, 1)),
        BLOCK_L=config.BLOCK_L,
        BLOCK_C=config.BLOCK_C,
        BLOCK_F=config.BLOCK_F,
        STAGES=config.BLOCK_C.bit_length() - 1,
        num_warps=config.num_warps,
        enable_fp_fusion=True,
    )
