"""Local matching on the CPU: patches against those near their own place in the other images.

The rows of a band of the grid are copied by place, [places, N, C], and rounded in the first
principal directions of the batch, so that all images at one place against all images at another
are one small product. A certificate leaves the few distances that are computed exactly
(csrc/cpu/search/local.hpp). Few queries are compared without any of that, exactly from the start.
Both ways give the same bits, for any height of the bands.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ... import _C
from ...errors import InputError
from ...settings import SearchOptions
from ..memory import free_memory
from ..torch_state import one_thread
from . import planning, scratch
from .directions import Products, panels_of, principal_directions
from .options import Outputs
from .rounded_images import RoundedImages, default_isa, words_of
from .search import shape_of
from .space import SearchSpace, full_space, sample_rows, spreading_rotation
from .steps import (
    LEVELS,
    NearRows,
    best_step,
    clipped_distances,
    distance_ratio,
    most_fine_levels,
    safe_step,
)

_FEW = 2  # queries up to which rounding the references costs more than it saves
_SHORT = 10  # lists up to this fraction of all images are compared one by one
_SHARE = 0.25  # of the free memory, where no limit is given
_BATCH = 2e6  # (patch, image) pairs of one C++ call for each thread, after which Python looks up
_SAMPLE = 2048  # rows that the directions are fitted to


def local_space(
    z: Tensor, references: Tensor | None, isa: str, prefix: int | None = None
) -> SearchSpace:
    """The space of the rows of z and references: about a quarter of the channels, or all of few.

    Measured on real features of 384 channels, reach 2, 48 images: of 1100 candidates a patch 64
    directions leave 30 to 80 to compute exactly, 96 leave 25 to 55, and 128 leave 20 to 40.
    """
    channels = z.shape[2]
    with one_thread():
        sample = sample_rows([z] if references is None else [z, references], _SAMPLE)
        mean = sample.mean(0)
        centred = sample - mean
        prefix = prefix or 128
        if prefix > 2 * channels // 3:
            return full_space(centred, mean)
        products = Products(isa, torch.get_num_threads())
        count = min(prefix + 16, len(sample))
        directions = principal_directions(products, centred, count, 1)[:, :prefix]
        return _space(products, centred, mean, directions)


def _space(products: Products, centred: Tensor, mean: Tensor, directions: Tensor) -> SearchSpace:
    stored = (directions @ spreading_rotation(directions.shape[1])).float()  # for a finer step
    gram = stored.double().T @ stored.double()
    error = float((gram - torch.eye(len(gram), dtype=gram.dtype, device=gram.device)).norm())
    inside = products(centred[:512], stored)
    x, y = NearRows.of(inside)(inside)
    scale = best_step(x, y)
    levels = most_fine_levels(inside.shape[1])
    return SearchSpace(
        mean=mean,
        prefix=stored.shape[1],
        scale=scale,
        basis_error=error,
        ratio=distance_ratio((x - y).norm(dim=1), clipped_distances(x, y, LEVELS * scale)),
        basis=panels_of(stored),
        fine_scale=safe_step(inside, levels),
        fine_levels=levels,
    )


class _Rows:
    """Rows [first, last) of the grid of images [N, P, C], copied by place and rounded."""

    def __init__(
        self, images: Tensor, width: int, first: int, last: int, space: SearchSpace, isa: str
    ) -> None:
        self.first, self.last = first, last
        count, _, channels = images.shape
        by_row = images.view(count, -1, width, channels)[:, first:last]
        places = (last - first) * width
        x = scratch.take(self, places * count * channels, torch.float32)
        x.view(last - first, width, count, channels).copy_(by_row.permute(1, 2, 0, 3))
        self.rounded = RoundedImages(x.view(places, count, channels), space, isa).fill()


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
        self._space: SearchSpace | None = None
        self._rows, self._forced = 0, rows
        self._band: tuple[_Rows, _Rows] | None = None

    def run(self, begin: int, end: int, k_min: int, k_max: int, outputs: Outputs) -> None:
        """Fill `outputs`, whose row 0 is query `begin`, for the queries [begin, end)."""
        height, _ = self.window.grid
        others = self.z if self.references is None else self.references
        few = end - begin <= _FEW or self.columns * _SHORT <= len(others)
        if few and self._forced is None and self.options.exact:
            step = self._stride(end - begin)
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
        if self._space is None:
            if self.options.memory_limit is not None:
                scratch.release()  # its memory would come on top of the limit
            self._space = local_space(self.z, self.references, self.isa)
            self._rows = self._forced or self._rows_of_a_band()
        for top in range(0, height, self._rows):
            bottom = min(top + self._rows, height)
            queries, references = self._round(top, bottom)
            sides = queries.rounded, references.rounded
            with one_thread():  # torch's other threads would spin where C++ works next
                shape = shape_of(*sides, planning.PANEL, len(references.rounded.x))
            step = self._stride(end - begin)
            for first in range(top, bottom, step):
                last = min(first + step, bottom)
                self.computed += _C.match_places(
                    isa=self.isa,
                    queries=queries.rounded.handle,
                    references=references.rounded.handle,
                    shape=shape,
                    query_row=queries.first,
                    reference_row=references.first,
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

    def _stride(self, queries: int) -> int:
        """Rows of the grid of one C++ call."""
        pairs = max(1, self.window.grid[1] * queries * self.columns)
        return max(1, int(_BATCH * torch.get_num_threads() / pairs))

    def _rows_of_a_band(self) -> int:
        """Rows of the grid that are held at a time; InputError where not even one fits."""
        assert self._space is not None
        height, width = self.window.grid
        words, extra = words_of(self._space, self.isa), self._space.closer_bytes
        share = self.options.memory_limit is None
        limit = int(free_memory() * _SHARE) if share else self.options.memory_limit or 0

        def bytes_of(images: Tensor, rows: int) -> int:
            count = min(rows, height) * width
            copied = 4 * count * len(images) * images.shape[2]
            return copied + planning.operand_bytes(count, len(images), words, extra)

        across = 2 * self.window.reach + 1
        others = self.z if self.references is None else self.references
        scores = 32 * min(across, height) * min(across, width) * planning.padded(len(others))
        fixed = torch.get_num_threads() * scores  # of eight rows with those near

        def needed(rows: int) -> int:
            halo = bytes_of(others, rows + 2 * self.window.reach) + fixed
            return halo if self.references is None else halo + bytes_of(self.z, rows)

        if share:
            limit = max(limit, needed(1))
        rows = max((rows for rows in range(1, height + 1) if needed(rows) <= limit), default=0)
        if rows == 0:
            raise InputError(
                f"memory_limit: this search needs at least {needed(1) / 2**20:.0f} MiB beyond "
                f"input and output, the limit is {limit / 2**20:.0f} MiB; raise it or score fewer "
                "images"
            )
        bands = -(-height // rows)
        return -(-height // bands)  # bands of nearly the same height

    def _round(self, top: int, bottom: int) -> tuple[_Rows, _Rows]:
        """The rows [top, bottom) of the queries, and those within reach of the references."""
        assert self._space is not None
        if self._band is not None and (self._band[0].first, self._band[0].last) == (top, bottom):
            return self._band
        self._band = None  # its memory is free before the next is made
        reach, height = self.window.reach, self.window.grid[0]
        first, last = max(0, top - reach), min(height, bottom + reach)
        others = self.z if self.references is None else self.references
        references = _Rows(others, self.window.grid[1], first, last, self._space, self.isa)
        queries = references
        if self.references is not None:
            queries = _Rows(self.z, self.window.grid[1], top, bottom, self._space, self.isa)
        self._band = queries, references
        return self._band
