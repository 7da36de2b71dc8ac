"""The search among the patches of about the same place: block by block, with a margin around.

On a grid of many patches the whole search grows with the square of their number, and a patch finds
twins at places that have nothing to do with its own. Here every block of the grid is searched by
itself, with the operators of the backend, so that all that is exact stays exact.

Blocks are twice as wide as the margin, for which the work is least: a block of side b with margin m
takes (b + 2 m)^4 / b^2 comparisons a patch.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..backends.base import KeptReferences, Operators
from ..errors import InputError
from ..settings import ScoringSettings, SearchOptions

_FRACTIONS = 1000  # progress is told in thousandths of a block
_MARGIN = 4  # a tile's shorter side, divided by this, is the margin where none is given
_LEAST = 4  # patches a side of a block, at least


@dataclass(frozen=True)
class Window:
    """A block and the patches around it, as places on the flat grid, int64.

    block: [p], the patches of the block. around: [q], those of the window, the block among them.
    within: [p], the places of the block's patches among the window's.
    """

    block: Tensor
    around: Tensor
    within: Tensor


def margin_of(grid: tuple[int, int], settings: ScoringSettings) -> int:
    """How many patches around a block count.

    Raises InputError where there are more tiles than patches in a row or column.
    """
    tiles = settings.tiles or (1, 1)
    if tiles[0] > grid[0] or tiles[1] > grid[1]:
        raise InputError(
            f"tiles: found {tiles[0]} x {tiles[1]}, the grid has {grid[0]} x {grid[1]} patches"
        )
    if settings.tile_margin is not None:
        return settings.tile_margin
    return min(grid[0] // tiles[0], grid[1] // tiles[1]) // _MARGIN


def windows_of(grid: tuple[int, int], margin: int) -> list[Window]:
    """The windows of a grid with a margin around each block, row by row."""
    side = max(2 * margin, _LEAST)
    counts = [-(-patches // side) for patches in grid]
    places = torch.arange(grid[0] * grid[1], dtype=torch.int64, device="cpu").view(grid)
    windows = []
    for row, column in itertools.product(range(counts[0]), range(counts[1])):
        spans = [_span(grid[0], counts[0], row), _span(grid[1], counts[1], column)]
        (top, bottom), (left, right) = spans
        (above, below), (before, after) = (
            (max(0, first - margin), min(patches, last + margin))
            for (first, last), patches in zip(spans, grid, strict=True)
        )
        around = places[above:below, before:after]
        within = torch.arange(around.numel(), dtype=torch.int64, device="cpu").view(around.shape)
        windows.append(
            Window(
                places[top:bottom, left:right].flatten(),
                around.flatten(),
                within[top - above : bottom - above, left - before : right - before].flatten(),
            )
        )
    return windows


def _span(side: int, parts: int, part: int) -> tuple[int, int]:
    return side * part // parts, side * (part + 1) // parts


def tiled(operators: Operators, grid: tuple[int, int], settings: ScoringSettings) -> Operators:
    """The operators that compare patches of about the same place alone; the same without tiles.

    With `place`, which is narrower, tiles do not narrow the search.
    """
    if settings.tiles is None or settings.place != "off":
        return operators
    search = _TiledSearch(operators, windows_of(grid, margin_of(grid, settings)))
    return replace(
        operators,
        patch_to_image=search.patch_to_image,
        msm=search.msm,
        msm_parts=search.msm_parts,
        between=search.between,
        nearest_images=search.nearest_images,
        keep_references=search.keep_references,
    )


class _TiledSearch:
    """The operators of the search, block by block; signatures as in `backends.base`.

    One window of all images is copied at a time.
    """

    def __init__(self, operators: Operators, windows: list[Window]) -> None:
        self._base, self._windows = operators, windows

    def each_window(
        self, options: SearchOptions, device: torch.device
    ) -> Iterator[tuple[Window, SearchOptions]]:
        """The windows on a device, each with options that tell its share of the progress."""
        told = options.on_progress
        count = len(self._windows)
        for index, window in enumerate(self._windows):

            def on_progress(done: int, total: int, index: int = index) -> None:
                share = int(_FRACTIONS * (index + done / max(total, 1)))
                if told is not None:
                    told(share, _FRACTIONS * count)

            places = (window.block, window.around, window.within)
            moved = Window(*(each.to(device) for each in places))
            yield moved, replace(options, on_progress=None if told is None else on_progress)

    def patch_to_image(
        self, z: Tensor, references: Tensor | None, options: SearchOptions
    ) -> Tensor:
        images = len(z if references is None else references)
        found = z.new_empty((*z.shape[:2], images), dtype=torch.float32)
        for window, own in self.each_window(options, z.device):
            if references is None:
                distances = self._base.patch_to_image(z[:, window.around], None, own)
                found[:, window.block] = distances[:, window.within]
            else:
                found[:, window.block] = self._base.patch_to_image(
                    z[:, window.block], references[:, window.around], own
                )
        return found

    def msm(
        self, z: Tensor, references: Tensor | None, k_min: int, k_max: int, options: SearchOptions
    ) -> Tensor:
        found = z.new_empty(z.shape[:2], dtype=torch.float32)
        for window, own in self.each_window(options, z.device):
            if references is None:
                scores = self._base.msm(z[:, window.around], None, k_min, k_max, own)
                found[:, window.block] = scores[:, window.within]
            else:
                found[:, window.block] = self._base.msm(
                    z[:, window.block], references[:, window.around], k_min, k_max, own
                )
        return found

    def msm_parts(
        self,
        z: Tensor,
        references: Tensor | None,
        k_min: int,
        k_max: int,
        parts: Sequence[tuple[int, int]],
        options: SearchOptions,
        lists: Tensor | None = None,
    ) -> Iterator[Tensor]:
        for part in parts:
            found = z.new_empty((part[1] - part[0], z.shape[1]), dtype=torch.float32)
            for window, own in self.each_window(options, z.device):
                queries = z[:, window.around if references is None else window.block]
                others = None if references is None else references[:, window.around]
                (scores,) = self._base.msm_parts(queries, others, k_min, k_max, [part], own, lists)
                found[:, window.block] = scores[:, window.within] if references is None else scores
            yield found

    def between(self, a: Tensor, b: Tensor, options: SearchOptions) -> tuple[Tensor, Tensor]:
        there = a.new_empty((*a.shape[:2], len(b)), dtype=torch.float32)
        back = b.new_empty((*b.shape[:2], len(a)), dtype=torch.float32)
        for window, own in self.each_window(options, a.device):
            forth = self._base.between(a[:, window.around], b[:, window.around], own)
            for found, distances in zip((there, back), forth, strict=True):
                found[:, window.block] = distances[:, window.within]
        return there, back

    def nearest_images(
        self, z: Tensor, references: Tensor | None, k: int, options: SearchOptions
    ) -> tuple[Tensor, Tensor, Tensor]:
        shape = (*z.shape[:2], k)
        distances = z.new_empty(shape, dtype=torch.float32)
        images = z.new_empty(shape, dtype=torch.int64)
        patches = torch.empty_like(images)
        for window, own in self.each_window(options, z.device):
            queries = z[:, window.around if references is None else window.block]
            others = None if references is None else references[:, window.around]
            found = self._base.nearest_images(queries, others, k, own)
            kept = [each[:, window.within] if references is None else each for each in found]
            distances[:, window.block], images[:, window.block] = kept[0], kept[1]
            patches[:, window.block] = window.around[kept[2]]
        return distances, images, patches

    def keep_references(
        self, capacity: int, patches: int, channels: int, device: torch.device
    ) -> KeptReferences:
        kept = [
            self._base.keep_references(capacity, len(window.around), channels, device)
            for window in self._windows
        ]
        return _TiledReferences(self, kept)


class _TiledReferences:
    """References whose operands are kept block by block."""

    def __init__(self, search: _TiledSearch, kept: list[KeptReferences]) -> None:
        self._search, self._kept = search, kept

    def __len__(self) -> int:
        return len(self._kept[0])

    @property
    def images(self) -> Tensor:
        """The images of the slots, [len, P, C], put together from their blocks."""
        parts = [kept.images for kept in self._kept]
        windows = [
            window for window, _ in self._search.each_window(SearchOptions(), parts[0].device)
        ]
        patches = sum(len(window.block) for window in windows)
        found = parts[0].new_empty(len(self), patches, parts[0].shape[2])
        for part, window in zip(parts, windows, strict=True):
            found[:, window.around] = part
        return found

    def put(self, slot: int, z: Tensor) -> None:
        windows = self._search.each_window(SearchOptions(), z.device)
        for kept, (window, _) in zip(self._kept, windows, strict=True):
            kept.put(slot, z[window.around])

    def msm(self, z: Tensor, k_min: int, k_max: int, options: SearchOptions) -> Tensor:
        found = z.new_empty(z.shape[:2], dtype=torch.float32)
        windows = self._search.each_window(options, z.device)
        for kept, (window, own) in zip(self._kept, windows, strict=True):
            found[:, window.block] = kept.msm(z[:, window.block], k_min, k_max, own)
        return found
