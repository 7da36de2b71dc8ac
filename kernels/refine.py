"""Distances of listed candidates, from the original rows.

    out[i, j, p] = min(out[i, j, p], sum over c of (x[i, p, c] - y[j, q, c])^2)

for a list of (slot, q), slot = (i M + j) P + p. x: [N, P, C], y: [M, Q, C], contiguous, any float
dtype; out: [N, M, P] float32, at least 0 (or +inf). y may hold a part of the M images (rows
streamed from host memory); candidates of other images are passed over. A float32 that is at least 0
orders as its bits do, so an integer minimum combines the candidates of a slot, in whatever order
they come. Differences and sums are float32, summed in an order that C alone fixes.

Memory: a candidate takes two gathered rows of C values and 12 bytes of the list. Floor on an H100:
8 C bytes a candidate from L2 (about 5.5 TB/s where the rows fit there) or from memory (3.35 TB/s).
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
    """A program takes BLOCK_L candidates, BLOCK_C channels at a time."""

    BLOCK_L: int
    BLOCK_C: int
    num_warps: int


def pick_config(channels: int) -> Config:
    """The config for rows of `channels`: one for all devices, since it fixes the order of sums."""
    return Config(16, min(128, max(16, next_power_of_2(channels))), 4)


@triton.jit(do_not_specialize=["COUNT", "M", "P", "Q", "FIRST", "IMAGES"])
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
    IMAGES,
    BLOCK_L: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Lower out by BLOCK_L candidates; y holds the images FIRST to FIRST + IMAGES - 1 of M."""
    at = tl.program_id(0).to(tl.int64) * BLOCK_L + tl.arange(0, BLOCK_L)
    listed = at < COUNT
    slot = tl.load(slot_ptr + at, mask=listed, other=0)
    q = tl.load(q_ptr + at, mask=listed, other=0).to(tl.int64)
    p = slot % P
    j = slot // P % M - FIRST
    i = slot // P // M
    listed = listed & (j >= 0) & (j < IMAGES)
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


def recompute(x: Tensor, y: Tensor, slots: Tensor, q: Tensor, out: Tensor, first: int = 0) -> None:
    """Lower `out` [N, M, P] float32 to the squared distances of the listed candidates.

    x: [N, P, C], the queries.
    y: [m, Q, C], the images `first` to `first` + m - 1 of the M references.
    slots: [L] int64, (i M + j) P + p.
    q: [L] int32 or int64, the patch of image j.
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
