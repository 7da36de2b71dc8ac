"""Two sets of images against each other: one search serves both directions."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ...settings import DEFAULT_OPTIONS, SearchOptions
from . import planning
from .calls import Summaries, refine, search_pairs
from .options import Outputs, SearchSettings
from .rounded_images import as_float32
from .search import Search, prepare


def between(
    a: Tensor, b: Tensor, options: SearchOptions = DEFAULT_OPTIONS
) -> tuple[Tensor, Tensor]:
    """Patch-to-image distances of a [N, P, C] to b [M, Q, C] and back: [N, P, M], [M, Q, N].

    float32, those of `patch_to_image(a, b)` and `patch_to_image(b, a)` to the bit, for one pass
    over the pairs instead of two.
    """
    a, b = as_float32(a), as_float32(b)
    settings = SearchSettings.of(options)
    if options.memory_limit is not None:
        # Half the limit each way: the summaries of both directions exist at once.
        settings = replace(settings, memory_limit=options.memory_limit // 2)
    search = prepare(a, b, len(b), settings)
    there = torch.empty(*a.shape[:2], len(b), dtype=torch.float32, device="cpu")
    back = torch.empty(*b.shape[:2], len(a), dtype=torch.float32, device="cpu")
    for first in range(0, len(a), search.plan.chunk):
        last = min(first + search.plan.chunk, len(a))
        best, mirrored = _first_pass(search, first, last)
        refine(
            search.sides,
            begin=first,
            end=last,
            k_min=0,
            k_max=len(b),
            best=best,
            outputs=Outputs(distances=there),
            row=first,
            counters=search.counters,
            certified=settings.certified,
        )
        part = torch.empty(*b.shape[:2], last - first, dtype=torch.float32, device="cpu")
        refine(
            search.sides.swapped(),
            begin=0,
            end=len(b),
            k_min=0,
            k_max=last - first,
            best=mirrored,
            outputs=Outputs(distances=part),
            row=0,
            counters=search.counters,
            reference_lists=_count(first, last).repeat(len(b), 1),
            certified=settings.certified,
        )
        back[:, :, first:last] = part
    return there, back


def _first_pass(search: Search, first: int, last: int) -> tuple[Summaries, Summaries]:
    """Summaries of the queries [first, last) against all references, and the other way round."""
    n, p = last - first, search.sides.queries.x.shape[1]
    m, q = search.sides.references.x.shape[:2]
    segment = search.plan.segment
    best = _words(n * planning.score_bytes(p, m, q, segment) // 2)
    mirrored = _words(m * planning.score_bytes(q, n, p, segment) // 2)
    results = Summaries(best, first, m), Summaries(mirrored, 0, n)
    i = _count(0, n).repeat_interleave(m)
    j = _count(0, m).repeat(n)
    pairs = torch.stack((i + first, j, j, i), dim=1).contiguous()
    batch = max(64, len(pairs) // 16)
    for at in range(0, len(pairs), batch):  # Python notices Ctrl-C between two batches
        search_pairs(search.sides, pairs[at : at + batch], *results)
    return results


def _count(first: int, last: int) -> Tensor:
    return torch.arange(first, last, dtype=torch.int32, device="cpu")


def _words(count: int) -> Tensor:
    return torch.empty(count, dtype=torch.int16, device="cpu")
