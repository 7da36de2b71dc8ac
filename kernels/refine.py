"""Distances of listed candidates, from the original rows.

    out[i, j, p] = min(out[i, j, p], sum over c of (x[i, p, c] - y[j, q, c])^2)

for a list of (slot, q), slot = (i M + j) P + p. x: [N, P, C], y: [M, Q, C], contiguous, any float
dtype; out: [N, M, P] float32, at least 0 (or +inf). y may hold a run of the M images alone (rows
streamed from host memory): candidates of others are passed over. A float32 at least 0 orders as its
bits, so an integer minimum combines candidates of one slot: no order among them matters. All
differences and sums are float32 and summed in an order that C alone fixes.

Memory: two gathered rows of C a candidate, 12 bytes of the list. Floor on an H100: 8 C bytes a
candidate from L2 (about 5.5 TB/s where the rows fit there) or from memory (3.35 TB/s).
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
    """BLOCK_L candidates a program, BLOCK_C channels at a time."""

    BLOCK_L: int
    BLOCK_C: int
    num_warps: int


def pick_config(channels: int) -> Config:
    """Equal on every device: BLOCK_C and the warps decide the order of the sum."""
    return Config(16, min(128, max(16, next_power_of_2(channels))), 4)


@triton.jit
def _refine_kernel(
    x_ptr,
    y_ptr,
    slot_ptr,
    q_ptr,
    out_ptr,
    COUNT,
    M,
    P,
    Q,
    C,
    FIRST,
    HELD,
    BLOCK_L: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    at = tl.program_id(0).to(tl.int64) * BLOCK_L + tl.arange(0, BLOCK_L)
    listed = at < COUNT
    slot = tl.load(slot_ptr + at, mask=listed, other=0)
    q = tl.load(q_ptr + at, mask=listed, other=0).to(tl.int64)
    p = slot % P
    j = slot // P % M - FIRST
    i = slot // P // M
    listed = listed & (j >= 0) & (j < HELD)
    x_row = x_ptr + (i * P + p) * C  # [BLOCK_L]
    y_row = y_ptr + (j * Q + q) * C
    total = tl.zeros([BLOCK_L, BLOCK_C], tl.float32)
    for start in range(0, C, BLOCK_C):
        channel = start + tl.arange(0, BLOCK_C)
        mask = listed[:, None] & (channel < C)[None, :]
        x = tl.load(x_row[:, None] + channel[None, :], mask=mask, other=0.0).to(tl.float32)
        y = tl.load(y_row[:, None] + channel[None, :], mask=mask, other=0.0).to(tl.float32)
        total += (x - y) * (x - y)
    squared = tl.sum(total, axis=1)
    tl.atomic_min(out_ptr + slot, squared.to(tl.int32, bitcast=True), mask=listed)


def refine(x: Tensor, y: Tensor, slots: Tensor, q: Tensor, out: Tensor, first: int = 0) -> None:
    """Lower `out` [N, M, P] float32 to the listed candidates' squared distances.

    slots: [L] int64. q: [L] int32 or int64, the patch of image j. y: images first to
    first + y.shape[0] - 1 of the M.
    """
    count = slots.shape[0]
    if count == 0:
        return
    config = pick_config(x.shape[2])
    _refine_kernel[(triton.cdiv(count, config.BLOCK_L),)](
        x,
        y,
        slots,
        q,
        out.view(torch.int32),
        count,
        out.shape[1],
        x.shape[1],
        y.shape[1],
        x.shape[2],
        first,
        y.shape[0],
        BLOCK_L=config.BLOCK_L,
        BLOCK_C=config.BLOCK_C,
        num_warps=config.num_warps,
        enable_fp_fusion=True,
    )
