"""The nearest-patch search over few channels: rows of i stay on the chip for all patches of j.

The keys are as in `min_distance`, for K <= 256 (the principal subspace of the certified search).
With so few channels the product is short and the reductions dominate: a program holds BLOCK_P rows
of image i and walks all patches of image j. The running minimum is a tile, in which each entry
holds a candidate and the tile that the candidate came from, so that rows are reduced across lanes
once an image instead of once a tile. Columns are reduced in every tile.

Memory: rows of i are read once, rows of j once a row tile, through L2; keys take 8 bytes a
(patch, image).
Floor for N = 200, P = 1369, K = 128 in int8 by symmetry, 9.5 TOP: H100 5 ms, RTX 4090 14 ms; the
reductions are about 9 operations an entry, 75e9 entries: 24 ms of the H100's 28e12 a second.
"""

# mypy: disable-error-code="no-untyped-def,untyped-decorator"

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .devices import arch_of, next_power_of_2
from .min_distance import key_of
from .pairs import plan_pairs
from .tiles import Config, locate

LARGEST_DEPTH = 256  # channels K


def pick_config(arch: int, dtype: torch.dtype, patches: int, others: int, depth: int) -> Config:
    """The config for images of `patches` and `others` patches with `depth` channels.

    Three tiles of 32 bits an entry (product, minimum, origin) must fit in registers. BLOCK_K takes
    all channels at once.
    """
    wide = arch >= 80
    rows = min(128 if wide else 32, max(16, next_power_of_2(patches)))
    columns = min(64 if wide else 32, max(32, next_power_of_2(others)))
    return Config(
        BLOCK_P=rows,
        BLOCK_Q=columns,
        BLOCK_K=max(32, next_power_of_2(depth)),
        GROUP=max(1, min(8, 4096 // max(patches, others))),
        num_warps=8 if rows * columns >= 64 * 128 else 4,
        num_stages=3,
    )


@triton.jit(do_not_specialize=["N", "M", "P", "Q", "ALL", "FIRST"])
def _few_channels_kernel(
    x_ptr,
    y_ptr,
    x_norm_ptr,
    y_norm_ptr,
    key_ptr,
    N,
    M,
    P,
    Q,
    ALL,
    FIRST,
    K: tl.constexpr,
    INTEGERS: tl.constexpr,
    TRIANGLE: tl.constexpr,
    GROUP: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Lower the keys [N, ALL, P] by a row of tiles; image j of y is image FIRST + j of ALL."""
    i, j, tile_p, _, valid = locate(tl.program_id(0), N, M, tl.cdiv(P, BLOCK_P), 1, GROUP, TRIANGLE)
    if valid:
        far: tl.constexpr = (1 << 29) if INTEGERS else float("inf")
        p = tile_p * BLOCK_P + tl.arange(0, BLOCK_P)
        k = tl.arange(0, BLOCK_K)
        row = i.to(tl.int64) * P + p
        inside = (p < P)[:, None] & (k < K)[None, :]
        x = tl.load(x_ptr + row[:, None] * K + k[None, :], mask=inside, other=0.0)
        x_norm = tl.load(x_norm_ptr + row, mask=p < P, other=far)
        best = tl.full(
            [BLOCK_P, BLOCK_Q],
            0x7FFFFFFF if INTEGERS else float("inf"),
            tl.int32 if INTEGERS else tl.float32,
        )
        origin = tl.zeros([BLOCK_P, BLOCK_Q], tl.int32)
        local = tl.arange(0, BLOCK_Q)
        for start in range(0, Q, BLOCK_Q):
            q = start + local
            column = j.to(tl.int64) * Q + q
            listed = (q < Q)[:, None] & (k < K)[None, :]
            y = tl.load(y_ptr + column[:, None] * K + k[None, :], mask=listed, other=0.0)
            y_norm = tl.load(y_norm_ptr + column, mask=q < Q, other=far)
            if INTEGERS:
                product = tl.dot(x, tl.trans(y), out_dtype=tl.int32)
            else:
                product = tl.dot(x, tl.trans(y), input_precision="ieee")
            s = (y_norm[None, :] + x_norm[:, None]) - 2 * product  # [BLOCK_P, BLOCK_Q]
            better = s < best  # strictly: the first of equals stays
            best = tl.where(better, s, best)
            origin = tl.where(better, start, origin)
            if TRIANGLE:
                least = tl.min(s, axis=0)
                own = tl.arange(0, BLOCK_P)[:, None]
                nearest = tl.min(tl.where(s == least[None, :], own, BLOCK_P), axis=0)
                slot = (j.to(tl.int64) * ALL + FIRST + i) * Q + q
                key = key_of(least, tile_p * BLOCK_P + nearest)
                tl.atomic_min(key_ptr + slot, key, mask=q < Q, sem="relaxed")
        least = tl.min(best, axis=1)
        index = tl.where(best == least[:, None], origin + local[None, :], 0x7FFFFFFF)
        slot = (i.to(tl.int64) * ALL + FIRST + j) * P + p
        key = key_of(least, tl.min(index, axis=1))
        tl.atomic_min(key_ptr + slot, key, mask=p < P, sem="relaxed")


def find_nearest_few_channels(
    x: Tensor,
    x_norms: Tensor,
    y: Tensor,
    y_norms: Tensor,
    keys: Tensor,
    first: int = 0,
    *,
    triangle: bool = False,
    config: Config | None = None,
) -> None:
    """`find_nearest` for operands of at most LARGEST_DEPTH channels; the same arguments."""
    config = config or pick_config(arch_of(x.device), x.dtype, x.shape[1], y.shape[1], x.shape[2])
    launch = plan_pairs(x, y, config, triangle=triangle, descriptors=False, whole_rows=True)
    launch.run(_few_channels_kernel, x_norms, y_norms, keys, first)
