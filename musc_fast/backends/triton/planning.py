"""Device memory budget -> chunks of the search on a GPU: pure arithmetic but for `limit_of`.

The search holds beyond input and output

- the operands: K bytes or 2 K a patch and 12 bytes of norms and bounds;
- for a chunk of query images, 16 bytes a (patch, image): key, squared distance, limit;
- beside them, one after the other: temporaries of a group of images (GROUP_BYTES; with the marks of
  the chunk, a byte each, while there are no limits yet), or the list of candidates;
- for rows in host memory: two blocks of them and the rows of the chunk.

Before that, it fits a sample and rounds the rows. The plan's `bytes` is the largest of these. A
chunk of all images uses every pair of images once; smaller chunks compute pairs across chunks
twice. Results do not depend on the chunk, to the bit.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...errors import InputError
from ..memory import free_memory

GROUP_BYTES = 128 << 20  # temporaries of the bounds
BLOCK_BYTES = 256 << 20  # of streamed rows
_PAIR = 16  # bytes a (patch, image) of a chunk: int64 key, float32 distance and limit
_LISTED = 12  # bytes a candidate: int64 slot, int32 patch
_SAMPLES = 7 * 4 * 8192  # bytes a channel: copies of the rows that bases and steps are fitted to
_ROUNDING = 4 * (64 << 20)  # four copies of the rows that are rounded at a time
_SHARE = 0.9  # of the free memory, where no limit is given
_LARGEST_ROOM = 1 << 26
_PROGRAMS, _TILE = 1 << 30, 32  # of one launch, and the narrowest tile of large images


@dataclass(frozen=True)
class Shape:
    """N images of P patches against M of Q, C channels; `symmetric`: against themselves."""

    images: int
    patches: int
    others: int
    other_patches: int
    channels: int
    symmetric: bool


@dataclass(frozen=True)
class Plan:
    """`chunk` query images at a time, `room` candidates a list; `bytes` is the peak's estimate.

    block: images of a streamed block; None where the rows are on the device.
    """

    chunk: int
    room: int
    bytes: int
    block: int | None = None


def operand_bytes(shape: Shape, operand: int) -> int:
    """Operands of `operand` bytes a row, norms, rho and tail."""
    rows = shape.images * shape.patches
    if not shape.symmetric:
        rows += shape.others * shape.other_patches
    return rows * (operand + 12)


def image_bytes(shape: Shape) -> int:
    """One query image of a chunk."""
    return _PAIR * shape.others * shape.patches


def least_room(shape: Shape) -> int:
    """Candidates of one pair of images, both ways: what any list must hold."""
    return 2 * shape.patches * shape.other_patches


def plan_search(
    shape: Shape, limit: int, *, operand: int, copies: int = 0, streamed: bool = False
) -> Plan:
    """The chunk and the room of lists within `limit` bytes.

    operand: bytes of a rounded row. copies: bytes of converted inputs. `streamed`: the rows lie in
    host memory. Raises InputError where even one image at a time does not fit.
    """
    each = image_bytes(shape)
    group = max(4 * each, min(GROUP_BYTES, 4 * each * shape.images))
    fixed = operand_bytes(shape, operand) + copies
    rows = max(shape.images * shape.patches, shape.others * shape.other_patches)
    before = max(_SAMPLES * shape.channels, fixed + min(_ROUNDING, 16 * rows * shape.channels))
    block = None
    if streamed:
        image = 4 * shape.channels * shape.other_patches
        block = max(1, min(shape.others, BLOCK_BYTES // image))
        fixed += 2 * block * image
        each += 4 * shape.channels * shape.patches
    room = max(least_room(shape), group // _LISTED)
    needed = max(before, fixed + room * _LISTED + each)
    if needed > limit:
        raise InputError(
            f"memory_limit: this search needs at least {needed / 2**20:.0f} MiB of device memory "
            f"beyond input and output, the limit is {limit / 2**20:.0f} MiB; raise it or score "
            "fewer images"
        )
    chunk = min(shape.images, (limit - fixed - room * _LISTED) // each)
    tiles = -(-shape.patches // _TILE) * -(-shape.other_patches // _TILE)
    chunk = min(chunk, max(1, _PROGRAMS // (tiles * shape.others)))
    chunks = -(-shape.images // chunk)
    chunk = -(-shape.images // chunks)  # of even size
    spare = (limit - fixed - chunk * each) // _LISTED
    room = max(room, min(_LARGEST_ROOM, spare, chunk * shape.others * shape.patches))
    return Plan(chunk, room, max(before, fixed + chunk * each + room * _LISTED), block)


def copies(z: Tensor, references: Tensor | None) -> int:
    """Bytes of what must be converted for the kernels: float64, or not contiguous."""
    sides = [z] if references is None else [z, references]
    return sum(
        side.numel() * (4 if side.dtype == torch.float64 else side.itemsize)
        for side in sides
        if side.dtype == torch.float64 or not side.is_contiguous()
    )


def limit_of(device: torch.device, memory_limit: int | None) -> int:
    """`memory_limit`, or a share of what is free on `device`."""
    if memory_limit is not None:
        return memory_limit
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int((free + cached) * _SHARE)
    return free_memory() // 2
