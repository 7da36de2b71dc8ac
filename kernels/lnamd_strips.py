"""What both LNAMD kernels do with a strip of an image: load rows of tokens, store results.

A strip is BLOCK_X neighbouring columns of an image's H x W grid of tokens, with all C channels. A
program walks over rows of its strip and holds [BLOCK_X, BLOCK_C] values in registers, where
BLOCK_C >= C is a power of two. Sums over boxes take x - mean token by token, with the mean of the
whole image, so that a channel with a large mean causes no cancellation.
"""

# mypy: disable-error-code="no-untyped-def,untyped-decorator"

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import triton
import triton.language as tl

from .devices import next_power_of_2


@dataclass(frozen=True)
class Config:
    """A program takes BLOCK_X columns of the grid, ROWS rows of each, and all channels.

    BLOCK_C: a power of two, at least the number of channels.
    BLOCK_S: tokens that are added at a time where an image's mean is computed.
    lag: by how many images the computation of means goes ahead of the aggregation.
    """

    BLOCK_X: int
    BLOCK_C: int
    ROWS: int
    BLOCK_S: int
    num_warps: int
    lag: int = 2


def pick_config(width: int, channels: int) -> Config:
    """The config with which six running sums and a row stay in registers."""
    block_c = next_power_of_2(channels)
    block_x = max(1, min(next_power_of_2(width), 2048 // block_c))
    return Config(block_x, block_c, 13, max(1, 4096 // block_c), 8 if block_c > 128 else 4)


class Strip(NamedTuple):
    """A strip inside a kernel.

    WHOLE is a constant. It stays one where a call builds the tuple as its argument; an assignment
    would make it a value of run time.

    x_ptr: first token of the image.
    mean: of the image.
    image: its place among the images.
    columns: [BLOCK_X], the last ones may lie beyond the grid.
    channels: 0, ..., BLOCK_C - 1.
    stride_p: from a token to the next; channels lie side by side.
    WHOLE: whether C = BLOCK_C.
    """

    x_ptr: Any
    mean: Any
    image: Any
    columns: Any
    channels: Any
    H: Any
    W: Any
    C: Any
    stride_p: Any
    WHOLE: Any


@triton.jit
def load_row(strip, row, shift):
    """x - mean at (row, columns + shift) [BLOCK_X, BLOCK_C], 0 beyond the grid."""
    columns = strip.columns + shift
    inside = (columns >= 0) & (columns < strip.W) & (row >= 0) & (row < strip.H)
    row = tl.minimum(tl.maximum(row, 0), strip.H - 1)
    token = row * strip.W + tl.minimum(tl.maximum(columns, 0), strip.W - 1)
    at = strip.x_ptr + token.to(tl.int64)[:, None] * strip.stride_p + strip.channels[None, :]
    weight = tl.where(inside, 1.0, 0.0)[:, None]
    if strip.WHOLE:
        x = tl.load(at).to(tl.float32)
    else:
        mask = (strip.channels < strip.C)[None, :]
        x = tl.load(at, mask=mask, other=0.0).to(tl.float32)
        weight = tl.where(mask, weight, 0.0)
    return x * weight - strip.mean * weight  # exact: the weight is 0 or 1


@triton.jit
def grid_mask(strip):
    """Which values of a row [BLOCK_X, BLOCK_C] lie on the grid and are channels."""
    return (strip.columns < strip.W)[:, None] & (strip.channels < strip.C)[None, :]


@triton.jit
def store_row(out_ptr, v, strip, row, inside, factor):
    """Store factor * v [BLOCK_X, BLOCK_C] at `row`, each token scaled to norm 1.

    row: int64, counted over the grids of all images (image H + y).
    inside: the strip's `grid_mask`.

    The results leave the caches first, since no kernel of LNAMD reads them.
    """
    token = row * strip.W + strip.columns
    norm = tl.sqrt_rn(tl.sum(v * v, axis=1)) * factor  # [BLOCK_X]
    z = v * (factor / tl.maximum(norm, 1e-12))[:, None]
    at = out_ptr + token[:, None] * strip.C + strip.channels[None, :]
    tl.store(at, z, mask=inside, eviction_policy="evict_first")
