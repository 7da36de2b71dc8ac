"""The Triton backend for CUDA GPUs: `musc_fast.kernels` and the certified search on the host.

The search of a chunk of query images against all references:

1. Operands are rounded (`operands`: float16, or int8 in a principal subspace) and `min_distance`
   (`resident` for few channels) finds the nearest candidate of every (patch, image).
2. Bounds on the distance decide which images can enter the interval mean of a patch; for those
   alone, `refine` recomputes the nearest candidate from the original rows.
3. `precision="exact"`: `candidates` lists whatever the certificate of the rounding cannot exclude
   against that distance, and `refine` lowers it. The result is the least sum((x - y)^2), float32,
   over all patches of an image, so it depends on nothing chosen here: not on the operands, the
   chunk, or the order of launches. `"fast"` leaves this step out.
4. `interval_mean` selects on squared distances and averages their roots.

Memory beyond input and output: the operands, 17 bytes a (patch, image) of the chunk, and room for
lists; `device_planning` chooses the chunk. Tensors in host memory are searched on the current GPU:
their operands stay there, their original rows pass in blocks (`streaming`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...errors import BackendError
from ...kernels import candidates as _candidates
from ...kernels import interval_mean as _interval_mean
from ...kernels import lnamd as _lnamd
from ...kernels import min_distance as _min_distance
from ...kernels import min_distance_few_channels as _resident
from ...kernels import quantise as _quantise
from ...kernels import refine as _refine
from ...kernels.devices import arch_of, int8_gain
from ...settings import DEFAULT_OPTIONS, SearchOptions
from ..defaults import with_defaults
from ..rounding import UNIT, Space, choose_space, fit_space, ieee_products, project
from . import planning as device_planning
from .rows import Rows


def search_device(z: Tensor) -> torch.device:
    """Where z is searched: on its own GPU, from host memory on the current one."""
    if z.device.type == "cpu" and torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    return z.device


def _current(device: torch.device) -> AbstractContextManager[Any]:
    """Kernels are launched on the current device."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def lnamd(tokens: Tensor, grid: tuple[int, int], degrees: Sequence[int]) -> list[Tensor]:
    """See `reference.lnamd`; results float32 beside the tokens, image groups at a time."""
    device = search_device(tokens)
    results = [
        torch.empty(tokens.shape, dtype=torch.float32, device=tokens.device) for _ in degrees
    ]
    n, p, c = tokens.shape
    group = max(1, device_planning.GROUP_BYTES // (4 * p * c))
    for first in range(0, n, n if device == tokens.device else group):
        part = tokens[first : n if device == tokens.device else first + group].to(device)
        if part.dtype == torch.float64:
            part = part.float()
        if part.stride(2) != 1:
            part = part.contiguous()
        with _current(device):
            found: list[Tensor] = _lnamd.lnamd(part, grid, degrees)
        if device == tokens.device:
            return found
        for result, z in zip(results, found, strict=True):
            result[first : first + group] = z
    return results


def interval_mean(distances: Tensor, k_min: int, k_max: int) -> Tensor:
    """See `reference.interval_mean`; [N, P, M] -> [N, P] float32."""
    device = search_device(distances)
    rows = distances.float().to(device)
    with _current(device):
        means: Tensor = _interval_mean.interval_mean(rows, k_min, k_max)
    return means.to(distances.device)


def patch_to_image(
    z: Tensor,
    references: Tensor | None = None,
    options: SearchOptions = DEFAULT_OPTIONS,
) -> Tensor:
    """See `reference.patch_to_image`; results float32."""
    others = z if references is None else references
    shape = (z.shape[0], z.shape[1], others.shape[0])
    out = torch.empty(shape, dtype=torch.float32, device=z.device)

    def run(limit: int) -> None:
        for first, last, squared in Search(z, references, None, options.precision, limit).chunks():
            out[first:last] = squared.sqrt_().transpose(1, 2)
            del squared  # before the next chunk is made
            if options.on_progress is not None:
                options.on_progress(last, z.shape[0])

    with_retry(run, search_device(z), options.memory_limit)
    return out


def msm(
    z: Tensor,
    references: Tensor | None,
    k_min: int,
    k_max: int,
    options: SearchOptions = DEFAULT_OPTIONS,
) -> Tensor:
    """See `reference.msm`; results float32."""
    out = torch.empty(z.shape[:2], dtype=torch.float32, device=z.device)

    def run(limit: int) -> None:
        for first, last, squared in Search(z, references, k_max, options.precision, limit).chunks():
            out[first:last] = _interval_mean.interval_mean(
                squared.transpose(1, 2), k_min, k_max, squared=True
            )
            del squared  # before the next chunk is made
            if options.on_progress is not None:
                options.on_progress(last, z.shape[0])

    with_retry(run, search_device(z), options.memory_limit)
    return out


def with_retry(run: Callable[[int], None], device: torch.device, memory_limit: int | None) -> None:
    """`run(limit)`; where others took the card's memory meanwhile, once more with half the limit.

    Raises BackendError if that fails too.
    """
    limit = device_planning.limit_of(device, memory_limit)
    try:
        with _current(device):
            return run(limit)
    except torch.OutOfMemoryError:
        pass  # outside this block, so that the failed attempt's tensors are freed
    if device.type == "cuda":
        torch.cuda.empty_cache()
    try:
        with _current(device):
            run(limit // 2)
    except torch.OutOfMemoryError as error:
        raise BackendError(
            f"{device} ran out of memory with a plan for {limit / 2**20:.0f} MiB and with one for "
            f"half of that: another process may be using the card. Free some of its memory, pass a "
            "smaller memory_limit, or use backend='cpu'"
        ) from error


def round_rows(space: Space, rows: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`operands.round_rows` by one kernel, after the projection on a basis if there is one."""
    mean, tail, lost = space.mean, None, None
    if space.basis is not None:
        rows, tail, lost = project(space.basis, space.tail_centre, rows.float() - mean)
        mean = torch.zeros_like(rows[0])
    values, norms, rho = _quantise.quantise(
        rows.contiguous(), mean, space.dtype, space.step, space.depth, spread=space.spread
    )
    return (
        values,
        norms,
        rho if lost is None else rho + lost,
        torch.zeros_like(rho) if tail is None else tail,
    )


@dataclass(frozen=True)
class Span:
    """References first to last - 1; `triangle`: they are the queries themselves."""

    first: int
    last: int
    triangle: bool


class Search:
    """Squared distances of z [N, P, C] to references [M, Q, C], or to itself, chunk by chunk.

    `k_max`: only the k_max nearest images of a patch are wanted, others may stay +inf; None wants
    all. `space` and `plan` force the operands and chunks (tests,
    benchmarks).
    """

    def __init__(
        self,
        z: Tensor,
        references: Tensor | None,
        k_max: int | None,
        precision: str,
        memory_limit: int | None,
        space: Space | None = None,
        plan: device_planning.Plan | None = None,
    ) -> None:
        self.exact, self.k_max = precision == "exact", k_max
        self.symmetric = references is None
        given = z if references is None else references
        device = search_device(z)
        streamed = device != z.device
        with ieee_products():
            if space is None and self.exact:
                gain = int8_gain(arch_of(device))
                space = choose_space(z, given, self.symmetric, device, gain)
            space = space or fit_space(z, references, torch.float16, None, device)
            self.plan = plan or device_planning.plan_search(
                device_planning.Shape(
                    z.shape[0],
                    z.shape[1],
                    given.shape[0],
                    given.shape[1],
                    z.shape[2],
                    self.symmetric,
                ),
                device_planning.limit_of(device, memory_limit),
                operand=space.depth * space.dtype.itemsize,
                copies=0 if streamed else device_planning.copies(z, references),
                streamed=streamed,
            )
            self.rows = Rows(z, device, self.plan.block)
            self.others = self.rows if references is None else Rows(given, device, self.plan.block)
            self.left = space.apply(z, round_rows)
            self.right = self.left if references is None else space.apply(given, round_rows)
        self.error = self.left.error(max(self.left.largest(), self.right.largest()))
        # Per reference image: what rounding took from its worst patch, its longest tail.
        self.rho = self.right.rho.amax(dim=1)[None, :, None]
        self.tail = self.right.tail.amax(dim=1)[None, :, None]

    def chunks(self) -> Iterator[tuple[int, int, Tensor]]:
        """(first, last, squared distances [last - first, M, P] float32) of each chunk."""
        for first in range(0, self.rows.shape[0], self.plan.chunk):
            last = min(first + self.plan.chunk, self.rows.shape[0])
            yield first, last, self._chunk(first, last)

    def _chunk(self, first: int, last: int) -> Tensor:
        patches, count = self.rows.shape[1], self.others.shape[0]
        keys = _min_distance.new_keys(last - first, count, patches, self.rows.device)
        x, rows = self.left.images(first, last), self.rows.images(first, last)
        for span in self._spans(first, last):
            y = self.right.images(span.first, span.last)
            search = _min_distance.min_distance
            if x.values.shape[2] <= _resident.LARGEST_DEPTH and self.exact:
                search = _resident.resident_min_distance
            search(x.values, x.norms, y.values, y.norms, keys, span.first, triangle=span.triangle)
        squared = torch.full(keys.shape, math.inf, dtype=torch.float32, device=keys.device)
        group = max(1, device_planning.GROUP_BYTES // (64 * count * patches))
        groups = [slice(k, min(k + group, last - first)) for k in range(0, last - first, group)]
        wanted = torch.empty(keys.shape, dtype=torch.bool, device=keys.device)
        for part in groups:
            wanted[part] = self._bounds(keys[part], first + part.start)[2]
        for start, block in self.others.blocks():
            for part in groups:
                self._winners(keys[part], wanted[part], rows[part], squared[part], start, block)
        del wanted
        if not self.exact:
            return squared
        limits = torch.empty_like(squared)
        for part in groups:
            self._limits(keys[part], squared[part], limits[part], first + part.start)
        for span in self._spans(first, last):
            self._list(first, last, span, first, rows, keys, limits, squared)
        return squared

    def _spans(self, first: int, last: int) -> list[Span]:
        """The references of queries first to last - 1, within a batch by symmetry."""
        count = self.others.shape[0]
        spans = [Span(0, count, False)]
        if self.symmetric:
            spans = [Span(0, first, False), Span(first, last, True), Span(last, count, False)]
        return [span for span in spans if span.first < span.last]

    def _bounds(self, keys: Tensor, first: int) -> tuple[Tensor, Tensor, Tensor]:
        """Slack, lower bound, and which images matter by the bounds, [n, M, P] each.

        keys are those of the queries from `first`.
        """
        found, _ = _min_distance.decode(keys, self.left.exact)
        queries = slice(first, first + keys.shape[0])
        slack = self.left.rho[queries, None] + self.rho
        found *= self.left.step**2
        lower = (found - self.error).clamp_min_(0).sqrt_()
        lower -= slack + 8 * UNIT * lower
        wanted = found < math.inf
        if self.k_max is not None and not self.exact:
            wanted &= found <= self._kth(found)
        elif self.k_max is not None:
            upper = (found + self.error + 4 * self.left.tail[queries, None] * self.tail).sqrt_()
            wanted &= lower <= self._kth(upper + slack + 8 * UNIT * upper)
        return slack, lower, wanted

    def _winners(
        self, keys: Tensor, wanted: Tensor, rows: Tensor, squared: Tensor, start: int, block: Tensor
    ) -> None:
        """Recompute the winners that are wanted and lie in `block` (images from `start`)."""
        _, count, patches = keys.shape
        within = wanted[:, start : start + block.shape[0]]
        i, j, p = within.nonzero(as_tuple=True)
        slots = i.mul_(count).add_(j).add_(start).mul_(patches).add_(p)
        _refine.refine(rows, block, slots, keys.view(-1)[slots] & 0x7FFFFFFF, squared, start)

    def _limits(self, keys: Tensor, squared: Tensor, limits: Tensor, first: int) -> None:
        """What a candidate may measure in the search and still be nearer than the winner."""
        slack, lower, wanted = self._bounds(keys, first)
        reach = squared.sqrt()
        if self.k_max is not None:  # what has been recomputed bounds better
            wanted &= lower <= self._kth(reach) * (1 + 8 * UNIT)
        # C u covers the sums of the recomputation itself: the least float32 sum is never missed.
        reach *= 1 + self.rows.shape[2] * UNIT
        reach += slack
        reach.square_().add_(self.error).mul_((1 + 16 * UNIT) / self.left.step**2)
        limits.copy_(reach.masked_fill_(~wanted, -math.inf))

    def _kth(self, distances: Tensor) -> Tensor:
        """The k_max-th least over the images, [n, M, P] -> [n, 1, P]."""
        assert self.k_max is not None
        kth: Tensor = _interval_mean.kth_smallest(distances.transpose(1, 2), self.k_max)
        return kth[:, None]

    def _list(
        self,
        first: int,
        last: int,
        span: Span,
        start: int,
        rows: Tensor,
        keys: Tensor,
        limits: Tensor,
        squared: Tensor,
    ) -> None:
        """Recompute what the certificate leaves of queries first to last - 1 against `span`.

        rows, keys, limits and squared are those of a chunk that begins with query `start`.
        """
        part = slice(first - start, last - start)
        x, y = self.left.images(first, last), self.right.images(span.first, span.last)
        slots, patches, count = _candidates.candidates(
            x.values,
            x.norms,
            y.values,
            y.norms,
            keys[part],
            limits[part],
            self.plan.room,
            span.first,
            triangle=span.triangle,
        )
        if count <= self.plan.room:
            for begin, block in self.others.blocks():
                _refine.refine(rows[part], block, slots, patches, squared[part], begin)
            return
        del slots, patches  # ties everywhere: fewer pairs at a time
        for head, tail, smaller in _halves(first, last, span):
            self._list(head, tail, smaller, start, rows, keys, limits, squared)


def _halves(first: int, last: int, span: Span) -> list[tuple[int, int, Span]]:
    """The pairs of (queries first to last - 1, span) in smaller parts."""
    middle = (first + last) // 2
    if span.triangle:
        return [
            (first, middle, Span(first, middle, True)),
            (middle, last, Span(middle, last, True)),
            (first, middle, Span(middle, last, False)),
            (middle, last, Span(first, middle, False)),
        ]
    if last - first > 1:
        return [(first, middle, span), (middle, last, span)]
    half = (span.first + span.last) // 2
    return [
        (first, last, Span(span.first, half, False)),
        (first, last, Span(half, span.last, False)),
    ]


OPERATORS = with_defaults(
    lnamd=lnamd, patch_to_image=patch_to_image, interval_mean=interval_mean, msm=msm
)
