"""The nearest patch of every image, for every patch: product, minimum and index in one pass.

    keys[i, j, p] = min over q of (s(x[i, p], y[j, q]), q),   s = |x|^2 + |y|^2 - 2 x.y

x: [N, P, K] and y: [M, Q, K], float32, float16, bfloat16 or int8 operands, contiguous; norms
[N, P], [M, Q] float32, int32 for int8. No distance is stored: each tile of the product is reduced
where it was computed. Within a batch the tile (i, j), i < j, serves both images: its rows give i
against j, its columns j against i, which halves the arithmetic.

A key is (s as an ordered 32-bit integer) << 32 | q in int64. Tiles combine by an integer atomic
minimum: the order of tiles cannot matter, ties go to the smaller q, and the result is the same to
the bit in every run, for every tile, grouping and chunk. int8 products add exactly; float products
add in the order of channels that BLOCK_K fixes.

Float keys hold s with its low LOST_BITS bits cleared, in tiles of every size, so that
s / TRUNCATION < value <= s. Within a tile these bits take the index, and one integer minimum finds
value and index of a row or a column (exact int8 values leave no room: there the index takes a
second minimum). Where rounding makes s negative, the pair decodes to 0.

From Hopper on the operands come by TMA (tensor descriptors), on older GPUs by pointers.

Memory: operands are read once or twice from DRAM through L2; keys take 8 bytes a (patch, image).
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
from .pairs import plan_pairs
from .tiles import Config, locate, pick_config, squared_tile

UNSET = 2**63 - 1  # the key of a pair that no search has taken: farther than any distance
LOST_BITS = 8  # of a float in a key: room for an index within a tile
TRUNCATION = 1 + 2.0 ** (LOST_BITS - 23)  # s is less than TRUNCATION * the value of its key


@triton.jit
def key_of(s, index):
    """(s, index) -> int64 that orders by s, then by the index."""
    bits = s if s.dtype == tl.int32 else ordered(s)
    return (bits.to(tl.int64) << 32) | index.to(tl.int64)


@triton.jit
def _nearest_key(s, start, zero, SIZE: tl.constexpr, AXIS: tl.constexpr):
    """Key of the least entry along AXIS of a tile, whose SIZE patches there begin at `start`.

    zero: 0, which the compiler must not know.
    """
    local = tl.expand_dims(tl.arange(0, SIZE), 1 - AXIS)
    if s.dtype == tl.int32:
        # Two plain reductions are cheaper than one reduction of (value, index) pairs.
        least = tl.min(s, axis=AXIS)
        at = tl.where(s == tl.expand_dims(least, AXIS), local, SIZE)
        return key_of(least, start + tl.min(at, axis=AXIS))
    kept: tl.constexpr = -256  # all but LOST_BITS bits
    tl.static_assert(SIZE <= 256)
    # Integers order as the floats do, but for negative ones, which decode to 0 in any order. Where
    # mask and index differ between rows and columns, each entry is packed by one instruction a
    # direction; a known mask would be applied once for both, and both would take a second one.
    if AXIS == 0:
        packed = (s.to(tl.int32, bitcast=True) & (kept - zero)) | (local + zero)
    else:
        packed = (s.to(tl.int32, bitcast=True) & kept) | local
    packed = tl.min(packed, axis=AXIS)
    value = (packed & kept).to(tl.int64)
    return (value << 32) | (start + (packed & 255)).to(tl.int64)


@triton.jit(do_not_specialize=["N", "M", "P", "Q", "ALL", "FIRST"])
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
    """Lower the keys [N, ALL, P] by one tile; image j of y is image FIRST + j of ALL."""
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
        zero = (ALL < 0).to(tl.int32)  # ALL is positive
        key = _nearest_key(s, tile_q * BLOCK_Q, zero, BLOCK_Q, 1)
        slot = (i.to(tl.int64) * ALL + FIRST + j) * P + p
        tl.atomic_min(key_ptr + slot, key, mask=p < P, sem="relaxed")
        if TRIANGLE:
            key = _nearest_key(s, tile_p * BLOCK_P, zero, BLOCK_P, 0)
            slot = (j.to(tl.int64) * ALL + FIRST + i) * Q + q
            tl.atomic_min(key_ptr + slot, key, mask=q < Q, sem="relaxed")


def new_keys(images: int, others: int, patches: int, device: torch.device) -> Tensor:
    """Keys [images, others, patches] int64 before any search: every entry is UNSET."""
    return torch.full((images, others, patches), UNSET, dtype=torch.int64, device=device)


def decode_keys(keys: Tensor, integers: bool) -> tuple[Tensor, Tensor]:
    """Keys -> squared distances float32 (+inf where UNSET) and patch indices int32.

    Distances of float operands are at most s and more than s / TRUNCATION.

    integers: the search had int8 operands.
    """
    high = (keys >> 32).to(torch.int32)
    squared = high.float() if integers else high.clamp_min_(0).view(torch.float32)
    unset = keys == UNSET
    return squared.masked_fill(unset, torch.inf), (keys & 0x7FFFFFFF).to(torch.int32)


def find_nearest(
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
    """Lower `keys` for the images of x [N, P, K] against the images of y [M, Q, K].

    x_norms, y_norms: [N, P] and [M, Q], squared norms.
    keys: [N, ALL, P] int64, see `new_keys`; image j of y is image `first` + j of ALL.
    triangle: x and y are the same images; each pair i < j is multiplied once, for both directions.
    config: None picks by device, dtype and sizes.
    descriptors: whether tiles come by TMA; None uses it where it can be used.
    """
    config = config or pick_config(arch_of(x.device), x.dtype, x.shape[1], y.shape[1], x.shape[2])
    launch = plan_pairs(x, y, config, triangle=triangle, descriptors=descriptors)
    launch.run(
        _min_distance_kernel,
        x_norms,
        y_norms,
        keys,
        first,
        DESCRIPTORS=launch.descriptors,
        SPECIALIZE=config.warp_specialize and launch.descriptors,
    )
