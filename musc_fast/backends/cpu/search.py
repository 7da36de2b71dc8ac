"""The search on the CPU: rounding, the first pass over all pairs, the second pass, in chunks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from time import perf_counter

import torch
from torch import Tensor

from ... import _C
from . import planning, scratch
from .calls import Sides, Summaries, refine, search_pairs
from .costs import Workload
from .options import Outputs, SearchSettings, SearchStatistics
from .rounded_images import RoundedImages, default_isa, words_of
from .space import UNIT, choose_space

# Work of one C++ call for each thread (about 0.1 s), after which Python can notice Ctrl-C:
# operations of the first pass, (patch, image) pairs of the second.
_BATCH_OPERATIONS = 4e10
_BATCH_PAIRS = 2e6


class Search:
    """Queries [N, P, C] against references [M, Q, C], or, with references None, each other.

    references: may be more images than `reference_count`, of which the first ones count.
    reference_lists: [N, K] int32, ascending, the references that each query is compared with; None:
        all of them, except the query itself.

    What it prepares serves any number of runs.
    """

    def __init__(
        self,
        queries: RoundedImages,
        references: RoundedImages | None,
        plan: planning.Plan,
        settings: SearchSettings,
        *,
        reference_count: int | None = None,
        reference_lists: Tensor | None = None,
    ) -> None:
        others = queries if references is None else references
        count = len(others.x) if reference_count is None else reference_count
        self.symmetric = references is None
        self.settings, self.plan = settings, plan
        self.sides = Sides(queries, others, shape_of(queries, others, plan.segment, count))
        self.reference_lists, self.columns = None, count
        if reference_lists is not None:
            self.reference_lists = reference_lists.to(torch.int32).contiguous()
            self.columns = reference_lists.shape[1]
        self.counters = _C.Counters()
        self.statistics = settings.statistics or SearchStatistics()

    def run(self, first: int, last: int, k_min: int, k_max: int, outputs: Outputs) -> None:
        """Fill `outputs`, whose row 0 is query `first`, for the queries [first, last)."""
        patches = self.sides.queries.x.shape[1]
        per_image = planning.score_bytes(
            patches, self.columns, self.sides.references.x.shape[1], self.plan.segment
        )
        chunk = min(self.plan.chunk, last - first)
        with scratch.lent(chunk * per_image // 2, torch.int16) as data:
            for begin in range(first, last, chunk):
                end = min(begin + chunk, last)
                best = Summaries(data, begin, self.columns)
                # A chunk's progress is that of its queries: one half for each pass.
                start = perf_counter()
                for done in self._first_pass(begin, end, best):
                    self._report_progress(begin - first + done / 2, last - first)
                self.statistics.add("search", start)
                start = perf_counter()
                for done in self._second_pass(begin, end, k_min, k_max, best, outputs, first):
                    half = (end - begin) / 2
                    self._report_progress(begin - first + half + done / 2, last - first)
                self.statistics.add("refine", start)
                self.statistics.count(self.counters)

    def _first_pass(self, begin: int, end: int, best: Summaries) -> Iterator[int]:
        """Fill `best` for the chunk of queries [begin, end); yields the queries done so far."""
        queries, references = self.sides.queries, self.sides.references
        operations = 2.0 * queries.space.channels * queries.x.shape[1] * references.x.shape[1]
        threads = torch.get_num_threads()
        batch = max(threads, int(_BATCH_OPERATIONS * threads / max(1.0, operations)))
        stride = max(1, batch // self.columns)
        for at in range(begin, end, stride):
            stop = min(at + stride, end)
            pairs = self._pairs(at, stop, begin, end)
            if len(pairs):
                search_pairs(self.sides, pairs, best, best)
            self.statistics.operations += operations * len(pairs)
            yield stop - begin

    def _second_pass(
        self,
        begin: int,
        end: int,
        k_min: int,
        k_max: int,
        best: Summaries,
        outputs: Outputs,
        origin: int,
    ) -> Iterator[int]:
        """Finish the queries [begin, end); yields the queries done so far.

        origin: the query whose results are row 0 of `outputs`.
        """
        threads, patches = torch.get_num_threads(), self.sides.queries.x.shape[1]
        stride = max(2 * threads, int(_BATCH_PAIRS * threads / (patches * self.columns)))
        for at in range(begin, end, stride):
            stop = min(at + stride, end)
            lists = self.reference_lists
            refine(
                self.sides,
                begin=at,
                end=stop,
                k_min=k_min,
                k_max=k_max,
                best=best,
                outputs=outputs,
                row=at - origin,
                counters=self.counters,
                reference_lists=None if lists is None else lists[at:stop],
                symmetric=self.symmetric,
                certified=self.settings.certified,
            )
            yield stop - begin

    def _pairs(self, begin: int, end: int, first: int, last: int) -> Tensor:
        """The pairs of queries [begin, end) in the chunk [first, last): `PairsArgs` in csrc."""
        count = end - begin
        queries = torch.arange(begin, end, dtype=torch.int32, device="cpu")
        columns = torch.arange(self.columns, dtype=torch.int32, device="cpu")
        i = queries.repeat_interleave(self.columns)
        column = columns.repeat(count)
        lists = self.reference_lists
        j = column if lists is None else lists[begin:end].reshape(-1)
        none = torch.full_like(i, -1)
        pairs = torch.stack((i, column, j, none), dim=1)
        if not self.symmetric:
            return pairs
        # Both images of a pair lie in the chunk: one tile serves both, and i < j does it.
        mirrored, at = (j >= first) & (j < last), i
        if lists is not None:
            listed, at = self._mirrored_column(lists, i, j)
            mirrored &= listed
        pairs[:, 3] = torch.where(mirrored, at, none)
        return pairs[~mirrored | (i < j)].contiguous()

    def _mirrored_column(self, lists: Tensor, i: Tensor, j: Tensor) -> tuple[Tensor, Tensor]:
        """Whether i is among the references of j, and its column there."""
        rows = lists[j.long()]  # [pairs, K]
        at = torch.searchsorted(rows, i[:, None])[:, 0].clamp(max=self.columns - 1)
        return rows.gather(1, at[:, None])[:, 0] == i, at.to(torch.int32)

    def _report_progress(self, done: float, total: int) -> None:
        if self.settings.on_progress is not None:
            self.settings.on_progress(int(done * 100 / total), 100)


def shape_of(
    queries: RoundedImages, references: RoundedImages, segment: int, count: int
) -> _C.SearchShape:
    """The sizes and scales of a search; the first `count` images are the references."""
    space, sides = queries.space, {queries: len(queries.x), references: count}
    # |q_x - q_y|^2 / 2 <= |q_x|^2 + |q_y|^2 must fit 16 bits.
    largest = max(side.largest(images) for side, images in sides.items())
    channels = queries.x.shape[2]
    return _C.SearchShape(
        words=queries.words,
        channels=channels,
        segment=segment,
        shift=max(0, (2 * largest).bit_length() - 16),
        scale=space.scale,
        stretch=1.0 + space.basis_error + (channels / 8 + 64) * UNIT,
        threads=torch.get_num_threads(),
        fine_stride=space.fine_stride,
        rest_stride=space.rest_stride,
        fine_scale=space.fine_scale,
        rest_scale=space.rest_scale,
        largest_rho=max(side.largest_rho(images) for side, images in sides.items()),
        ratio=space.ratio,
    )


def prepare(
    z: Tensor,
    references: Tensor | None,
    k_max: int,
    settings: SearchSettings,
    lists: Tensor | None = None,
) -> Search:
    """Choose the space and the plan, and round z [N, P, C] and references [M, Q, C].

    z and references: as `operands.as_float32` returns them.
    lists: the `reference_lists` of the search.
    """
    statistics = settings.statistics or SearchStatistics()
    isa = settings.isa or default_isa()
    others = z if references is None else references
    columns = others.shape[0] if lists is None else lists.shape[1]
    if settings.memory_limit is not None:
        scratch.release()  # its memory would come on top of the limit
    start = perf_counter()
    work = Workload(
        references=columns,
        symmetric=references is None,
        k_max=k_max,
        segment=settings.segment or planning.LONG_SEGMENT,
    )
    space = choose_space(z, references, work, settings.prefix, isa=isa)
    plan = planning.plan_search(
        images=z.shape[0],
        patches=z.shape[1],
        references=others.shape[0],
        reference_patches=others.shape[1],
        words=words_of(space, isa),
        extra=space.closer_bytes,
        columns=columns,
        symmetric=references is None,
        memory_limit=settings.memory_limit,
        threads=torch.get_num_threads(),
    )
    plan = replace(
        plan, chunk=settings.chunk or plan.chunk, segment=settings.segment or plan.segment
    )
    statistics.space, statistics.scale = space.channels, space.scale
    statistics.chunk, statistics.segment = plan.chunk, plan.segment
    statistics.add("space", start)
    start = perf_counter()
    queries = RoundedImages(z, space, isa, mapped=plan.mapped).fill()
    rounded = None
    if references is not None:
        rounded = RoundedImages(references, space, isa, mapped=plan.mapped).fill()
    search = Search(queries, rounded, plan, settings, reference_lists=lists)
    statistics.add("round", start)
    return search


def run_search(
    z: Tensor,
    references: Tensor | None,
    k_min: int,
    k_max: int,
    outputs: Outputs,
    settings: SearchSettings,
    lists: Tensor | None = None,
) -> None:
    """Fill `outputs` for z [N, P, C] against references [M, Q, C], or against itself."""
    search = prepare(z, references, k_max, settings, lists)
    search.run(0, z.shape[0], k_min, k_max, outputs)
