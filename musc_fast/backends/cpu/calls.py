"""Calls of the two passes of `musc_fast._C`."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ... import _C
from .options import Outputs
from .rounded_images import RoundedImages


@dataclass(frozen=True)
class Sides:
    """Rounded queries, the rounded references they are compared with, and the sizes of both."""

    queries: RoundedImages
    references: RoundedImages
    shape: _C.SearchShape

    def swapped(self) -> Sides:
        """The references as queries against the queries."""
        return Sides(self.references, self.queries, self.shape)


@dataclass(frozen=True)
class Summaries:
    """The first pass's summaries of query images `first` on, against `columns` references each.

    data: int16, `planning.score_bytes` for each query image.
    """

    data: Tensor
    first: int
    columns: int

    def handle(self) -> _C.Summaries:
        return _C.Summaries(data=self.data, first=self.first, columns=self.columns)


def search_pairs(sides: Sides, pairs: Tensor, best: Summaries, mirrored: Summaries) -> None:
    """The first pass over `pairs` [n, 4] int32, contiguous: see `PairsArgs` in csrc."""
    _C.search_pairs(
        isa=sides.queries.isa,
        queries=sides.queries.handle,
        references=sides.references.handle,
        shape=sides.shape,
        best=best.handle(),
        mirrored=mirrored.handle(),
        pairs=pairs,
        pair_count=len(pairs),
    )


def refine(
    sides: Sides,
    *,
    begin: int,
    end: int,
    k_min: int,
    k_max: int,
    best: Summaries,
    outputs: Outputs,
    row: int,
    counters: _C.Counters,
    reference_lists: Tensor | None = None,
    symmetric: bool = False,
    certified: bool = True,
) -> None:
    """The second pass for the queries [begin, end), whose results begin at `row` of the outputs.

    reference_lists: [end - begin, columns] int32, the references of each query; None: all.
    symmetric: queries and references are the same images, and none is compared with itself.
    """

    def rest(tensor: Tensor | None) -> Tensor | None:
        return None if tensor is None else tensor[row:]

    distances, images, patches = outputs.nearest or (None, None, None)
    _C.refine(
        isa=sides.queries.isa,
        queries=sides.queries.handle,
        references=sides.references.handle,
        shape=sides.shape,
        best=best.handle(),
        counters=counters,
        begin=begin,
        end=end,
        reference_lists=reference_lists,
        symmetric=symmetric,
        certified=certified,
        k_min=k_min,
        k_max=k_max,
        means=rest(outputs.means),
        distances=rest(outputs.distances),
        nearest=rest(distances),
        nearest_image=rest(images),
        nearest_patch=rest(patches),
    )
