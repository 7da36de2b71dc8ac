"""Local matching on the CPU: patches against those near their own place in the other images.

The rows of a band of the grid are rounded to 16 bits and lie by place, so that all images at one
place against all images at another are one small product. A certificate leaves the few distances
that are computed exactly (csrc/cpu/search/local.hpp). Few queries are compared without any of that,
exactly from the start. Both ways give the same bits, for any height of the bands.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ... import _C
from ...errors import InputError
from ...settings import SearchOptions
from ..memory import free_memory
from . import planning, scratch
from .options import Outputs
from .placed_rows import PlacedRows, PlaceRounding, placed_bytes
from .rounded_images import default_isa

_FEW = 2  # queries up to which rounding the references costs more than it saves
_SHORT = 10  # lists up to this fraction of all images are compared one by one
_SHARE = 0.25  # of the free memory, where no limit is given
# (patch, image) pairs of one C++ call for each thread, after which Python looks up: by the bound,
# where larger calls spare work at their edges, and directly.
_BATCH, _DIRECT_BATCH = 1e7, 2e6


class LocalSearch:
    """Local matching of z [N, P, C] against references [M, P, C], or, with None, itself.

    z and references: as `as_float32` returns them. lists: [N, K], the references of each query.
    rows, isa: forced by tests: rows of the grid in a band, instruction set; None: the search
    chooses. What is prepared serves any number of runs.
    """

    def __init__(
        self,
        z: Tensor,
        references: Tensor | None,
        options: SearchOptions,
        lists: Tensor | None = None,
        *,
        rows: int | None = None,
        isa: str | None = None,
    ) -> None:
        assert options.window is not None
        self.z, self.references, self.options, self.window = z, references, options, options.window
        self.lists = None if lists is None else lists.to(torch.int32).contiguous()
        self.isa = isa or default_isa()
        others = z if references is None else references
        self.columns = len(others) if lists is None else lists.shape[1]
        self.computed = 0  # exact distances, of what was searched by the bound
        self._rounding: PlaceRounding | None = None
        self._rows, self._forced = 0, rows
        self._band: tuple[PlacedRows, PlacedRows] | None = None

    def run(self, begin: int, end: int, k_min: int, k_max: int, outputs: Outputs) -> None:
        """Fill `outputs`, whose row 0 is query `begin`, for the queries [begin, end)."""
        height, _ = self.window.grid
        others = self.z if self.references is None else self.references
        few = end - begin <= _FEW or self.columns * _SHORT <= len(others)
        if (few and self._forced is None and self.options.exact) or self._slots() > _C.MOST_SLOTS:
            step = self._stride(end - begin, _DIRECT_BATCH)
            for first in range(0, height, step):  # Python notices Ctrl-C between two calls
                last = min(first + step, height)
                _C.match_directly(
                    isa=self.isa,
                    images=len(self.z),
                    others=len(others),
                    channels=self.z.shape[2],
                    x=self.z,
                    y=others,
                    **self._arguments(begin, end, first, last, k_min, k_max, outputs),
                )
                self._tell(last)
            return
        if self._rounding is None:
            if self.options.memory_limit is not None:
                scratch.release()  # its memory would come on top of the limit
            images = [self.z] if self.references is None else [self.z, self.references]
            self._rounding = PlaceRounding.of(images)
            self._rows = self._forced or self._rows_of_a_band()
        both_ways = self._both_ways(begin, end)
        for top in range(0, height, self._rows):
            bottom = min(top + self._rows, height)
            queries, references = self._round(top, bottom)
            largest_rho = max(queries.largest_rho, references.largest_rho)
            step = self._stride(end - begin, _BATCH)
            for first in range(top, bottom, step):
                last = min(first + step, bottom)
                self.computed += _C.match_places(
                    queries=queries.handle,
                    references=references.handle,
                    scale=self._rounding.scale,
                    largest_rho=largest_rho,
                    both_ways=both_ways,
                    certified=self.options.exact,
                    **self._arguments(begin, end, first, last, k_min, k_max, outputs),
                )
                self._tell(last)

    def _arguments(
        self,
        begin: int,
        end: int,
        first: int,
        last: int,
        k_min: int,
        k_max: int,
        outputs: Outputs,
    ) -> dict[str, Tensor | int | None]:
        height, width = self.window.grid
        return {
            "height": height,
            "width": width,
            "reach": self.window.reach,
            "first_row": first,
            "last_row": last,
            "begin": begin,
            "end": end,
            "columns": self.columns,
            "symmetric": self.references is None,
            "k_min": k_min,
            "k_max": k_max,
            "threads": torch.get_num_threads(),
            "reference_lists": None if self.lists is None else self.lists[begin:end],
            "means": outputs.means,
            "distances": outputs.distances,
        }

    def _tell(self, rows: int) -> None:
        if self.options.on_progress is not None:
            self.options.on_progress(rows, self.window.grid[0])

    def _stride(self, queries: int, batch: float) -> int:
        """Rows of the grid of one C++ call of `batch` pairs a thread."""
        pairs = max(1, self.window.grid[1] * queries * self.columns)
        return max(1, int(batch * torch.get_num_threads() / pairs))

    def _slots(self) -> int:
        """Places of a window, at most."""
        height, width = (2 * min(self.window.reach, side - 1) + 1 for side in self.window.grid)
        return height * width

    def _both_ways(self, begin: int, end: int) -> bool:
        """Whether a product of two places serves both, where memory suffices."""
        whole = self.references is None and (begin, end) == (0, len(self.z))
        return whole and self._needed(self._rows, both_ways=True) <= self._limit()

    def _limit(self) -> int:
        """Bytes that the search may take."""
        if self.options.memory_limit is not None:
            return self.options.memory_limit
        return max(int(free_memory() * _SHARE), self._needed(1))

    def _needed(self, rows: int, both_ways: bool = False) -> int:
        """Bytes for bands of some rows of the grid."""
        height, width = self.window.grid
        others = self.z if self.references is None else self.references
        threads = torch.get_num_threads()
        needed: int = _C.place_bytes(
            height=height,
            width=width,
            reach=self.window.reach,
            images=planning.padded(len(self.z)),
            references=planning.padded(len(others)),
            words=_C.place_words(self.isa, others.shape[2]),
            threads=threads,
            both_ways=both_ways,
        )

        def bytes_of(images: Tensor, rows: int) -> int:
            return placed_bytes(len(images), min(rows, height) * width, images.shape[2], self.isa)

        needed += bytes_of(others, rows + 2 * self.window.reach)
        return needed if self.references is None else needed + bytes_of(self.z, rows)

    def _rows_of_a_band(self) -> int:
        """Rows of the grid that are held at a time; InputError where not even one fits."""
        height, limit, least = self.window.grid[0], self._limit(), self._needed(1)
        if least > limit:
            raise InputError(
                f"memory_limit: this search needs at least {least / 2**20:.0f} MiB beyond input "
                f"and output, the limit is {limit / 2**20:.0f} MiB; raise it or score fewer images"
            )
        if self._needed(height) <= limit:
            return height
        rows = max(rows for rows in range(1, height) if self._needed(rows) <= limit)
        bands = -(-height // rows)
        return -(-height // bands)  # bands of nearly the same height

    def _round(self, top: int, bottom: int) -> tuple[PlacedRows, PlacedRows]:
        """The rows [top, bottom) of the queries, and those within reach of the references."""
        assert self._rounding is not None
        if self._band is not None and (self._band[0].first, self._band[0].last) == (top, bottom):
            return self._band
        self._band = None  # its memory is free before the next is made
        grid, reach = self.window.grid, self.window.reach
        first, last = max(0, top - reach), min(grid[0], bottom + reach)
        others = self.z if self.references is None else self.references
        sides = [PlacedRows(others, grid, first, last, self.isa)]
        if self.references is not None:
            sides.append(PlacedRows(self.z, grid, top, bottom, self.isa))
        while not all(side.fill(self._rounding) for side in sides):
            pass  # once more with the radius that has grown
        self._band = sides[-1], sides[0]
        return self._band
