"""The second pass of the certified search: every candidate that the bound cannot exclude.

    list all (i, j, p, q) with s(x[i, p], y[j, q]) <= limits[i, j, p] and q != winner[i, j, p]

s, x, y and norms as in `min_distance`, whose keys [N, M, P] name the winners (they are recomputed
anyway). limits: [N, M, P] float32 in the units of s, -inf where nothing is wanted. Within a batch a
tile again serves both of its images.

Candidates are appended through one counter: their order differs from run to run, and the minimum
that `refine` takes over them does not. What exceeds the room is counted but not stored; the caller
sees that and asks for fewer pairs at a time.

Memory: as `min_distance`, and 12 bytes a candidate. A tile none of whose limits is set returns
before its product.
"""

# mypy: disable-error-code="no-untyped-def,untyped-decorator"

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .devices import arch_of
from .tiles import Config, locate, operand, pick_config, programs, squared_tile, use_descriptors


@triton.jit
def _append(count_ptr, slot_ptr, q_ptr, ROOM, s, limit, index, winner, slot, AXIS: tl.constexpr):
    """List the entries of s within `limit`, the next of every row (AXIS 1) or column at a time.

    s, limit, index and winner broadcast to the tile; slot is a vector along the other axis. Only
    vectors are addressed: a tile of pointers would not fit in registers.
    """
    far = 0x7FFFFFFF
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


@triton.jit
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
        back = (j.to(tl.int64) * ALL + FIRST + i) * Q + q
        limit = tl.load(limit_ptr + slot, mask=p < P, other=float("-inf"))
        highest = tl.max(limit, axis=0)
        if TRIANGLE:
            limit_back = tl.load(limit_ptr + back, mask=q < Q, other=float("-inf"))
            highest = tl.maximum(highest, tl.max(limit_back, axis=0))
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
            # Patches beyond their image are +inf or far beyond any limit.
            winner = (tl.load(key_ptr + slot, mask=p < P, other=0) & 0x7FFFFFFF).to(tl.int32)
            _append(
                count_ptr,
                slot_ptr,
                q_ptr,
                ROOM,
                s,
                limit[:, None],
                q[None, :],
                winner[:, None],
                slot,
                1,
            )
            if TRIANGLE:
                winner = (tl.load(key_ptr + back, mask=q < Q, other=0) & 0x7FFFFFFF).to(tl.int32)
                _append(
                    count_ptr,
                    slot_ptr,
                    q_ptr,
                    ROOM,
                    s,
                    limit_back[None, :],
                    p[:, None],
                    winner[None, :],
                    back,
                    0,
                )


def candidates(
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
    """Slots [L] int64, patches [L] int32 and how many there are: beyond `room` they are lost.

    Arguments as `min_distance`. `room` < 2^31.
    """
    n, p, k = x.shape
    m, q = y.shape[:2]
    chosen = config or pick_config(arch_of(x.device), x.dtype, p, q, k, listing=True)
    tiles = triton.cdiv(p, chosen.BLOCK_P), triton.cdiv(q, chosen.BLOCK_Q)
    tma = use_descriptors(arch_of(x.device), x.dtype, x, y) if descriptors is None else descriptors
    group = min(chosen.GROUP, max(n, m))  # no larger than there are images
    slots = torch.empty(room, dtype=torch.int64, device=x.device)
    patches = torch.empty(room, dtype=torch.int32, device=x.device)
    counter = torch.zeros(1, dtype=torch.int64, device=x.device)
    programs_needed = programs(n, m, *tiles, group, triangle)
    if programs_needed:
        _candidates_kernel[(programs_needed,)](
            operand(x, chosen.BLOCK_P, chosen, tma),
            operand(y, chosen.BLOCK_Q, chosen, tma),
            x_norms,
            y_norms,
            keys,
            limits,
            counter,
            slots,
            patches,
            room,
            n,
            m,
            p,
            q,
            keys.shape[1],
            first,
            K=k,
            INTEGERS=x.dtype == torch.int8,
            DESCRIPTORS=tma,
            TRIANGLE=triangle,
            GROUP=group,
            BLOCK_P=chosen.BLOCK_P,
            BLOCK_Q=chosen.BLOCK_Q,
            BLOCK_K=chosen.BLOCK_K,
            **chosen.launch(),
        )
    count = int(counter)
    return slots[:count], patches[:count], count
