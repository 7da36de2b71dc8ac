"""The certified search of a chunk of query images against all references, by Triton kernels.

1. Rows are rounded (`backends.rounded_images`: float16, or int8 in a principal subspace), and
   `find_nearest` (of `all_channels`, or of `few_channels` in a subspace) finds the nearest
   candidate of every (patch, image): the winner.
2. Only some images enter the interval mean of a patch. `recompute_winners` takes the distance of
   the winners of those that are nearest by the search (in a subspace), or of all that bounds cannot
   exclude, from the original rows. The k-th least of these distances bounds the mean's.
3. An exact search: `list_candidates` lists every candidate that the certificate of the rounding
   cannot exclude against this bound and the winner's distance, and `recompute` lowers the distance
   by these (in a subspace, by those of them that float16 rows of all channels cannot exclude
   either). Distances that enter the mean are the least sum((x - y)^2), float32, over all patches of
   an image, so they depend neither on the rounding nor on the chunk nor on the order of launches.
   A fast search ends with step 2.

Memory beyond input and output: the rounded images, 16 bytes a (patch, image) of the chunk, and room
for lists; `planning` chooses the chunk. Rows in host memory stay there and pass in blocks (`rows`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from ...errors import InputError
from ...kernels.bounds import bound_distances, set_limits
from ...kernels.devices import arch_of, int8_gain
from ...kernels.min_distance import new_keys
from ...kernels.min_distance_few_channels import LARGEST_DEPTH
from ...kernels.refine import recompute
from ..products import ieee_products
from ..rounded_images import UNIT, RoundingSpace, fit_space
from . import all_channels, few_channels, planning
from .device import limit_of, search_device
from .rows import Rows, copied_bytes
from .sides import RowRounding, Side, Spaces, round_rows
from .space import choose_like_before
from .streaming import select_kth
from .winners import recompute_winners

__all__ = ["References", "Search", "Span", "round_rows"]

# Queries against kept references with fewer patches have so few candidates that to exclude them by
# float16 rows in the subspace saves less than it takes to round these.
_PATCHES_FOR_FEW = 4096


@dataclass(frozen=True)
class References:
    """Reference images that are rounded already, and what they are rounded with."""

    side: Side
    spaces: Spaces
    rounding: RowRounding


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
    least: of `few_channels.new_least`, or None.
    squared: [n, M, P] float32, squared distances after step 2; +inf where none is known.
    """

    first: int
    rows: Tensor
    keys: Tensor
    least: Tensor | None
    squared: Tensor

    def part(self, first: int, last: int) -> _Chunk:
        """Images first to last - 1, numbered as all queries are, sharing memory."""
        part = slice(first - self.first, last - self.first)
        least = None if self.least is None else self.least[part]
        return _Chunk(first, self.rows[part], self.keys[part], least, self.squared[part])


class Search:
    """Squared distances of z [N, P, C] to references [M, Q, C], or to itself, chunk by chunk.

    references: may be rounded already.
    k_max: only the distances of the k_max nearest images of a patch are wanted, for others may
        stand any that is not less, or +inf; None wants all.
    exact: distances are certified.
    memory_limit: bytes beyond input and output; None takes a share of the free memory.
    space, plan: the rounding and the chunks; None chooses them.

    Raises InputError where even one image at a time does not fit the limit.
    """

    def __init__(
        self,
        z: Tensor,
        references: Tensor | References | None,
        *,
        k_max: int | None = None,
        exact: bool = True,
        memory_limit: int | None = None,
        space: RoundingSpace | None = None,
        plan: planning.Plan | None = None,
    ) -> None:
        self.exact, self.k_max = exact, k_max
        self.symmetric = references is None
        device = search_device(z)
        # Torch multiplies only to fit a space.
        with nullcontext() if isinstance(references, References) else ieee_products():
            kept = references.side if isinstance(references, References) else None
            if isinstance(references, References):
                spaces, rounding, references = references.spaces, references.rounding, None
                if z.shape[0] * z.shape[1] < _PATCHES_FOR_FEW:
                    spaces = spaces.without_few()
            else:
                spaces = Spaces.of(space or space_of(z, references, exact, device))
                rounding = RowRounding(spaces.coarse)
            if not exact:
                spaces = spaces.without_fine()
            coarse = spaces.coarse
            others = (
                kept.rows if kept is not None else z if references is None else references
            ).shape
            shape = planning.Shape(
                images=z.shape[0],
                patches=z.shape[1],
                others=others[0],
                other_patches=others[1],
                channels=z.shape[2],
                symmetric=self.symmetric,
                kept=kept is not None,
                ranges=few_channels.count_ranges(coarse.dtype, coarse.depth, others[1], device)
                if exact
                else 0,
            )
            self._ranges = shape.ranges
            if plan is None:
                limit = limit_of(device, memory_limit)
                plan, spaces = _plan(shape, spaces, limit, z, references)
            self.plan = plan
            self.queries = Side.of(z, spaces, Rows(z, device, plan.block), rounding)
            self.references = self.queries if kept is None else kept
            if references is not None:
                rows = Rows(references, device, plan.block)
                self.references = Side.of(references, spaces, rows, rounding)
        self.query_rows, self.reference_rows = self.queries.rows, self.references.rows
        rounded, few = self.queries.rounded, self.queries.few
        norms = self.queries.largest_norm, self.references.largest_norm
        self.error = self._error(*norms, rounded.error_factor() * rounded.scale**2)
        if few is not None:
            norms = self.queries.largest_few_norm, self.references.largest_few_norm
            self.few_error = self._error(*norms, 4 * rounded.basis_error * few.scale**2)

    def _error(self, norm: Tensor, other: Tensor, factor: float) -> Tensor:
        """e of the certificate, [1] float32 on the device, rounded up: factor (|x| + |y|)^2.

        norm, other: the largest squared norm of either side.
        """
        squared = norm if self.symmetric else torch.maximum(norm, other)
        return squared.double().mul_(factor * 4 * (1 + 8 * UNIT)).float().view(1)

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
            limits = self._limits(chunk)
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
        x, rows = self.queries.rounded.images(first, last), self.query_rows.images(first, last)
        few = x.values.shape[2] <= LARGEST_DEPTH and self.exact
        least = few_channels.new_least(keys, self._ranges)
        find = partial(few_channels.find_nearest, least=least) if few else all_channels.find_nearest
        for span in self._spans(first, last):
            y = self.references.rounded.images(span.first, span.last)
            find(x.values, x.norms, y.values, y.norms, keys, span.first, triangle=span.triangle)
        squared = torch.empty(keys.shape, dtype=torch.float32, device=keys.device)
        return _Chunk(first, rows, keys, least, squared)

    def _recompute_winners(self, chunk: _Chunk) -> None:
        """Step 2: the squared distances of winners that matter, +inf for the others.

        With fine rows only the winners of the k_max nearest images by the search are taken, whose
        distances bound those of the mean; others that may matter become candidates (`_limits`),
        which fine rows mostly exclude. Without, all that the bounds do not exclude.
        """
        x = self._queries(chunk)
        rounded = x.rounded
        certified = self.exact and (x.fine is None or self.references.fine is None)
        kth = None
        if self.k_max is not None:  # `squared` holds the bounds until it is filled
            bound_distances(
                chunk.keys,
                chunk.squared,
                rounded.rounding_error,
                self.references.error,
                rounded.residual_norm,
                self.references.residual,
                self.error,
                rounded.scale,
                integers=rounded.exact,
                bound=certified,
            )
            kth = select_kth(chunk.squared.transpose(1, 2), self.k_max)
        for start, block in self.reference_rows.blocks():
            recompute_winners(
                chunk.rows,
                block,
                chunk.keys,
                kth,
                chunk.squared,
                rounded.rounding_error,
                self.references.error,
                self.error,
                rounded.scale,
                start,
                integers=rounded.exact,
                certified=certified,
            )

    def _limits(self, chunk: _Chunk) -> Tensor:
        """Limits [n, M, P]: the largest search distance of a candidate nearer than the winner.

        The limit is -inf where the image cannot enter the mean.
        """
        rounded = self._queries(chunk).rounded
        limits = torch.empty_like(chunk.squared)
        kth = None
        if self.k_max is not None:  # the distances of winners bound those that enter the mean
            kth = select_kth(chunk.squared.transpose(1, 2), self.k_max)
        set_limits(
            chunk.keys,
            chunk.squared,
            kth,
            limits,
            rounded.rounding_error,
            self.references.error,
            self.error,
            rounded.scale,
            chunk.rows.shape[2],
            integers=rounded.exact,
        )
        return limits

    def _queries(self, chunk: _Chunk) -> Side:
        """The queries of a chunk."""
        return self.queries.images(chunk.first, chunk.first + chunk.keys.shape[0])

    def _recompute_candidates(self, chunk: _Chunk, limits: Tensor, span: Span) -> None:
        """Step 3: lower the squared distances of a chunk by all candidates within the limits.

        limits: [n, M, P] float32 of the chunk.
        """
        last = chunk.first + chunk.keys.shape[0]
        queries, references = self._queries(chunk), self.references
        x, y = queries.rounded, references.rounded.images(span.first, span.last)
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
            least=chunk.least,
        )
        if count <= self.plan.room:
            fine = few = None
            if queries.fine is not None and references.fine is not None:
                fine = queries.fine, references.fine
            if queries.few is not None and references.few is not None:
                few = queries.few, references.few, self.few_error
            listed = slots, patches, chunk.squared
            for start, block in self.reference_rows.blocks():
                recompute(chunk.rows, block, *listed, start, fine=fine, few=few)
            return
        del slots, patches  # the list is too short (many ties): take fewer pairs at a time
        for begin, end, smaller in _halves(chunk.first, last, span):
            part = slice(begin - chunk.first, end - chunk.first)
            self._recompute_candidates(chunk.part(begin, end), limits[part], smaller)


def space_of(
    z: Tensor, references: Tensor | None, exact: bool, device: torch.device
) -> RoundingSpace:
    """The space of a search of z [N, P, C] in references [M, Q, C] or in itself."""
    if not exact:
        return fit_space(z, references, torch.float16, None, device)
    others = z if references is None else references
    return choose_like_before(z, others, references is None, device, int8_gain(arch_of(device)))


def _plan(
    shape: planning.Shape, spaces: Spaces, limit: int, z: Tensor, references: Tensor | None
) -> tuple[planning.Plan, Spaces]:
    """The plan of a search within `limit` bytes, and the spaces that it has room for.

    There are no fine rows where only a plan without fits the limit.

    z, references: what the search rounds.
    """
    streamed = spaces.coarse.mean.device != z.device
    copied = 0 if streamed else copied_bytes(z, references)

    def planned(spaces: Spaces) -> planning.Plan:
        return planning.plan_search(
            shape, limit, row_bytes=spaces.row_bytes, copied_bytes=copied, streamed=streamed
        )

    if spaces.fine is not None:
        try:
            return planned(spaces), spaces
        except InputError:
            spaces = spaces.without_fine()
    return planned(spaces), spaces


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
