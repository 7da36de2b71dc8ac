"""Rows by place, rounded to 16 bits in all channels, for local matching.

csrc/cpu/search/local.hpp has the layout and the bounds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ... import _C
from ..torch_state import one_thread
from . import planning, scratch

_SAMPLE = 512  # rows that decide how all are rounded
_BEYOND = 0.5  # how far all rows may be beyond the longest of these, in its lead over the mean
_LEAST = 1e-23  # of a radius: above it no step vanishes in float32
_ROUNDED = 1 << 20  # rows of one C++ call for each thread, after which Python looks up


@dataclass
class PlaceRounding:
    """How rows are rounded: round((x - mean) / scale), where no row of x - mean exceeds `radius`.

    mean: [C] float32. It is estimated, and the radius grows where a row proves longer; both decide
    the speed of the search alone.
    """

    mean: Tensor
    radius: float = _LEAST

    @classmethod
    def of(cls, images: list[Tensor]) -> PlaceRounding:
        """The mean of a sample of images [N, P, C], or zero where rows are shorter without one."""
        with one_thread():  # torch's other threads would spin where C++ works next
            rows = torch.cat([_some_rows(z.view(-1, z.shape[2])) for z in images])
            mean = rows.mean(0)
            lengths, centred = (each.norm(dim=1) for each in (rows, rows - mean))
            if centred.max() < lengths.max():
                lengths = centred
            else:
                mean = torch.zeros_like(mean)
            longest, usual = float(lengths.max()), float(lengths.mean())
        rounding = cls(mean)
        rounding.reach(longest + _BEYOND * (longest - usual))
        return rounding

    def reach(self, length: float) -> None:
        """Let the radius grow to a length, with a little to spare."""
        self.radius = max(self.radius, 1.001 * length)

    @property
    def scale(self) -> float:
        """The step, a float32."""
        levels = _C.PLACE_LEVELS - 0.5 * math.sqrt(len(self.mean))
        return float(torch.tensor(self.radius / levels, dtype=torch.float32, device="cpu"))


def _some_rows(rows: Tensor) -> Tensor:
    """About `_SAMPLE` rows of [n, C], spread evenly."""
    return rows[:: len(rows) // _SAMPLE | 1]


def placed_bytes(images: int, places: int, channels: int, isa: str) -> int:
    """Bytes of the rounded rows of some places."""
    words = _C.place_words(isa, channels)
    return places * planning.padded(images) * (4 * words + 8)


class PlacedRows:
    """Rows [first, last) of the grid of images [N, P, C] float32, rounded, by place.

    isa: the instruction set that lays the rows, and alone reads them. `handle` points into the
    tensors of this object, and into the images.
    """

    def __init__(
        self, images: Tensor, grid: tuple[int, int], first: int, last: int, isa: str
    ) -> None:
        self.images, self.grid, self.first, self.last = images, grid, first, last
        count, patches, channels = images.shape
        places, padded = (last - first) * grid[1], planning.padded(count)
        words = _C.place_words(isa, channels)
        self.right = scratch.take(self, places * padded * words, torch.int32)
        self.init = scratch.take(self, places * padded, torch.int32)
        self.rho = scratch.take(self, places * padded, torch.float32)
        self.handle = _C.PlacedRows(
            isa,
            images=count,
            padded=padded,
            channels=channels,
            row=first,
            places=places,
            all=patches,
            x=images,
            right=self.right,
            init=self.init,
            rho=self.rho,
        )

    def fill(self, rounding: PlaceRounding) -> bool:
        """Round the rows; False where one is longer than the radius, which then grows."""
        step = max(1, _ROUNDED * torch.get_num_threads() // (self.grid[1] * len(self.images)))
        for first in range(self.first, self.last, step):  # Python notices Ctrl-C between two calls
            longest = _C.place_rows(
                rows=self.handle,
                height=self.grid[0],
                width=self.grid[1],
                first_row=first,
                last_row=min(first + step, self.last),
                mean=rounding.mean,
                scale=rounding.scale,
                threads=torch.get_num_threads(),
            )
            if longest > rounding.radius:
                rounding.reach(longest)
                return False
        return True

    @property
    def largest_rho(self) -> float:
        """The largest rounding error of a row."""
        with one_thread():
            return float(self.rho.max())
