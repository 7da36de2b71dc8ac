"""From the winners of the search to bounds, and from recomputed winners to limits.

    s[i, j, p] = squared distance of the rounded rows, decoded from the key and in true units
    upper = root(t s + e + 4 r_x r_y) + slack, root widened by its rounding; slack = rho_x + rho_y
    lower = root(s - e) - slack
    limit = ((1 + C u) d + slack)^2 + e in the units of the search, d the lesser of the winner's
            distance and of the bound on those that enter the mean, or -inf where the image cannot

keys: [N, M, P] int64 of `min_distance`, whose float distances may be low by a factor of t =
`min_distance.TRUNCATION` (1 for int8). rho_x, r_x: [N, P] float32, rounding errors and norms of
residuals; rho_y, r_y: [M] float32, the largest of each reference image; e: [1] float32, the error
of the search's arithmetic. `musc_fast.backends.rounded_images` derives the bounds.

Memory: `bound_distances` reads 8 bytes a (patch, image) and writes 4, `set_limits` reads 12 and
writes 4. Floor on an H100 (3.35 TB/s) for 200 images of 1369 patches: 0.20 and 0.26 ms.
"""

# mypy: disable-error-code="no-untyped-def,untyped-decorator"

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from .min_distance import TRUNCATION

_UNIT = 2.0**-24
_BLOCK = 1024


@triton.jit
def searched_distance(key, SCALE_SQUARED, INTEGERS: tl.constexpr):
    """Squared distance of the rounded rows in true units, as `min_distance.decode_keys` gives it.

    The key of no search gives +inf.
    """
    high = (key >> 32).to(tl.int32)
    squared = high.to(tl.float32) if INTEGERS else tl.maximum(high, 0).to(tl.float32, bitcast=True)
    return tl.where(high == 0x7FFFFFFF, float("inf"), squared * SCALE_SQUARED)


@triton.jit
def lower_bound(squared, error, slack):
    """What the true distance is at least."""
    unit: tl.constexpr = 2.0**-24
    root = tl.sqrt_rn(tl.maximum(squared - error, 0.0))
    return root - (slack + 8 * unit * root)


@triton.jit(do_not_specialize=["M", "P"])
def _bound_kernel(
    key_ptr,
    out_ptr,
    x_error_ptr,
    y_error_ptr,
    x_residual_ptr,
    y_residual_ptr,
    error_ptr,
    M,
    P,
    SCALE_SQUARED,
    STRETCH,
    INTEGERS: tl.constexpr,
    BOUND: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """STRETCH: what a key may have lost. BOUND: store upper bounds, else squared distances."""
    unit: tl.constexpr = 2.0**-24
    i = tl.program_id(1).to(tl.int64)
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < M * P
    j, p = at // P, at % P
    key = tl.load(key_ptr + i * M * P + at, mask=inside, other=0)
    value = searched_distance(key, SCALE_SQUARED, INTEGERS)
    if BOUND:
        slack = tl.load(x_error_ptr + i * P + p, mask=inside, other=0.0)
        slack += tl.load(y_error_ptr + j, mask=inside, other=0.0)
        residuals = 4 * tl.load(x_residual_ptr + i * P + p, mask=inside, other=0.0)
        residuals *= tl.load(y_residual_ptr + j, mask=inside, other=0.0)
        root = tl.sqrt_rn(STRETCH * value + tl.load(error_ptr) + residuals)
        value = root + slack + 8 * unit * root
    tl.store(out_ptr + i * M * P + at, value, mask=inside)


@triton.jit(do_not_specialize=["M", "P"])
def _limit_kernel(
    key_ptr,
    squared_ptr,
    kth_ptr,
    limit_ptr,
    x_error_ptr,
    y_error_ptr,
    error_ptr,
    M,
    P,
    SCALE_SQUARED,
    STRETCH,
    SHRINK,
    INTEGERS: tl.constexpr,
    SELECT: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """STRETCH: 1 + C u. SHRINK: true squares -> units of the search. SELECT: kth_ptr counts."""
    unit: tl.constexpr = 2.0**-24
    i = tl.program_id(1).to(tl.int64)
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < M * P
    j, p = at // P, at % P
    squared = tl.load(squared_ptr + i * M * P + at, mask=inside, other=float("inf"))
    slack = tl.load(x_error_ptr + i * P + p, mask=inside, other=0.0)
    slack += tl.load(y_error_ptr + j, mask=inside, other=0.0)
    error = tl.load(error_ptr)
    wanted = squared < float("inf")
    if SELECT:
        key = tl.load(key_ptr + i * M * P + at, mask=inside, other=0)
        searched = searched_distance(key, SCALE_SQUARED, INTEGERS)
        most = tl.load(kth_ptr + i * P + p, mask=inside, other=0.0)
        kth = tl.sqrt_rn(most) * (1 + 8 * unit)
        unknown = inside & (squared == float("inf")) & (searched < float("inf"))
        wanted = (wanted | unknown) & (lower_bound(searched, error, slack) <= kth)
        # A winner whose distance is unknown is a candidate like others, if nearer than the bound.
        tl.store(key_ptr + i * M * P + at, key | 0x7FFFFFFF, mask=unknown & wanted)
        tl.store(squared_ptr + i * M * P + at, most, mask=unknown & wanted)
        squared = tl.minimum(squared, most)
    distance = tl.sqrt_rn(squared) * STRETCH + slack
    limit = (distance * distance + error) * SHRINK
    limit = tl.where(wanted, limit, float("-inf"))
    tl.store(limit_ptr + i * M * P + at, limit, mask=inside)


def bound_distances(
    keys: Tensor,
    out: Tensor,
    x_errors: Tensor,
    y_errors: Tensor,
    x_residuals: Tensor,
    y_residuals: Tensor,
    error: Tensor,
    scale: float,
    *,
    integers: bool,
    bound: bool,
) -> None:
    """Fill out [N, M, P] float32 with upper bounds on the distances; the rest as above.

    scale: what a value of 1 stands for.
    integers: the search had int8 operands.
    bound: False gives the squared distances of the search, +inf where there is none.
    """
    images, count, patches = keys.shape
    _bound_kernel[(triton.cdiv(count * patches, _BLOCK), images)](
        keys,
        out,
        x_errors,
        y_errors,
        x_residuals,
        y_residuals,
        error,
        count,
        patches,
        scale**2,
        1.0 if integers else TRUNCATION,
        INTEGERS=integers,
        BOUND=bound,
        BLOCK=_BLOCK,
        num_warps=4,
    )


def set_limits(
    keys: Tensor,
    squared: Tensor,
    kth: Tensor | None,
    limits: Tensor,
    x_errors: Tensor,
    y_errors: Tensor,
    error: Tensor,
    scale: float,
    channels: int,
    *,
    integers: bool,
) -> None:
    """Fill limits [N, M, P] float32: the largest search distance of a candidate to be recomputed.

    squared: [N, M, P], the winners' squared distances, +inf where the winner was passed over.
    kth: [N, P], the k-th least of `squared` over the images; None wants all images searched. Where
        a winner was passed over and its image can enter the mean, `squared` becomes kth, which the
        image must go below to enter, and the key names no patch then, so that all are candidates.
    channels: C of the original rows.
    """
    images, count, patches = keys.shape
    _limit_kernel[(triton.cdiv(count * patches, _BLOCK), images)](
        keys,
        squared,
        squared if kth is None else kth,
        limits,
        x_errors,
        y_errors,
        error,
        count,
        patches,
        scale**2,
        # C u covers the sums of `refine`, so that the least float32 sum is never missed.
        1 + channels * _UNIT,
        (1 + 16 * _UNIT) / scale**2,
        INTEGERS=integers,
        SELECT=kth is not None,
        BLOCK=_BLOCK,
        num_warps=4,
    )
