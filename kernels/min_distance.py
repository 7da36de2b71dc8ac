"""The nearest patch of every image, for every patch: product, minimum and index in one pass.

    keys[i, j, p] = min over q of (s(x[i, p], y[j, q]), q),   s = |x|^2 + |y|^2 - 2 x.y

x: [N, P, K] and y: [M, Q, K], float32, float16, bfloat16 or int8 operands, contiguous; norms
[N, P], [M, Q] float32, int32 for int8. No distance is stored: each tile of the product is reduced
where it was computed. Within a batch the tile (i, j), i < j, serves both: its rows i against j, its
columns j against i, which halves the arithmetic.

A key is (s as an ordered 32-bit integer) << 32 | q in int64. Tiles combine by an integer atomic
minimum: the order of tiles cannot matter, ties go to the smaller q, and the result is the same to
the bit in every run, for every grouping and chunk. int8 adds exactly; floats add in the order of
channels that BLOCK_K fixes.

From Hopper on the operands come by TMA (tensor descriptors), elsewhere by pointers.

Memory: operands once or twice from DRAM through L2, 8 bytes a (patch, image) for the keys.
Work: 2 N M P Q K operations, half of it for a batch. Floors for N = 200, P = 1369, K = 1024 by
symmetry, 77 TFLOP (dense peaks): H100 0.078 s in 16 bits (989 TFLOPS), 0.039 s in int8; RTX 4090
0.47 s in 16 bits with 32-bit sums (165 TFLOPS), 0.12 s in int8 (661 TOPS).
"""

# mypy: disable-error-code="no-untyped-def,untyped-decorator"

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .devices import arch_of
from .interval_mean import ordered
from .tiles import Config, locate, operand, pick_config, programs, squared_tile, use_descriptors

__all__ = ["Config", "decode", "min_distance", "new_keys", "pick_config"]

UNSET = 2**63 - 1


@triton.jit
def key_of(s, index):
    """(s, index) -> int64 in the order of s, then of the index."""
    bits = s if s.dtype == tl.int32 else ordered(s)
    return (bits.to(tl.int64) << 32) | index.to(tl.int64)


@triton.jit
def _min_distance_kernel(
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
    DESCRIPTORS: tl.constexpr,
    TRIANGLE: tl.constexpr,
    SPECIALIZE: tl.constexpr,
    GROUP: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Keys are [N, ALL, P]; image j of y is image FIRST + j of ALL."""
    i, j, tile_p, tile_q, valid = locate(
        tl.program_id(0), N, M, tl.cdiv(P, BLOCK_P), tl.cdiv(Q, BLOCK_Q), GROUP, TRIANGLE
    )
    if valid:
        p = tile_p * BLOCK_P + tl.arange(0, BLOCK_P)
        q = tile_q * BLOCK_Q + tl.arange(0, BLOCK_Q)
        s = squared_tile(
            x_ptr,
            y_ptr,
            x_norm_ptr,
            y_norm_ptr,
            i,
            j,
            tile_p,
            tile_q,
            P,
            Q,
            K,
            INTEGERS,
            DESCRIPTORS,
            SPECIALIZE,
            BLOCK_P,
            BLOCK_Q,
            BLOCK_K,
        )
        # Two plain reductions are cheaper than one that carries the index through every step.
        least = tl.min(s, axis=1)
        local = tl.arange(0, BLOCK_Q)[None, :]
        nearest = tl.min(tl.where(s == least[:, None], local, BLOCK_Q), axis=1)
        key = key_of(least, tile_q * BLOCK_Q + nearest)
        slot = (i.to(tl.int64) * ALL + FIRST + j) * P + p
        tl.atomic_min(key_ptr + slot, key, mask=p < P, sem="relaxed")
        if TRIANGLE:
            least = tl.min(s, axis=0)
            local = tl.arange(0, BLOCK_P)[:, None]
            nearest = tl.min(tl.where(s == least[None, :], local, BLOCK_P), axis=0)
            key = key_of(least, tile_p * BLOCK_P + nearest)
            slot = (j.to(tl.int64) * ALL + FIRST + i) * Q + q
            tl.atomic_min(key_ptr + slot, key, mask=q < Q, sem="relaxed")


def new_keys(images: int, others: int, patches: int, device: torch.device) -> Tensor:
    """Keys [images, others, patches] int64 of pairs that no search has seen: farthest of all."""
    return torch.full((images, others, patches), UNSET, dtype=torch.int64, device=device)


def decode(keys: Tensor, integers: bool) -> tuple[Tensor, Tensor]:
    """Keys -> squared distances float32 (+inf where none) and patch indices int32."""
    high = (keys >> 32).to(torch.int32)
    squared = high.float() if integers else (high ^ ((high >> 31) & 0x7FFFFFFF)).view(torch.float32)
    unset = keys == UNSET
    return squared.masked_fill(unset, torch.inf), (keys & 0x7FFFFFFF).to(torch.int32)


def min_distance(
    x: Tensor,
    x_norms: Tensor,
    y: Tensor,
    y_norms: Tensor,
    keys: Tensor,
    first: int = 0,
    *,
    triangle: bool = False,
    config: Config | None = None,
    descriptors: bool | None = None,
) -> None:
    """Lower `keys` [N, all, P] for the images of x against those of y, its [first, first + M).

    `triangle`: x and y are the same images, pairs i < j serve both; M = N, Q = P. `descriptors`
    None: where they can be used.
    """
    n, p, k = x.shape
    m, q = y.shape[:2]
    chosen = config or pick_config(arch_of(x.device), x.dtype, p, q, k)
    tiles = triton.cdiv(p, chosen.BLOCK_P), triton.cdiv(q, chosen.BLOCK_Q)
    tma = use_descriptors(arch_of(x.device), x.dtype, x, y) if descriptors is None else descriptors
    group = min(chosen.GROUP, max(n, m))  # no larger than there are images
    count = programs(n, m, *tiles, group, triangle)
    if count == 0:
        return
    _min_distance_kernel[(count,)](
        operand(x, chosen.BLOCK_P, chosen, tma),
        operand(y, chosen.BLOCK_Q, chosen, tma),
        x_norms,
        y_norms,
        keys,
        n,
        m,
        p,
        q,
        keys.shape[1],
        first,
        K=k,
        INTEGERS=x.dtype == torch.int8,
        DESCRIPTORS=tma,
        TRIANGLE=triangle,
        SPECIALIZE=chosen.warp_specialize and tma,
        GROUP=group,
        BLOCK_P=chosen.BLOCK_P,
        BLOCK_Q=chosen.BLOCK_Q,
        BLOCK_K=chosen.BLOCK_K,
        **chosen.launch(),
    )
