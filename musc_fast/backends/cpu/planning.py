"""Memory budget -> chunks: pure arithmetic, no tensors.

Beyond input and output the CPU search needs memory for the rounded rows of every image (in a
scratch file where memory is too small for them), for a chunk of query images a summary of the
scores of every (patch, reference image), and in every thread the scores of one pair of images, one
for each patch and segment. Larger segments need less memory and more time in the second pass. A
smaller chunk makes fewer pairs lie within one chunk, where one tile serves both directions.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

from ... import _C
from ...errors import InputError
from ..memory import free_memory

_MAPPED = 1.25  # relative time of a search whose rounded rows lie in a file, roughly
_SHARE = 0.5  # of the free memory, where no limit is given
_RESERVE = 32 << 20  # bytes for samples, bases and the lists of the second pass
PANEL, LANES = _C.PANEL, _C.LANES
# Patches of a segment: one panel, or the tiles' common multiple, doubled up to the largest.
SEGMENTS = (
    PANEL,
    *(
        _C.SEGMENT_UNIT << doubled
        for doubled in range((_C.MAX_SEGMENT // _C.SEGMENT_UNIT).bit_length())
    ),
)
LONG_SEGMENT = SEGMENTS[3]
_LONG_ROW = 32  # words; longer rows take so long to scan again that segments of one panel pay


@dataclass(frozen=True)
class Plan:
    """How a search is cut.

    chunk: query images at a time.
    segment: patches that share a score.
    bytes: estimate of the memory at its peak.
    mapped: the rounded rows lie in a scratch file, and are not part of `bytes`.
    """

    chunk: int
    segment: int
    bytes: int
    mapped: bool = False


def padded(patches: int) -> int:
    """Patches rounded up to whole panels."""
    return -(-patches // PANEL) * PANEL


def finest_segment(words: int) -> int:
    """The segment for rows of `words` words where memory suffices."""
    return PANEL if words > _LONG_ROW else LONG_SEGMENT


def operand_bytes(images: int, patches: int, words: int, extra: int) -> int:
    """Bytes of `images` rounded images; `extra`: bytes of a row's fine and rest values."""
    fixed = 8 + 4 * _C.BOUNDS + 1  # inits, bounds, a panel's error (4 bytes for 16 rows)
    return images * padded(patches) * (2 * 4 * words + fixed + extra)


def score_bytes(patches: int, references: int, reference_patches: int, segment: int) -> int:
    """Bytes of the summaries of one query image against all references."""
    segments = -(-padded(reference_patches) // segment)
    return references * _C.summary_bytes(patches, segments)


def pair_bytes(patches: int, reference_patches: int, segment: int) -> int:
    """Bytes of the scores of one pair of images, both ways; each thread has its own."""
    one = -(-padded(reference_patches) // segment) * padded(patches)
    return 2 * (one + -(-padded(patches) // segment) * padded(reference_patches) + 2 * LANES)


def plan_search(
    *,
    images: int,
    patches: int,
    references: int,
    reference_patches: int,
    words: int,
    extra: int,
    columns: int,
    symmetric: bool,
    memory_limit: int | None,
    threads: int = 1,
) -> Plan:
    """Choose chunk and segment for a search of `images` x `patches` against the references.

    words: 32-bit words of a rounded row.
    extra: bytes of a row's fine and rest values.
    columns: references that one query is compared with.
    symmetric: the references are the queries.
    memory_limit: bytes; None: half of the free memory.

    Rounded rows that do not fit beside the summaries of a good chunk lie in a scratch file. Raises
    InputError where even the summaries of one image do not fit.
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
        chunk = -(-images // chunks)  # chunks of nearly the same size
        # Pairs within a chunk cost half; the next larger segment costs a tenth more.
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
