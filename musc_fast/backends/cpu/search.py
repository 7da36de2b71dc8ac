"""The search on the CPU: operands, the pass over all pairs, the refinement, in chunks."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from time import perf_counter

import torch
from torch import Tensor

from ... import _C
from ...progress import Progress
from . import planning, scratch
from .operands import Side, default_isa, strides, words_of
from .space import UNIT, Workload, choose_space

# Between two looks at signals, per thread: operations of the first pass, (patch, image) pairs of
# the second.
_BATCH_OPERATIONS = 4e10
_BATCH_PAIRS = 2e6


@dataclass
class Report:
    """What a search did, for benchmarks: seconds by stage and what the second pass examined."""

    space: int = 0
    scale: float = 0.0
    chunk: int = 0
    segment: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    operations: float = 0.0
    examined: int = 0  # (patch, image) pairs of the second pass
    scanned: int = 0  # segments
    recomputed: int = 0  # distances
    rows: int = 0
    fine: int = 0  # candidates looked at in 12 bits
    rest: int = 0  # and with what the basis leaves out

    def add(self, stage: str, since: float) -> None:
        self.seconds[stage] = self.seconds.get(stage, 0.0) + perf_counter() - since

    def count(self, counters: Tensor) -> None:
        """Take the counters of `_C.refine`."""
        self.examined, self.scanned, self.recomputed, self.rows = counters[:4].tolist()
        self.fine, self.rest = counters[4:].tolist()


@dataclass(frozen=True)
class Settings:
    """How to search; the defaults are the product, the rest is for tests and benchmarks."""

    certified: bool = True
    memory_limit: int | None = None
    progress: Progress | None = None
    isa: str | None = None
    prefix: int | None = None
    chunk: int | None = None
    segment: int | None = None
    report: Report | None = None


@dataclass(frozen=True)
class Outputs:
    """Where results go; None: not wanted. Shapes as the functions of `musc_fast.native` return."""

    means: Tensor | None = None
    distances: Tensor | None = None
    nearest: tuple[Tensor, Tensor, Tensor] | None = None


class Search:
    """Queries [N, P, C] against references [M, Q, C], or, with right None, against each other.

    `lists` [N, K] int32, ascending: the references that each query is compared with; None: all of
    them but itself. What it prepares serves any number of runs.
    """

    def __init__(
        self,
        left: Side,
        right: Side | None,
        plan: planning.Plan,
        settings: Settings,
        *,
        references: int | None = None,
        lists: Tensor | None = None,
    ) -> None:
        others = left if right is None else right
        self.symmetric = right is None
        self.settings, self.plan = settings, plan
        self.references = len(others.x) if references is None else references
        self.left, self.right = left, others
        self.lists = None if lists is None else lists.to(torch.int32).contiguous()
        self.columns = self.references if lists is None else lists.shape[1]
        self.shape = _shape(left, others, plan.segment, self.references)
        self.counters = torch.zeros(6, dtype=torch.int64)

    def run(self, first: int, last: int, k_min: int, k_max: int, outputs: Outputs) -> None:
        """Fill `outputs`, whose row 0 is query `first`, for the queries [first, last)."""
        patches, other_patches = self.left.x.shape[1], self.right.x.shape[1]
        per_image = planning.score_bytes(patches, self.columns, other_patches, self.plan.segment)
        chunk = min(self.plan.chunk, last - first)
        with scratch.lent(chunk * per_image // 2, torch.int16) as best:
            for begin in range(first, last, chunk):
                end = min(begin + chunk, last)
                self._run_chunk((first, begin, end, last), (k_min, k_max), outputs, best)

    def _run_chunk(
        self,
        images: tuple[int, int, int, int],
        k: tuple[int, int],
        outputs: Outputs,
        best: Tensor,
    ) -> None:
        """The queries [begin, end) of images (first, begin, end, last)."""
        first, begin, last_of_chunk, last = images
        report = self.settings.report or Report()
        patches, other_patches = self.left.x.shape[1], self.right.x.shape[1]
        operations = 2.0 * self.left.space.channels * patches * other_patches
        threads = torch.get_num_threads()
        batch = max(threads, int(_BATCH_OPERATIONS * threads / max(1.0, operations)))
        start = perf_counter()
        step = max(1, batch // self.columns)  # queries between two looks at signals
        for at in range(begin, last_of_chunk, step):
            end = min(at + step, last_of_chunk)
            pairs = self._pairs(at, end, begin, last_of_chunk)
            if len(pairs):
                search_pairs(self.left, self.right, self.shape, pairs, begin, self.columns, best)
            report.operations += operations * len(pairs)
            self._tell(begin - first + (end - begin) / 2, last - first)
        report.add("search", start)
        start = perf_counter()
        half = (last_of_chunk - begin) / 2
        step = max(2 * threads, int(_BATCH_PAIRS * threads / (patches * self.columns)))
        for at in range(begin, last_of_chunk, step):
            end = min(at + step, last_of_chunk)
            self._refine((begin, at, end), *k, best, outputs, first)
            self._tell(begin - first + half + (end - begin) / 2, last - first)
        report.add("refine", start)
        report.count(self.counters)

    def _pairs(self, begin: int, end: int, first: int, last: int) -> Tensor:
        """The pairs of queries [begin, end) in the chunk [first, last): `PairsArgs`."""
        count = end - begin
        queries = torch.arange(begin, end, dtype=torch.int32)
        columns = torch.arange(self.columns, dtype=torch.int32)
        i = queries.repeat_interleave(self.columns)
        column = columns.repeat(count)
        j = column if self.lists is None else self.lists[begin:end].reshape(-1)
        back = torch.full_like(i, -1)
        pairs = torch.stack((i, column, j, back), dim=1)
        if not self.symmetric:
            return pairs
        inside = (j >= first) & (j < last)
        if self.lists is None:
            mirrored, at = inside, i
        else:
            mirrored, at = self._listed_back(i, j)
            mirrored &= inside
        pairs[:, 3] = torch.where(mirrored, at, back)
        return pairs[~mirrored | (i < j)].contiguous()

    def _listed_back(self, i: Tensor, j: Tensor) -> tuple[Tensor, Tensor]:
        """Whether i is among the references of j, and at which column."""
        assert self.lists is not None
        rows = self.lists[j.long()]  # [pairs, K]
        at = torch.searchsorted(rows, i[:, None])[:, 0].clamp(max=self.columns - 1)
        return rows.gather(1, at[:, None])[:, 0] == i, at.to(torch.int32)

    def _tell(self, done: float, total: int) -> None:
        if self.settings.progress is not None:
            self.settings.progress(int(done * 100 / total), 100)

    def _refine(
        self,
        images: tuple[int, int, int],
        k_min: int,
        k_max: int,
        best: Tensor,
        outputs: Outputs,
        origin: int,
    ) -> None:
        _, begin, end = images
        refine(
            self.left,
            self.right,
            self.shape,
            images,
            None if self.lists is None else self.lists[begin:end],
            self.references,
            self.columns,
            self.symmetric,
            self.settings.certified,
            (k_min, k_max),
            best,
            outputs,
            begin - origin,
            self.counters,
        )


def search_pairs(
    left: Side,
    right: Side,
    shape: _C.SearchShape,
    pairs: Tensor,
    first: int,
    columns: int,
    best: Tensor,
    back: tuple[int, int, Tensor] | None = None,
) -> None:
    """The first pass over `pairs`; `back` is (back_first, back_columns, back) of `PairsArgs`."""
    back_first, back_columns, other = back or (first, columns, best)
    _C.search_pairs(
        isa=left.isa,
        queries=left.handle,
        references=right.handle,
        shape=shape,
        pairs=pairs.data_ptr(),
        pair_count=len(pairs),
        first=first,
        columns=columns,
        best=best.data_ptr(),
        back_first=back_first,
        back_columns=back_columns,
        back=other.data_ptr(),
    )


def refine(
    left: Side,
    right: Side,
    shape: _C.SearchShape,
    images: tuple[int, int, int],
    lists: Tensor | None,
    references: int,
    columns: int,
    symmetric: bool,
    certified: bool,
    k: tuple[int, int],
    best: Tensor,
    outputs: Outputs,
    row: int,
    counters: Tensor,
) -> None:
    """Finish the queries [begin, end) of images (first, begin, end), first being that of `best`.

    `row` of the outputs is query `begin`; `lists` are those of [begin, end).
    """

    def at(tensor: Tensor | None) -> int:
        return 0 if tensor is None else tensor[row].data_ptr()

    nearest = outputs.nearest or (None, None, None)
    _C.refine(
        isa=left.isa,
        queries=left.handle,
        references=right.handle,
        shape=shape,
        first=images[0],
        begin=images[1],
        end=images[2],
        reference_count=references,
        columns=columns,
        images=0 if lists is None else lists.data_ptr(),
        symmetric=symmetric,
        certified=certified,
        k_min=k[0],
        k_max=k[1],
        best=best.data_ptr(),
        means=at(outputs.means),
        distances=at(outputs.distances),
        nearest=at(nearest[0]),
        nearest_image=at(nearest[1]),
        nearest_patch=at(nearest[2]),
        counters=counters.data_ptr(),
    )


def _shape(left: Side, right: Side, segment: int, references: int) -> _C.SearchShape:
    space, sides = left.space, {left: len(left.x), right: references}
    # |q_x - q_y|^2 / 2 <= |q_x|^2 + |q_y|^2 must fit 16 bits.
    largest = max(side.largest(images) for side, images in sides.items())
    fine_stride, rest_stride = strides(space)
    return _C.SearchShape(
        words=left.words,
        channels=left.x.shape[2],
        segment=segment,
        shift=max(0, (2 * largest).bit_length() - 16),
        scale=space.scale,
        stretch=1.0 + space.basis_error + (left.x.shape[2] / 8 + 64) * UNIT,
        threads=torch.get_num_threads(),
        fine_stride=fine_stride,
        rest_stride=rest_stride,
        fine_scale=space.fine_scale,
        rest_scale=space.rest_scale,
        largest_rho=max(side.largest_rho(images) for side, images in sides.items()),
        ratio=space.ratio,
    )


def prepare(
    z: Tensor,
    references: Tensor | None,
    k_max: int,
    settings: Settings,
    lists: Tensor | None = None,
) -> Search:
    """Choose the space and the plan, and round z [N, P, C] and references [M, P2, C].

    z and references as `sides.prepared` returns them.
    """
    report = settings.report or Report()
    isa = settings.isa or default_isa()
    others = z if references is None else references
    columns = others.shape[0] if lists is None else lists.shape[1]
    if settings.memory_limit is not None:
        scratch.release()  # What is kept would come on top.
    start = perf_counter()
    work = Workload(columns, references is None, k_max, settings.segment or planning.SEGMENTS[3])
    space = choose_space(z, references, work, settings.prefix, isa=isa)
    plan = planning.plan_search(
        z.shape[0],
        z.shape[1],
        others.shape[0],
        others.shape[1],
        words_of(space, isa),
        2 * strides(space)[0] + strides(space)[1],
        columns=columns,
        symmetric=references is None,
        memory_limit=settings.memory_limit,
        threads=torch.get_num_threads(),
    )
    plan = replace(
        plan, chunk=settings.chunk or plan.chunk, segment=settings.segment or plan.segment
    )
    report.space, report.scale = space.channels, space.scale
    report.chunk, report.segment = plan.chunk, plan.segment
    report.add("space", start)
    start = perf_counter()
    left = Side(z, space, isa, mapped=plan.mapped).fill()
    right = None
    if references is not None:
        right = Side(references, space, isa, mapped=plan.mapped).fill()
    search = Search(left, right, plan, settings, lists=lists)
    report.add("round", start)
    return search


def run_search(
    z: Tensor,
    references: Tensor | None,
    k_min: int,
    k_max: int,
    outputs: Outputs,
    settings: Settings,
    lists: Tensor | None = None,
) -> None:
    """Fill `outputs` for z [N, P, C] against references [M, P2, C], or against itself."""
    search = prepare(z, references, k_max, settings, lists)
    search.run(0, z.shape[0], k_min, k_max, outputs)
