"""Tiles of the kernels over pairs of images: their sizes, their programs and their distances.

A tile is BLOCK_P patches of image i by BLOCK_Q patches of image j. A tile never crosses images, and
the last tile of an image is masked. Programs walk blocks of GROUP x GROUP image pairs: within a
block, all row tiles come before the next column tile, so that the operands of the block stay in the
L2 cache. `TRIANGLE` takes pairs i < j alone, and only the blocks of the upper triangle.
"""

# mypy: disable-error-code="no-untyped-def,untyped-decorator"

from __future__ import annotations

from dataclasses import dataclass, replace
from inspect import signature

import torch
import triton
import triton.language as tl

from .devices import next_power_of_2, shared_memory


@dataclass(frozen=True)
class Config:
    """The tile, its loop over channels, and the options of the launch.

    BLOCK_P, BLOCK_Q: patches of image i and of image j in a tile.
    BLOCK_K: channels that one turn of the product's loop multiplies.
    GROUP: a block is GROUP x GROUP image pairs.
    max_registers: bound on the registers of a thread, 0 for none. A bound lets two blocks share a
        multiprocessor, so that one multiplies while the other reduces.
    warp_specialize: loads and products run in warps of their own (see `specialise_warps`).
    """

    BLOCK_P: int
    BLOCK_Q: int
    BLOCK_K: int
    GROUP: int
    num_warps: int
    num_stages: int
    max_registers: int = 0
    warp_specialize: bool = False

    def shared_memory(self, size: int) -> int:
        """Bytes of shared memory that the pipelined operands take, with `size` bytes an entry."""
        return (self.BLOCK_P + self.BLOCK_Q) * self.BLOCK_K * size * self.num_stages

    def launch(self) -> dict[str, int]:
        """The options of a launch."""
        options = {
            "num_warps": self.num_warps,
            "num_stages": self.num_stages,
            "enable_fp_fusion": True,
        }
        return options | ({"maxnreg": self.max_registers} if self.max_registers else {})


def pick_config(
    arch: int, dtype: torch.dtype, patches: int, others: int, depth: int, *, listing: bool = False
) -> Config:
    """The config for images of `patches` and `others` patches with `depth` channels.

    The sizes compile without spills of registers, which tests/kernels/test_compiled.py checks.

    arch: 10 * major + minor of the compute capability.
    dtype: of the operands.
    listing: the config is for `candidates`, whose tiles are narrower, since its epilogue holds
        more in registers.
    """
    size = dtype.itemsize
    rows, columns = (_block(patches, 128), _block(others, 64 if listing else 128))
    wide = 90 <= arch < 120  # wgmma and tcgen05 take 128 bytes of a row at a time
    block_k = (128 if wide else 64 if arch < 120 or size > 1 else 32) // size
    # No bound for int8 on Ampere and Ada: ptxas spills under a bound (Triton 3.9), and needs no
    # more than 128 registers without.
    warps, bound = 8, 128 if not listing and (wide or size > 1) else 0
    if size == 4:  # float32 multiplies on the ordinary units, sum by sum
        rows, columns, block_k = min(64, rows), min(64, columns), 32
        bound = 0
    elif arch < 80:  # Triton has no tensor cores for Turing
        rows, columns, warps, bound = min(64, rows), min(32, columns), 4, 0
    elif 100 <= arch < 120:
        columns = min(64, columns)
    elif listing and not wide:
        rows, warps = min(64, rows), 4
    elif arch == 90 and not listing:  # measured: two blocks of 4 warps beat two of 8 by 5 to 27 %
        warps, bound = 4, 0
    while depth % block_k and block_k > (32 if size == 1 else 16):
        block_k //= 2
    if rows * columns < 64 * 64:
        warps = 4
    # On an H100 blocks of 4 x 4 images of 1369 patches were up to 6% faster than those of 2 x 2.
    group = max(1, min(8, 6144 // max(patches, others)))
    for stages in (4, 3, 2, 1):
        config = Config(rows, columns, block_k, group, warps, stages, bound)
        if 2 * config.shared_memory(size) <= shared_memory(arch):
            break
    return config


def specialise_warps(config: Config, arch: int) -> Config | None:
    """`config` with specialised warps, or None where Triton (3.6 to 3.9) cannot specialise them.

    On sm_100 to sm_119 four additional warps load by TMA and issue the product; 80 registers a
    thread (moved between the roles at run time) let two blocks share a multiprocessor, without
    spills. This config has been compiled and inspected but never run, so `pick_config` does not
    choose it; benchmarks/kernels.py times it. On sm_90 Triton ignores specialisation with 8 warps;
    with 4 it fails to compile 128 rows, and its code for 64 rows lacks the product (no wgmma).
    """
    if not 100 <= arch < 120 or "warp_specialize" not in signature(tl.range.__init__).parameters:
        return None
    return replace(config, num_warps=8, max_registers=80, warp_specialize=True)


def _block(patches: int, largest: int) -> int:
    return min(largest, max(16, next_power_of_2(patches)))


@triton.jit
def locate(pid, IMAGES, OTHERS, TILES_P, TILES_Q, GROUP: tl.constexpr, TRIANGLE: tl.constexpr):
    """Program -> (i, j, tile of i, tile of j, whether the pair (i, j) is wanted)."""
    blocks_j = tl.cdiv(OTHERS, GROUP)
    rows = GROUP * TILES_P
    inside = pid % (rows * GROUP * TILES_Q)
    block = pid // (rows * GROUP * TILES_Q)
    if TRIANGLE:
        # block = J (J + 1) / 2 + I with I <= J; J by the root is off by at most one.
        block_j = ((tl.sqrt(8.0 * block.to(tl.float32) + 1.0) - 1.0) * 0.5).to(tl.int32)
        block_j -= (block_j * (block_j + 1) // 2 > block).to(tl.int32)
        block_j += ((block_j + 1) * (block_j + 2) // 2 <= block).to(tl.int32)
        block_i = block - block_j * (block_j + 1) // 2
    else:
        block_i = block // blocks_j
        block_j = block % blocks_j
    row = inside % rows
    column = inside // rows
    i = block_i * GROUP + row // TILES_P
    j = block_j * GROUP + column // TILES_Q
    valid = (i < IMAGES) & (j < OTHERS)
    if TRIANGLE:
        valid = valid & (i < j)
    return i, j, row % TILES_P, column % TILES_Q, valid


def count_programs(
    *, images: int, others: int, tiles_p: int, tiles_q: int, group: int, triangle: bool
) -> int:
    """How many programs `locate` spreads over the pairs."""
    blocks_i, blocks_j = -(-images // group), -(-others // group)
    blocks = blocks_j * (blocks_j + 1) // 2 if triangle else blocks_i * blocks_j
    return blocks * group * group * tiles_p * tiles_q


@triton.jit
def squared_tile(
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
    K: tl.constexpr,
    INTEGERS: tl.constexpr,
    DESCRIPTORS: tl.constexpr,
    SPECIALIZE: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """|x|^2 + |y|^2 - 2xy of patches p [BLOCK_P] of i and q [BLOCK_Q] of j.

    The result is int32 for INTEGERS (int8 operands), otherwise float32, and the same to the bit
    with x and y exchanged. A patch beyond its image is farther than any patch within. With
    DESCRIPTORS x_ptr and y_ptr are tensor descriptors of [N P, K] and [M Q, K]; the last tile of an
    image then reads rows of the next image, which the norms mask.
    """
    p = tile_p * BLOCK_P + tl.arange(0, BLOCK_P)
    q = tile_q * BLOCK_Q + tl.arange(0, BLOCK_Q)
    row = i.to(tl.int64) * P + p
    column = j.to(tl.int64) * Q + q
    acc = tl.zeros([BLOCK_P, BLOCK_Q], tl.int32 if INTEGERS else tl.float32)
    for start in tl.range(0, K, BLOCK_K, warp_specialize=SPECIALIZE):
        if DESCRIPTORS:
            x = x_ptr.load([i * P + tile_p * BLOCK_P, start])
            y = y_ptr.load([j * Q + tile_q * BLOCK_Q, start])
        else:
            k = start + tl.arange(0, BLOCK_K)
            if K % BLOCK_K == 0:
                x_mask = (p < P)[:, None]
                y_mask = (q < Q)[:, None]
            else:
                x_mask = (p < P)[:, None] & (k < K)[None, :]
                y_mask = (q < Q)[:, None] & (k < K)[None, :]
            x = tl.load(x_ptr + row[:, None] * K + k[None, :], mask=x_mask, other=0.0)
            y = tl.load(y_ptr + column[:, None] * K + k[None, :], mask=y_mask, other=0.0)
        if INTEGERS:
            acc = tl.dot(x, tl.trans(y), acc, out_dtype=tl.int32)
        else:
            acc = tl.dot(x, tl.trans(y), acc, input_precision="ieee")
    far: tl.constexpr = (1 << 29) if INTEGERS else float("inf")
    x_norm = tl.load(x_norm_ptr + row, mask=p < P, other=far)
    y_norm = tl.load(y_norm_ptr + column, mask=q < Q, other=far)
    if INTEGERS:  # exact in any order of the terms; this order needs the fewest registers
        return (y_norm[None, :] - 2 * acc) + x_norm[:, None]
    return (y_norm[None, :] + x_norm[:, None]) - 2 * acc
