"""Pictures too large for a backbone: tiles that overlap, and their tokens on one large grid.

A picture is resized once, to a canvas, and cut into tiles of the backbone's input. In the overlap
of two tiles the tokens of one fade into those of the other, so that the grid has no seam.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional

from ..errors import ImageError, InputError
from .backbone import Backbone, Features

_OVERLAP = 7  # a tile's side, divided by this, overlaps the next tile


@dataclass(frozen=True)
class Tiling:
    """How pictures are cut into tiles.

    tiles: (rows, columns).
    tile: (rows, columns) of the patches of one tile.
    patch_size: side of a patch in pixels.
    """

    tiles: tuple[int, int]
    tile: tuple[int, int]
    patch_size: int

    @classmethod
    def of(cls, backbone: Backbone, tiles: tuple[int, int] | None) -> Tiling:
        """The tiling of pictures into inputs of a backbone; None: one tile."""
        return cls(tiles or (1, 1), backbone.grid, backbone.patch_size)

    @property
    def is_whole(self) -> bool:
        """Whether a picture is one tile."""
        return self.tiles == (1, 1)

    @property
    def in_words(self) -> str:
        """The tiles behind the name of what is cut into them, "" where there are none."""
        return "" if self.is_whole else f" in {self.tiles[0]} x {self.tiles[1]} tiles"

    @property
    def overlap(self) -> tuple[int, int]:
        """Rows and columns of patches that a tile shares with the next: a seventh of its side."""
        down, across = (min(max(1, side // _OVERLAP), side // 2) for side in self.tile)
        return down, across

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the patches of a whole picture."""
        rows, columns = (
            count * side - (count - 1) * shared
            for count, side, shared in zip(self.tiles, self.tile, self.overlap, strict=True)
        )
        return rows, columns

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) in pixels to which a picture is resized."""
        return self.grid[0] * self.patch_size, self.grid[1] * self.patch_size

    @cached_property
    def places(self) -> list[tuple[int, int]]:
        """The row and column of each tile's first patch on the grid of the picture."""
        steps = [side - shared for side, shared in zip(self.tile, self.overlap, strict=True)]
        return [
            (row * steps[0], column * steps[1])
            for row, column in itertools.product(range(self.tiles[0]), range(self.tiles[1]))
        ]

    @cached_property
    def weights(self) -> list[Tensor]:
        """How much of each tile's tokens counts, [rows, columns, 1]; over the tiles they sum to 1.

        In an overlap they rise from the border of a tile to its inside.
        """
        sides = [
            [_ramps(side, shared, place, count) for place in range(count)]
            for side, shared, count in zip(self.tile, self.overlap, self.tiles, strict=True)
        ]
        return [(down[:, None] * across)[:, :, None] for down, across in itertools.product(*sides)]

    def check(self, size: tuple[int, int]) -> None:
        """Raise ImageError where an image of this (height, width) is smaller than one tile."""
        tile = (self.tile[0] * self.patch_size, self.tile[1] * self.patch_size)
        if not self.is_whole and (size[0] < tile[0] or size[1] < tile[1]):
            raise ImageError(
                f"{size[1]} x {size[0]} pixels are less than one tile of {tile[1]} x {tile[0]}; "
                "leave the tiles out (--tiles, tiles)"
            )

    def note(self, sizes: Sequence[tuple[int, int]]) -> str:
        """What the user should know of images of these (height, width) in tiles, or ""."""
        height, width = self.image_size
        small = sum(size[0] < height and size[1] < width for size in sizes)
        if self.is_whole or not small:
            return ""
        return (
            f"{small} of {len(sizes)} images have fewer pixels than the {width} x {height} that "
            f"{self.tiles[0]} x {self.tiles[1]} tiles show, and are enlarged: fewer tiles would "
            "show as much"
        )

    def cut(self, picture: Tensor) -> list[Tensor]:
        """The tiles of a picture [3, h, w] of `image_size`, each [3, h', w']."""
        height, width = (side * self.patch_size for side in self.tile)
        return [
            picture[:, top : top + height, left : left + width]
            for top, left in (
                (row * self.patch_size, column * self.patch_size) for row, column in self.places
            )
        ]


def _ramps(side: int, shared: int, place: int, count: int) -> Tensor:
    """The weights [side] along one axis of the tile at `place` of `count`."""
    weights = torch.ones(side, dtype=torch.float32, device="cpu")
    rising = (torch.arange(shared, dtype=torch.float32, device="cpu") + 0.5) / shared
    if place > 0:
        weights[:shared] = rising
    if place < count - 1:
        weights[side - shared :] = 1 - rising
    return weights


def stitched(tiling: Tiling, tokens: Tensor) -> Tensor:
    """The patch tokens [tiles, p, C] of all tiles on the grid of the picture, [P, C]."""
    rows, columns = tiling.tile
    grid = tokens.new_zeros((*tiling.grid, tokens.shape[2]))
    for (top, left), weights, found in zip(tiling.places, tiling.weights, tokens, strict=True):
        share = weights.to(tokens.device) * found.view(rows, columns, -1)
        grid[top : top + rows, left : left + columns] += share
    return grid.flatten(0, 1)


def extract_tiled(
    backbone: Backbone, tiling: Tiling, picture: Tensor, batch_size: int, *, cls: bool
) -> Features:
    """The features of one picture [3, h, w] of `tiling.image_size`, tile by tile.

    The patch tokens lie on `tiling.grid`. Prefix tokens are the means of those of the tiles, and
    so are class tokens, which are normalised again.

    batch_size: tiles in one forward pass.
    """
    cut, prefix = tiling.cut(picture), backbone.prefix_tokens
    passes = [
        backbone.extract(torch.stack(cut[first : first + batch_size]), cls=cls)
        for first in range(0, len(cut), batch_size)
    ]
    layers = []
    for layer in zip(*(each.tokens for each in passes), strict=True):
        tokens = torch.cat(layer)
        head = tokens[:, :prefix].mean(dim=0)
        layers.append(torch.cat([head, stitched(tiling, tokens[:, prefix:])])[None])
    classes = [each.cls_tokens for each in passes if each.cls_tokens is not None]
    if not classes:
        return Features(tuple(layers), None)
    mean = torch.cat(classes).mean(dim=0, keepdim=True)
    return Features(tuple(layers), functional.normalize(mean, dim=-1))


def checked_tiling(backbone: Backbone, tiles: tuple[int, int] | None) -> Tiling:
    """The tiling of pictures into inputs of a backbone.

    Raises InputError where its input is one patch wide or high, which tiles cannot share.
    """
    tiling = Tiling.of(backbone, tiles)
    for count, side in zip(tiling.tiles, tiling.tile, strict=True):
        if count > 1 and side < 2:
            raise InputError(
                f"tiles: the input of the backbone is {tiling.tile[0]} x {tiling.tile[1]} patches, "
                "wanted two or more where tiles overlap; take a larger image_size"
            )
    return tiling
