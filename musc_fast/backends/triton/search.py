"""The certified search of a chunk of query images against all references, by Triton kernels.

1. Rows are rounded (`backends.rounded_images`: float16, or int8 in a principal subspace), and
   `find_nearest` (that of `few_channels` in a subspace) finds the nearest candidate of every
   (patch, image): the winner.
2. Bounds on the distance decide which images can enter the interval mean of a patch. For these
   images alone, `recompute` takes the winner's distance from the original rows.
3. An exact search: `list_candidates` lists every candidate that the certificate of the rounding
   cannot exclude against the winner's distance, and `recompute` lowers the distance by these. The
   result is the least sum((x - y)^2), float32, over all patches of an image, so it depends neither
   on the rounding nor on the chunk nor on the order of launches. A fast search ends with step 2.

Memory beyond input and output: the rounded images, 17 bytes a (patch, image) of the chunk, and room
for lists; `planning` chooses the chunk. Rows in host memory stay there and pass in blocks (`rows`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ...kernels.devices import arch_of, int8_gain
from ...kernels.interval_mean import select_kth
from ...kernels.min_distance import TRUNCATION, decode_keys, find_nearest, new_keys
from ...kernels.min_distance_few_channels import LARGEST_DEPTH
from ...kernels.quantise import quantise_rows
from ...kernels.refine import recompute
from ..products import ieee_products
from ..rounded_images import UNIT, RoundingSpace, fit_space, project_rows
from . import few_channels, planning
from .device import limit_of, search_device
from .rows import Rows, copied_bytes
from .space import choose_space


def round_rows(space: RoundingSpace, rows: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`rounding.round_rows` by one kernel, after the projection on a basis if there is one."""
    mean, residual_norm, projection_error = space.mean, None, None
    if space.basis is not None:
        rows, residual_norm, projection_error = project_rows(
            space.basis, space.residual_centre, rows.float() - mean
        )
        mean = torch.zeros_like(rows[0])
    values, norms, errors = quantise_rows(
        rows.contiguous(), mean, space.dtype, space.scale, space.depth, spread=space.spread
    )
    return (
        values,
        norms,
        errors if projection_error is None else errors + projection_error,
        torch.zeros_like(errors) if residual_norm is None else residual_norm,
    )


@dataclass(frozen=True)
class Span:
    """References first to last - 1; `triangle`: they are the queries themselves."""

    first: int
    last: int
    triangle: bool


@dataclass(frozen=True)
class _Chunk:
    """Query images `first`, `first` + 1, ... and what the search has found for them.

    rows: [n, P, C], the original rows.
    keys: [n, M, P] int64, the winners (`kernels.min_distance`).
    squared: [n, M, P] float32, squared distances; +inf where none is known.
    """

    first: int
    rows: Tensor
    keys: Tensor
    squared: Tensor

    def part(self, first: int, last: int) -> _Chunk:
        """Images first to last - 1, numbered as all queries are, sharing memory."""
        part = slice(first - self.first, last - self.first)
        return _Chunk(first, self.rows[part], self.keys[part], self.squared[part])

    def groups(self) -> list[slice]:
        """Images of the chunk whose temporaries take about GROUP_BYTES, group after group."""
        images, count, patches = self.keys.shape
        group = max(1, planning.GROUP_BYTES // (64 * count * patches))
        return [slice(k, min(k + group, images)) for k in range(0, images, group)]


class Search:
    """Squared distances of z [N, P, C] to references [M, Q, C], or to itself, chunk by chunk.

    k_max: only the k_max nearest images of a patch are wanted, others may stay +inf; None wants
        all.
    exact: distances are certified.
    memory_limit: bytes beyond input and output; None takes a share of the free memory.
    space, plan: the rounding and the chunks; None chooses them.

    Raises InputError where even one image at a time does not fit the limit.
    """

    def __init__(
        self,
        z: Tensor,
        references: Tensor | None,
        *,
        k_max: int | None = None,
        exact: bool = True,
        memory_limit: int | None = None,
        space: RoundingSpace | None = None,
        plan: planning.Plan | None = None,
    ) -> None:
        self.exact, self.k_max = exact, k_max
        self.symmetric = references is None
        others = z if references is None else references
        device = search_device(z)
        with ieee_products():
            if space is None and exact:
                gain = int8_gain(arch_of(device))
                space = choose_space(z, others, self.symmetric, device, gain)
            space = space or fit_space(z, references, torch.float16, None, device)
            self.plan = plan or _plan(z, references, space, limit_of(device, memory_limit))
            self.query_rows = Rows(z, device, self.plan.block)
            self.reference_rows = self.query_rows
            self.queries = space.apply(z, round_rows)
            self.references = self.queries
            if references is not None:
                self.reference_rows = Rows(references, device, self.plan.block)
                self.references = space.apply(references, round_rows)
        self.error = self.queries.error(max(self.queries.largest(), self.references.largest()))
        # Of each reference image: the largest rounding error and residual of its patches.
        self.reference_error = self.references.rounding_error.amax(dim=1)[None, :, None]
        self.reference_residual = self.references.residual_norm.amax(dim=1)[None, :, None]

    def chunks(self) -> Iterator[tuple[int, int, Tensor]]:
        """(first, last, squared distances [last - first, M, P] float32) of each chunk."""
        for first in range(0, self.query_rows.shape[0], self.plan.chunk):
            last = min(first + self.plan.chunk, self.query_rows.shape[0])
            yield first, last, self._search(first, last)

    def _search(self, first: int, last: int) -> Tensor:
        """Squared distances [last - first, M, P] of the queries first to last - 1."""
        chunk = self._find_winners(first, last)
        self._recompute_winners(chunk)
        if self.exact:
            limits = torch.empty_like(chunk.squared)
            for part in chunk.groups():
                begin, end = first + part.start, first + part.stop
                self._set_limits(chunk.part(begin, end), limits[part])
            for span in self._spans(first, last):
                self._recompute_candidates(chunk, limits, span)
        return chunk.squared

    def _spans(self, first: int, last: int) -> list[Span]:
        """The references of queries first to last - 1, within a batch by symmetry."""
        count = self.reference_rows.shape[0]
        spans = [Span(0, count, False)]
        if self.symmetric:
            spans = [Span(0, first, False), Span(first, last, True), Span(last, count, False)]
        return [span for span in spans if span.first < span.last]

    def _find_winners(self, first: int, last: int) -> _Chunk:
        """Step 1 for the queries first to last - 1."""
        count, patches = self.reference_rows.shape[0], self.query_rows.shape[1]
        keys = new_keys(last - first, count, patches, self.query_rows.device)
        x, rows = self.queries.images(first, last), self.query_rows.images(first, last)
        few = x.values.shape[2] <= LARGEST_DEPTH and self.exact
        find = few_channels.find_nearest if few else find_nearest
        for span in self._spans(first, last):
            y = self.references.images(span.first, span.last)
            find(x.values, x.norms, y.values, y.norms, keys, span.first, triangle=span.triangle)
        squared = torch.full(keys.shape, math.inf, dtype=torch.float32, device=keys.device)
        return _Chunk(first, rows, keys, squared)

    def _recompute_winners(self, chunk: _Chunk) -> None:
        """Step 2: lower the squared distances to those of the winners that matter."""
        wanted = torch.empty(chunk.keys.shape, dtype=torch.bool, device=chunk.keys.device)
        groups = chunk.groups()
        parts = [chunk.part(chunk.first + each.start, chunk.first + each.stop) for each in groups]
        for group, part in zip(groups, parts, strict=True):
            wanted[group] = self._bounds(part)[2]
        _, count, patches = chunk.keys.shape
        for start, block in self.reference_rows.blocks():
            for group, part in zip(groups, parts, strict=True):
                within = wanted[group, start : start + block.shape[0]]
                i, j, p = within.nonzero(as_tuple=True)
                slots = i.mul_(count).add_(j).add_(start).mul_(patches).add_(p)
                winners = part.keys.view(-1)[slots] & 0x7FFFFFFF
                recompute(part.rows, block, slots, winners, part.squared, start)

    def _bounds(self, chunk: _Chunk) -> tuple[Tensor, Tensor, Tensor]:
        """Slack and lower bound of the winners, and which images matter by the bounds.

        [n, M, P] each; the slack is the sum of both rounding errors.
        """
        searched, _ = decode_keys(chunk.keys, self.queries.exact)
        queries = self.queries.images(chunk.first, chunk.first + chunk.keys.shape[0])
        slack = queries.rounding_error[:, None] + self.reference_error
        searched *= self.queries.scale**2
        lower = (searched - self.error).clamp_min_(0).sqrt_()
        lower -= slack + 8 * UNIT * lower
        wanted = searched < math.inf
        if self.k_max is not None and not self.exact:
            wanted &= searched <= self._kth(searched)
        elif self.k_max is not None:
            residual = 4 * queries.residual_norm[:, None]
            upper = TRUNCATION * searched + self.error
            upper = (upper + residual * self.reference_residual).sqrt_()
            wanted &= lower <= self._kth(upper + slack + 8 * UNIT * upper)
        return slack, lower, wanted

    def _set_limits(self, chunk: _Chunk, limits: Tensor) -> None:
        """Set limits [n, M, P]: the largest search distance of a candidate nearer than the winner.

        The limit is -inf where the image cannot enter the mean.
        """
        slack, lower, wanted = self._bounds(chunk)
        limit_distance = chunk.squared.sqrt()
        if self.k_max is not None:  # distances of winners bound better than the search did
            wanted &= lower <= self._kth(limit_distance) * (1 + 8 * UNIT)
        # C u covers the sums of `recompute`, so that the least float32 sum is never missed.
        limit_distance *= 1 + chunk.rows.shape[2] * UNIT
        limit_distance += slack
        limit_distance.square_().add_(self.error)
        limit_distance.mul_((1 + 16 * UNIT) / self.queries.scale**2)
        limits.copy_(limit_distance.masked_fill_(~wanted, -math.inf))

    def _kth(self, distances: Tensor) -> Tensor:
        """The k_max-th least over the images, [n, M, P] -> [n, 1, P]."""
        assert self.k_max is not None
        kth: Tensor = select_kth(distances.transpose(1, 2), self.k_max)
        return kth[:, None]

    def _recompute_candidates(self, chunk: _Chunk, limits: Tensor, span: Span) -> None:
        """Step 3: lower the squared distances of a chunk by all candidates within the limits.

        limits: [n, M, P] float32 of the chunk.
        """
        last = chunk.first + chunk.keys.shape[0]
        x = self.queries.images(chunk.first, last)
        y = self.references.images(span.first, span.last)
        slots, patches, count = few_channels.list_candidates(
            x.values,
            x.norms,
            y.values,
            y.norms,
            chunk.keys,
            limits,
            self.plan.room,
            span.first,
            triangle=span.triangle,
        )
        if count <= self.plan.room:
            for start, block in self.reference_rows.blocks():
                recompute(chunk.rows, block, slots, patches, chunk.squared, start)
            return
        del slots, patches  # the list is too short (many ties): take fewer pairs at a time
        for begin, end, smaller in _halves(chunk.first, last, span):
            part = slice(begin - chunk.first, end - chunk.first)
            self._recompute_candidates(chunk.part(begin, end), limits[part], smaller)


def _plan(z: Tensor, references: Tensor | None, space: RoundingSpace, limit: int) -> planning.Plan:
    """The plan of a search of z [N, P, C] within `limit` bytes."""
    others = z if references is None else references
    streamed = space.mean.device != z.device
    shape = planning.Shape(
        images=z.shape[0],
        patches=z.shape[1],
        others=others.shape[0],
        other_patches=others.shape[1],
        channels=z.shape[2],
        symmetric=references is None,
    )
    return planning.plan_search(
        shape,
        limit,
        row_bytes=space.depth * space.dtype.itemsize,
        copied_bytes=0 if streamed else copied_bytes(z, references),
        streamed=streamed,
    )


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
