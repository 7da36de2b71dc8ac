"""The second pass of the certified search: every candidate that the bound cannot exclude.

    list all (i, j, p, q) with s(x[i, p], y[j, q]) <= limits[i, j, p] and q != winner[i, j, p]

s, x, y and norms are as in `min_distance`, whose keys [N, M, P] name the winners (winners are
recomputed in any case). limits: [N, M, P] float32 in the units of s, -inf where no candidate is
wanted. Within a batch a tile serves both of its images, as in `min_distance`.

Candidates are appended through one counter. Their order differs from run to run; the minimum that
`recompute` takes over them does not. Candidates beyond the room are counted but not stored; the
caller compares the count with the room and then asks for fewer pairs at a time.

Memory: as `min_distance`, and 12 bytes a candidate. A tile all of whose limits are -inf returns
before its product.
"""

# mypy: disable-error-code="no-untyped-def,untyped-decorator"

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .devices import arch_of
from .pairs import plan_pairs
from .tiles import Config, locate, pick_config, squared_tile


@triton.jit
def _append(
    count_ptr,
    slot_ptr,
    q_ptr,
    key_ptr,
    ROOM,
    s,
    limit,
    slot,
    inside,
    index,
    AXIS: tl.constexpr,
):
    """List the entries of s within `limit`, but for winners: one of every row or column a turn.

    AXIS 1: limit, slot and inside (whether there is such a patch) belong to rows, index to columns;
    AXIS 0: the reverse. Memory is addressed by vectors alone, since a tile of pointers would not
    fit in registers.
    """
    far = 0x7FFFFFFF
    winner = (tl.load(key_ptr + slot, mask=inside, other=0) & 0x7FFFFFFF).to(tl.int32)
    limit = tl.expand_dims(limit, AXIS)
    winner = tl.expand_dims(winner, AXIS)
    index = tl.expand_dims(index, 1 - AXIS)
    following = tl.min(tl.where((s <= limit) & (index != winner), index, far), axis=AXIS)
    while tl.min(following, axis=0) < far:
        some = following < far
        one = tl.full(following.shape, 1, tl.int64)
        at = tl.atomic_add(count_ptr + tl.zeros_like(following), one, mask=some, sem="relaxed")
        fits = some & (at < ROOM)
        tl.store(slot_ptr + at, slot, mask=fits)
        tl.store(q_ptr + at, following, mask=fits)
        later = (s <= limit) & (index != winner) & (index > tl.expand_dims(following, AXIS))
        following = tl.min(tl.where(later, index, far), axis=AXIS)


@triton.jit(do_not_specialize=["ROOM", "N", "M", "P", "Q", "ALL", "FIRST"])
def _candidates_kernel(
    x_ptr,
    y_ptr,
    x_norm_ptr,
    y_norm_ptr,
    key_ptr,
    limit_ptr,
    count_ptr,
    slot_ptr,
    q_ptr,
    ROOM,
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
    GROUP: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    i, j, tile_p, tile_q, valid = locate(
        tl.program_id(0), N, M, tl.cdiv(P, BLOCK_P), tl.cdiv(Q, BLOCK_Q), GROUP, TRIANGLE
    )
    if valid:
        p = tile_p * BLOCK_P + tl.arange(0, BLOCK_P)
        q = tile_q * BLOCK_Q + tl.arange(0, BLOCK_Q)
        slot = (i.to(tl.int64) * ALL + FIRST + j) * P + p
        reverse_slot = (j.to(tl.int64) * ALL + FIRST + i) * Q + q
        limit = tl.load(limit_ptr + slot, mask=p < P, other=float("-inf"))
        highest = tl.max(limit, axis=0)
        if TRIANGLE:
            reverse_limit = tl.load(limit_ptr + reverse_slot, mask=q < Q, other=float("-inf"))
            highest = tl.maximum(highest, tl.max(reverse_limit, axis=0))
        if highest > float("-inf"):
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
                False,
                BLOCK_P,
                BLOCK_Q,
                BLOCK_K,
            )
            s = s.to(tl.float32)
            # Entries of patches beyond their image are +inf or far beyond any limit.
            _append(count_ptr, slot_ptr, q_ptr, key_ptr, ROOM, s, limit, slot, p < P, q, 1)
            if TRIANGLE:
                _append(
                    count_ptr,
                    slot_ptr,
                    q_ptr,
                    key_ptr,
                    ROOM,
                    s,
                    reverse_limit,
                    reverse_slot,
                    q < Q,
                    p,
                    0,
                )


def list_candidates(
    x: Tensor,
    x_norms: Tensor,
    y: Tensor,
    y_norms: Tensor,
    keys: Tensor,
    limits: Tensor,
    room: int,
    first: int = 0,
    *,
    triangle: bool = False,
    config: Config | None = None,
    descriptors: bool | None = None,
) -> tuple[Tensor, Tensor, int]:
    """Slots [L] int64 and patches [L] int32 of the candidates, and how many there are.

    limits: [N, ALL, P] float32 as `keys`.
    room: how many candidates can be stored, less than 2^31; more are counted and lost.

    The other arguments are those of `find_nearest`.
    """
    config = config or pick_config(
        arch_of(x.device), x.dtype, x.shape[1], y.shape[1], x.shape[2], listing=True
    )
    launch = plan_pairs(x, y, config, triangle=triangle, descriptors=descriptors)
    slots = torch.empty(room, dtype=torch.int64, device=x.device)
    patches = torch.empty(room, dtype=torch.int32, device=x.device)
    counter = torch.zeros(1, dtype=torch.int64, device=x.device)
    launch.run(
        _candidates_kernel,
        x_norms,
        y_norms,
        keys,
        first,
        limits,
        counter,
        slots,
        patches,
        room,
        DESCRIPTORS=launch.descriptors,
    )
    count = int(counter)
    return slots[:count], patches[:count], count
