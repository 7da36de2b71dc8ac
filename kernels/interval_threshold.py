"""The threshold below which the K smallest values of a row lie, found without sorting.

The bits of floats order as integers (`ordered`). A search over these integers starts between the
least and the greatest finite value, counts the values below a probe, and places the next probe by
linear interpolation of the counts, from the eighth on in turn with halving, so that it ends. It
ends where a count is K, or where the bounds meet: then the values at the threshold tie, some of
them are among the K smallest, and the count below says how many.
"""

# mypy: disable-error-code="no-untyped-def,untyped-decorator"

from __future__ import annotations

import triton
import triton.language as tl

from .interval_rows import count_below


@triton.jit
def ordered(x):
    """Float32 -> int32 in the same order (-0 just below +0); its own inverse on the bits."""
    bits = x.to(tl.int32, bitcast=True)
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


@triton.jit
def _float_of(key):
    """The float32 that `ordered` maps to `key`."""
    return ordered(key.to(tl.float32, bitcast=True)).to(tl.float32, bitcast=True)


@triton.jit
def find_threshold(x, rows, K, least, greatest, finite):
    """Threshold t of each row [BLOCK_R] and how many values are below it, at most K.

    If fewer than K values are below t, all that follow them up to place K - 1 equal t.

    x: the first columns of the rows.
    K: 1, ..., M as float32.
    least, greatest: of the finite values of a row, of which there are `finite`.
    """
    # Invariant: `below` < K values lie below `low`, `upto` >= K values up to `high`.
    infinity: tl.constexpr = 2139095040  # ordered(+inf)
    ends = finite <= K
    low = tl.where(ends, infinity, ordered(least))
    high = tl.where(ends, infinity, ordered(greatest))
    below = tl.where(ends, finite, 0.0)
    upto = finite
    active = (low < high).to(tl.int32)
    turn = 0
    while tl.max(active, axis=0) > 0:
        span = (high - low).to(tl.uint32, bitcast=True)
        share = (K - below) / (upto - below)
        share = tl.where((turn > 7) & (turn % 2 == 0), 0.5, share)
        share = tl.where(active > 0, share, 0.0)
        step = (span.to(tl.float32) * share).to(tl.int64)
        step = tl.minimum(tl.maximum(step, 1), span.to(tl.int64)).to(tl.int32)
        probe = low + step
        count = count_below(x, rows, _float_of(probe))
        raised = (active > 0) & (count <= K)
        lowered = (active > 0) & (count > K)
        low = tl.where(raised, probe, low)
        below = tl.where(raised, count, below)
        high = tl.where(lowered, probe - 1, high)
        upto = tl.where(lowered, count, upto)
        active = ((active > 0) & (below < K) & (low < high)).to(tl.int32)
        turn += 1
    return _float_of(low), below
