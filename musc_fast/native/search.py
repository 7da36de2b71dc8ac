"""The search on the CPU: operands, the pass over all pairs, the refinement, in chunks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from time import perf_counter

import torch
from torch import Tensor

from musc_fast import _C, planning

from .space import UNIT, Space, Workload, choose_space

Progress = Callable[[int, int], None]
_BATCH_OPERATIONS = 4e10  # of the first pass between two looks at signals, per thread


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
class _Side:
    """The rounded operands of [images, rows, C]; holds the memory that `handle` points into."""

    x: Tensor
    tensors: tuple[Tensor, ...]
    handle: _C.Operands
    largest: int  # max over rows of |q|^2


@dataclass(frozen=True)
class Outputs:
    """Where results go; None: not wanted. Shapes as the functions of `musc_fast.native` return."""

    means: Tensor | None = None
    distances: Tensor | None = None
    nearest: tuple[Tensor, Tensor, Tensor] | None = None


def default_isa() -> str:
    """The best instruction set that this processor and build have."""
    return next(iter(_C.instruction_sets()))


def prepared(z: Tensor) -> Tensor:
    """z as contiguous float32 on the CPU, itself where it is that already."""
    return z.detach().to(device="cpu", dtype=torch.float32).contiguous()


def _strides(space: Space) -> tuple[int, int]:
    """Elements of a fine row and of a rest row, whole vectors; 0 where the space has none."""
    fine = -(-space.channels // 32) * 32 if space.fine_scale else 0
    return fine, 0 if space.back is None else -(-space.mean.shape[0] // 64) * 64


def _side(z: Tensor, space: Space, isa: str, words: int) -> _Side:
    images, rows, channels = z.shape
    padded = planning.padded(rows)
    left = torch.empty(images * padded * words, dtype=torch.int32)
    right = torch.empty_like(left)
    inits = torch.empty(2, images * padded, dtype=torch.int32)
    bounds = torch.empty(images, rows, 4, dtype=torch.float32)
    fine_stride, rest_stride = _strides(space)
    fine = torch.empty(images * rows * fine_stride, dtype=torch.int16)
    rest = torch.empty(images * rows * rest_stride, dtype=torch.int8)
    for first in range(0, images, 64):  # Ctrl-C works in between
        count = min(64, images - first)
        at = first * padded * 4
        _C.quantise(
            isa=isa,
            x=z[first].data_ptr(),
            mean=space.mean.data_ptr(),
            basis=0 if space.basis is None else space.basis.data_ptr(),
            signs=0 if space.signs is None else space.signs.data_ptr(),
            images=count,
            rows=rows,
            channels=channels,
            prefix=space.prefix,
            tail=space.tail,
            tail_centre=space.tail_centre,
            scale=space.scale,
            basis_error=space.basis_error,
            words=words,
            padded=padded,
            left=left.data_ptr() + at * words,
            right=right.data_ptr() + at * words,
            left_init=inits[0].data_ptr() + at,
            right_init=inits[1].data_ptr() + at,
            bounds=bounds[first].data_ptr(),
            threads=torch.get_num_threads(),
            fine=fine.data_ptr() + 2 * first * rows * fine_stride if fine_stride else 0,
            fine_stride=fine_stride,
            fine_scale=space.fine_scale,
            back=0 if space.back is None else space.back.data_ptr(),
            rest=rest.data_ptr() + first * rows * rest_stride if rest_stride else 0,
            rest_stride=rest_stride,
            rest_scale=space.rest_scale,
        )
    handle = _C.Operands(
        left=left.data_ptr(),
        right=right.data_ptr(),
        left_init=inits[0].data_ptr(),
        right_init=inits[1].data_ptr(),
        bounds=bounds.data_ptr(),
        x=z.data_ptr(),
        rows=rows,
        padded=padded,
        fine=fine.data_ptr(),
        rest=rest.data_ptr(),
    )
    # Padding has inits far below; rows are whole images, so look at the real ones.
    half = -int(inits[1].view(images, padded)[:, :rows].min())
    held = (left, right, inits, bounds, fine, rest)
    return _Side(z, held, handle, 2 * half + 1)


def _pairs(first: int, count: int, references: int, symmetric: bool) -> Tensor:
    """The pairs of images to search for queries [first, first + count), [pairs, 2] int32."""
    i = torch.arange(first, first + count, dtype=torch.int32)
    j = torch.arange(references, dtype=torch.int32)
    grid = torch.cartesian_prod(i, j).view(-1, 2)
    if symmetric:
        inside = (grid[:, 1] >= first) & (grid[:, 1] < first + count)
        grid = grid[~inside | (grid[:, 0] < grid[:, 1])]
    return grid.contiguous()


def run_search(
    z: Tensor,
    references: Tensor | None,
    k_min: int,
    k_max: int,
    outputs: Outputs,
    settings: Settings,
) -> None:
    """Fill `outputs` for z [N, P, C] against references [M, P2, C], or against itself.

    z and references as `prepared` returns them.
    """
    report = settings.report or Report()
    symmetric = references is None
    others = z if references is None else references
    images, patches, channels = z.shape
    count, other_patches = others.shape[:2]
    isa = settings.isa or default_isa()
    elements = _C.instruction_sets().get(isa)
    if elements is None:
        raise ValueError(f"this processor or build has no instruction set {isa!r}")
    threads = torch.get_num_threads()

    start = perf_counter()
    work = Workload(count, symmetric, k_max, settings.segment or planning.SEGMENTS[1])
    space = choose_space(z, references, work, settings.prefix)
    words = -(-space.channels // elements)
    plan = planning.plan_search(
        images,
        patches,
        count,
        other_patches,
        words,
        2 * _strides(space)[0] + _strides(space)[1],
        symmetric=symmetric,
        memory_limit=settings.memory_limit,
    )
    chunk, segment = settings.chunk or plan.chunk, settings.segment or plan.segment
    report.space, report.scale = space.channels, space.scale
    report.chunk, report.segment = chunk, segment
    report.add("space", start)

    start = perf_counter()
    left = _side(z, space, isa, words)
    right = left if references is None else _side(references, space, isa, words)
    # |q_x - q_y|^2 / 2 <= |q_x|^2 + |q_y|^2 must fit 16 bits.
    shift = max(0, (left.largest + right.largest).bit_length() - 16)
    shape = _C.SearchShape(
        words=words,
        channels=channels,
        segment=segment,
        shift=shift,
        scale=space.scale,
        stretch=1.0 + space.basis_error + (channels / 8 + 64) * UNIT,
        threads=threads,
        fine_stride=_strides(space)[0],
        rest_stride=_strides(space)[1],
        prefix=space.prefix,
        fine_scale=space.fine_scale,
        rest_scale=space.rest_scale,
    )
    report.add("round", start)

    per_image = planning.score_bytes(patches, count, other_patches, segment) // 2
    best = torch.empty(chunk * per_image, dtype=torch.int16)
    operations = 2.0 * space.channels * patches * other_patches
    batch = max(threads, int(_BATCH_OPERATIONS * threads / max(1.0, operations)))
    counters = torch.zeros(6, dtype=torch.int64)
    for first in range(0, images, chunk):
        size = min(chunk, images - first)
        pairs = _pairs(first, size, count, symmetric)
        start = perf_counter()
        for at in range(0, len(pairs), batch):
            part = pairs[at : at + batch]
            _C.search_pairs(
                isa=isa,
                queries=left.handle,
                references=right.handle,
                shape=shape,
                pairs=part.data_ptr(),
                pair_count=len(part),
                first=first,
                count=size,
                reference_count=count,
                symmetric=symmetric,
                best=best.data_ptr(),
            )
            _tell(settings.progress, first + size * (at + len(part)) / len(pairs) / 2, images)
        report.operations += operations * len(pairs)
        report.add("search", start)
        start = perf_counter()
        step = max(1, 2 * threads)
        for begin in range(first, first + size, step):
            end = min(begin + step, first + size)
            _refine(
                isa, left, right, shape, first, begin, end, count, symmetric, k_min, k_max,
                best, outputs, counters, settings.certified,
            )  # fmt: skip
            _tell(settings.progress, first + size / 2 + (end - first) / 2, images)
        report.add("refine", start)
    report.examined, report.scanned, report.recomputed, report.rows = counters[:4].tolist()
    report.fine, report.rest = counters[4:].tolist()


def _tell(progress: Progress | None, done: float, total: int) -> None:
    if progress is not None:
        progress(int(done * 100 / total), 100)


def _refine(
    isa: str,
    left: _Side,
    right: _Side,
    shape: _C.SearchShape,
    first: int,
    begin: int,
    end: int,
    count: int,
    symmetric: bool,
    k_min: int,
    k_max: int,
    best: Tensor,
    outputs: Outputs,
    counters: Tensor,
    certified: bool,
) -> None:
    """Finish the query images [begin, end)."""

    def at(tensor: Tensor | None) -> int:
        return 0 if tensor is None else tensor[begin].data_ptr()

    nearest = outputs.nearest or (None, None, None)
    _C.refine(
        isa=isa,
        queries=left.handle,
        references=right.handle,
        shape=shape,
        first=first,
        begin=begin,
        end=end,
        reference_count=count,
        symmetric=symmetric,
        certified=certified,
        k_min=k_min,
        k_max=k_max,
        best=best.data_ptr(),
        means=at(outputs.means),
        distances=at(outputs.distances),
        nearest=at(nearest[0]),
        nearest_image=at(nearest[1]),
        nearest_patch=at(nearest[2]),
        counters=counters.data_ptr(),
    )
