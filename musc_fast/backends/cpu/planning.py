"""Memory budget -> chunks: pure arithmetic, no tensors.

The CPU search holds, beyond input and output, the rounded operands of every image (in a scratch
file where memory is too small for them) and, for a chunk of query images, a summary of the scores
of every (patch, reference image); a thread holds the scores of one pair of images in full, one for
every segment of patches. Larger segments need less memory and more time in the second pass; smaller
chunks lose the symmetry of pairs in different chunks.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

from ...errors import InputError
from ..memory import free_memory

_MAPPED = 1.25  # cost of a search whose operands lie in a file, roughly
_SHARE = 0.5  # of the free memory, where no limit is given
_RESERVE = 32 << 20  # scratch: samples, bases, the refinement's lists
SEGMENTS = (16, 48, 96, 192, 384, 768, 1536)
_LONG_ROW = 32  # words; from here on a finer segment saves more than its score costs
PANEL = 16
LANES = 32


@dataclass(frozen=True)
class Plan:
    """`chunk` query images at a time, `segment` patches a score; `bytes` is the peak's estimate.

    `mapped`: the operands lie in a scratch file and are not counted.
    """

    chunk: int
    segment: int
    bytes: int
    mapped: bool = False


def padded(patches: int) -> int:
    """Patches rounded up to whole panels."""
    return -(-patches // PANEL) * PANEL


def finest_segment(words: int) -> int:
    """The segment for rows of `words` words where memory is no matter."""
    return SEGMENTS[0 if words > _LONG_ROW else 3]


def operand_bytes(images: int, patches: int, words: int, extra: int) -> int:
    """The rounded operands of `images` images: two layouts, inits, bounds, `extra` a row."""
    fixed = 8 + 24 + 1  # inits, bounds (native/sides.py), what panels share
    return images * padded(patches) * (2 * 4 * words + fixed + extra)


def score_bytes(patches: int, references: int, reference_patches: int, segment: int) -> int:
    """What is kept of one query image's scores against all references (csrc/cpu/summary.hpp)."""
    segments = -(-padded(reference_patches) // segment)
    lanes = -(-patches // LANES) * LANES
    return references * (8 * lanes + segments * (lanes // 4))


def pair_bytes(patches: int, reference_patches: int, segment: int) -> int:
    """The scores of one pair of images, both ways, that a thread works on."""
    one = -(-padded(reference_patches) // segment) * padded(patches)
    return 2 * (one + -(-padded(patches) // segment) * padded(reference_patches) + 2 * LANES)


def plan_search(
    images: int,
    patches: int,
    references: int,
    reference_patches: int,
    words: int,
    extra: int,
    *,
    columns: int,
    symmetric: bool,
    memory_limit: int | None,
    threads: int = 1,
) -> Plan:
    """Choose chunk and segment for a search of `images` x `patches` against the references.

    `words`: 32-bit words of a rounded row, `extra`: bytes of its closer representations.
    `columns`: references that one query is compared with.
    `memory_limit` None: half of what is free. Operands that do not fit beside the scores of a good
    chunk lie in a scratch file. Raises InputError where even the scores of one image do not fit.
    """
    operands = operand_bytes(images, patches, words, extra)
    if not symmetric:
        operands += operand_bytes(references, reference_patches, words, extra)
    limit = int(free_memory() * _SHARE) if memory_limit is None else memory_limit
    best: tuple[float, Plan] | None = None
    finest = SEGMENTS.index(finest_segment(words))
    for mapped, segment in product((False, True), SEGMENTS[finest:]):
        fixed = _RESERVE + threads * pair_bytes(patches, reference_patches, segment)
        fixed += 0 if mapped else operands
        each = score_bytes(patches, columns, reference_patches, segment)
        chunk = min(images, (limit - fixed) // each)
        if chunk < 1:
            continue
        chunks = -(-images // chunk)
        chunk = -(-images // chunks)  # of even size
        # Pairs within a chunk cost half; a segment twice as large costs a tenth more.
        pairs = images * (columns * (1 - chunk / (2 * references)) if symmetric else columns)
        cost = pairs * (1 + 0.1 * (SEGMENTS.index(segment) - finest)) * (_MAPPED if mapped else 1)
        plan = Plan(chunk, segment, fixed + chunk * each, mapped)
        if best is None or cost < best[0]:
            best = (cost, plan)
    if best is None:
        needed = _RESERVE + score_bytes(patches, columns, reference_patches, SEGMENTS[-1])
        needed += threads * pair_bytes(patches, reference_patches, SEGMENTS[-1])
        raise InputError(
            f"memory_limit: this search needs at least {needed / 2**20:.0f} MiB beyond input and "
            f"output, the limit is {limit / 2**20:.0f} MiB; raise it or score fewer images"
        )
    return best[1]
