"""Two sets of images against each other: one search serves both directions."""

from __future__ import annotations

import torch
from torch import Tensor

from ...settings import DEFAULT_OPTIONS, SearchOptions
from . import planning
from .operands import prepared
from .search import Outputs, Settings, prepare, refine, search_pairs


def between(
    a: Tensor, b: Tensor, options: SearchOptions = DEFAULT_OPTIONS
) -> tuple[Tensor, Tensor]:
    """Patch-to-image distances of a [N, P, C] to b [M, Q, C] and back: [N, P, M], [M, Q, N].

    float32, those of `patch_to_image(a, b)` and `patch_to_image(b, a)` to the bit, for one pass
    over the pairs instead of two.
    """
    a, b = prepared(a), prepared(b)
    found = torch.empty(*a.shape[:2], len(b)), torch.empty(*b.shape[:2], len(a))
    # Half the limit each way: the scores of both directions are held at once.
    limit = None if options.memory_limit is None else options.memory_limit // 2
    settings = Settings(certified=options.exact, memory_limit=limit)
    search = prepare(a, b, len(b), settings)
    left, right, shape, segment = search.left, search.right, search.shape, search.plan.segment
    for first in range(0, len(a), search.plan.chunk):
        count = min(search.plan.chunk, len(a) - first)
        sizes = (
            count * planning.score_bytes(a.shape[1], len(b), b.shape[1], segment) // 2,
            len(b) * planning.score_bytes(b.shape[1], count, a.shape[1], segment) // 2,
        )
        best, back = (torch.empty(size, dtype=torch.int16) for size in sizes)
        i = torch.arange(count, dtype=torch.int32).repeat_interleave(len(b))
        j = torch.arange(len(b), dtype=torch.int32).repeat(count)
        pairs = torch.stack((i + first, j, j, i), dim=1).contiguous()
        step = max(64, len(pairs) // 16)
        for at in range(0, len(pairs), step):  # Ctrl-C works in between
            part = pairs[at : at + step]
            search_pairs(left, right, shape, part, first, len(b), best, (0, count, back))
        refine(
            left,
            right,
            shape,
            (first, first, first + count),
            None,
            len(b),
            len(b),
            False,
            settings.certified,
            (0, len(b)),
            best,
            Outputs(distances=found[0]),
            first,
            search.counters,
        )
        part_back = torch.empty(*b.shape[:2], count)
        lists = torch.arange(first, first + count, dtype=torch.int32).repeat(len(b), 1)
        refine(
            right,
            left,
            shape,
            (0, 0, len(b)),
            lists,
            len(a),
            count,
            False,
            settings.certified,
            (0, count),
            back,
            Outputs(distances=part_back),
            0,
            search.counters,
        )
        found[1][:, :, first : first + count] = part_back
    return found
