"""Device memory budget -> chunks of the search on a GPU: arithmetic alone.

Beyond input and output the search needs memory for

- the rounded images: K bytes or 2 K a patch, and 12 bytes of norms and bounds; for a search in a
  subspace, 2 C + 2 K + 8 bytes of float16 rows too, in all channels and in the subspace;
- for a chunk of query images, 16 bytes a (patch, image): key, squared distance and limit; where
  CUDA kernels search, 2 bytes more for each range of patches;
- the list of candidates;
- for rows in host memory, two blocks of these rows and the rows of the chunk.

Before the search, a sample is fitted and the rows are rounded. A plan's `bytes` is the largest of
these needs. A chunk of all images uses every pair of images once; with smaller chunks, pairs across
chunks are computed twice. Results do not depend on the chunk, to the bit.
"""

from __future__ import annotations

from dataclasses import dataclass

from ...errors import InputError

GROUP_BYTES = 128 << 20  # of images that LNAMD takes at a time, and the least list aimed at
BLOCK_BYTES = 256 << 20  # of streamed rows
_PAIR = 16  # bytes a (patch, image) of a chunk: int64 key, float32 distance and limit
_RANGE = 2  # bytes a (patch, range) of a chunk
_LISTED = 12  # bytes a candidate: int64 slot, int32 patch
_SAMPLES = 7 * 4 * 8192  # bytes a channel: copies of the sample that bases and scales are fitted to
_ROUNDING = 4 * (64 << 20)  # four copies of the rows that are rounded at a time
_LARGEST_ROOM = 1 << 26
_PROGRAMS, _TILE = 1 << 30, 32  # of one launch, and the narrowest tile of large images


@dataclass(frozen=True, kw_only=True)
class Shape:
    """N images of P patches against M images of Q patches, with C channels.

    symmetric: the images are searched in themselves; then M = N and Q = P.
    kept: the M images are rounded already; their memory is no part of a plan.
    ranges: of an image of M, of `few_channels.count_ranges`.
    """

    images: int
    patches: int
    others: int
    other_patches: int
    channels: int
    symmetric: bool
    kept: bool = False
    ranges: int = 0


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How the search is divided.

    chunk: query images at a time.
    room: candidates that a list holds.
    bytes: estimate of the peak beyond input and output.
    block: images of a streamed block; None where the rows are on the device.
    """

    chunk: int
    room: int
    bytes: int
    block: int | None = None


def rounded_bytes(shape: Shape, row_bytes: int) -> int:
    """Bytes of all rounded images: `row_bytes` of values a row, its norm and two bounds."""
    rows = shape.images * shape.patches
    if not (shape.symmetric or shape.kept):
        rows += shape.others * shape.other_patches
    return rows * (row_bytes + 12)


def image_bytes(shape: Shape) -> int:
    """Bytes that a query image of a chunk needs."""
    return (_PAIR + _RANGE * shape.ranges) * shape.others * shape.patches


def least_room(shape: Shape) -> int:
    """Candidates of one pair of images, both ways, which any list must hold."""
    return 2 * shape.patches * shape.other_patches


def plan_search(
    shape: Shape, limit: int, *, row_bytes: int, copied_bytes: int = 0, streamed: bool = False
) -> Plan:
    """The chunk and the room of lists within `limit` bytes.

    row_bytes: values of a rounded row.
    copied_bytes: converted copies of the inputs.
    streamed: the rows lie in host memory.

    Raises InputError where even one image at a time does not fit.
    """
    each = image_bytes(shape)
    group = max(4 * each, min(GROUP_BYTES, 4 * each * shape.images))
    fixed = rounded_bytes(shape, row_bytes) + copied_bytes
    rows = shape.images * shape.patches
    if not shape.kept:
        rows = max(rows, shape.others * shape.other_patches)
    sample = 0 if shape.kept else _SAMPLES * shape.channels
    before = max(sample, fixed + min(_ROUNDING, 16 * rows * shape.channels))
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
    peak = max(before, fixed + chunk * each + room * _LISTED)
    return Plan(chunk=chunk, room=room, bytes=peak, block=block)
