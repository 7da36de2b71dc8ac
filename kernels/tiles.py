"""What the kernels over pairs of images share: which tile a program takes, and its distances.

A tile is BLOCK_P patches of image i by BLOCK_Q patches of image j; tiles never cross images, and
the last of an image is masked. Programs walk blocks of GROUP x GROUP image pairs: within one, all
row tiles before the next column tile, so that the operands of a block stay in the L2 cache.
`TRIANGLE` takes i < j alone, and only the blocks of the upper triangle.
"""

# mypy: disable-error-code="no-untyped-def,untyped-decorator"

from __future__ import annotations

from dataclasses import dataclass, replace
from inspect import signature
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .devices import next_power_of_2, shared_memory


@dataclass(frozen=True)
class Config:
    """The tile, the depth of a step of the product, GROUP images a block, and the launch.

    max_registers a thread (0: no bound) is what lets two blocks share a multiprocessor, one
    multiplying while the other reduces. `warp_specialize`: warps of their own load and multiply
    (see `specialised`).
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
        """Bytes of shared memory of the pipelined operands, `size` bytes an entry."""
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

    `listing`: for `candidates`, whose epilogue holds more, so its tiles are narrower. Sizes are
    those that compile without spills (tests/kernels/test_compiled.py, benchmarks/static_report.py).
    """
    size = torch.empty((), dtype=dtype).element_size()
    rows, columns = (_side(patches, 128), _side(others, 64 if listing else 128))
    wide = 90 <= arch < 120  # wgmma and tcgen05 take 128 bytes of a row at a time
    step = (128 if wide else 64 if arch < 120 or size > 1 else 32) // size
    # In int8 on Ampere and Ada the bound itself makes ptxas spill (Triton 3.9); 128 suffice there.
    warps, bound = 8, 128 if not listing and (wide or size > 1) else 0
    if size == 4:  # float32 multiplies on the ordinary units, sum by sum
        rows, columns, step = min(64, rows), min(64, columns), 32
        bound = 0
    elif arch < 80:  # Triton has no tensor cores for Turing
        rows, columns, warps, bound = min(64, rows), min(32, columns), 4, 0
    elif 100 <= arch < 120:
        columns = min(64, columns)
    elif listing and not wide:
        rows, warps = min(64, rows), 4
    while depth % step and step > (32 if size == 1 else 16):
        step //= 2
    if rows * columns < 64 * 64:
        warps = 4
    group = max(1, min(8, 4096 // max(patches, others)))
    for stages in (4, 3, 2, 1):
        config = Config(rows, columns, step, group, warps, stages, bound)
        if 2 * config.shared_memory(size) <= shared_memory(arch):
            break
    return config


def specialised(config: Config, arch: int) -> Config | None:
    """`config` with specialised warps, or None where Triton (3.6 to 3.9) has none that serve.

    sm_100 and kin: four warps more load by TMA and issue the product; 80 registers a thread (moved
    between the roles at run time) let two blocks share a multiprocessor, without spills. Compiled
    and inspected, never run: `pick_config` does not choose it, benchmarks/kernels.py times it.
    sm_90: ignored with 8 warps; with 4 the compiler fails on 128 rows and on 64 rows drops the
    product (no wgmma is left). Nothing else has such warps.
    """
    if not 100 <= arch < 120 or "warp_specialize" not in signature(tl.range.__init__).parameters:
        return None
    return replace(config, num_warps=8, max_registers=80, warp_specialize=True)


def _side(patches: int, largest: int) -> int:
    return min(largest, max(16, next_power_of_2(patches)))


@triton.jit
def locate(pid, IMAGES, OTHERS, TILES_P, TILES_Q, GROUP: tl.constexpr, TRIANGLE: tl.constexpr):
    """Program -> (i, j, tile of i, tile of j, whether there is such a pair)."""
    blocks_j = tl.cdiv(OTHERS, GROUP)
    rows = GROUP * TILES_P
    inside = pid % (rows * GROUP * TILES_Q)
    block = pid // (rows * GROUP * TILES_Q)
    if TRIANGLE:
        # block = J (J + 1) / 2 + I with I <= J; the root is off by at most one.
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


def programs(
    images: int, others: int, tiles_p: int, tiles_q: int, group: int, triangle: bool
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

    int32 for INTEGERS (int8 operands), otherwise float32; the same to the bit with x and y
    exchanged. A patch beyond its image is farther than any other. With DESCRIPTORS x_ptr and y_ptr
    are tensor descriptors of [N P, K] and [M Q, K]: a tile's tail then reads rows of the next
    image, which the norms mask.
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
    if INTEGERS:  # exact in any order; this one needs the fewest registers
        return (y_norm[None, :] - 2 * acc) + x_norm[:, None]
    return (y_norm[None, :] + x_norm[:, None]) - 2 * acc


def use_descriptors(arch: int, dtype: torch.dtype, x: Tensor, y: Tensor) -> bool:
    """Whether tiles come by TMA: from Hopper on, where Triton takes descriptors, within int32.

    A row must be a multiple of 16 bytes and the data aligned to it.
    """
    if arch < 90 or not hasattr(tl, "make_tensor_descriptor"):
        return False
    rows = max(x.shape[0] * x.shape[1], y.shape[0] * y.shape[1])
    aligned = x.shape[2] * dtype.itemsize % 16 == 0
    return aligned and rows < 2**31 and (x.data_ptr() | y.data_ptr()) % 16 == 0


def operand(x: Tensor, rows: int, config: Config, descriptors: bool) -> Any:
    """What a kernel gets for x [N, P, K]: itself, or a descriptor of tiles [rows, BLOCK_K]."""
    if not descriptors:
        return x
    from triton.tools.tensor_descriptor import TensorDescriptor

    return TensorDescriptor.from_tensor(x.view(-1, x.shape[2]), [rows, config.BLOCK_K])
