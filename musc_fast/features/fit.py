"""The input size and the tiles that suit the pictures of a batch, chosen by their shapes alone.

Files are not decoded: their headers tell the shapes.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import ExifTags, Image
from torch import Tensor

from ..datasets.deep import DeepImage
from ..datasets.read_images import image_size
from ..errors import ImageError, InputError
from ..settings import ReadSettings
from .backbone import Backbone
from .batch_images import ImageLike

Size = tuple[int, int]
Tiles = tuple[int, int] | Literal["auto"] | None

SQUASHED = 1.25  # shapes whose ratios differ by no more are as good as the same
MOST_TILES = 16
_LONGEST = 16.0  # ratio of the sides of an input, at most
_LOOKED_AT = 500  # pictures of a batch whose shapes are read
_SAME = 0.75  # share of the pictures that must have the shape which is kept
_QUARTER_TURNS = frozenset({5, 6, 7, 8})  # EXIF orientations that swap width and height


@dataclass(frozen=True)
class Fit:
    """What suits a batch.

    image_size: (height, width) of the backbone's input. tiles: (rows, columns); None: one.
    notes: what was decided and why, a sentence each; none where nothing was.
    """

    image_size: Size
    tiles: tuple[int, int] | None
    notes: tuple[str, ...] = ()

    @property
    def choice(self) -> tuple[Size, tuple[int, int] | None]:
        """Size and tiles."""
        return self.image_size, self.tiles


def asks_auto(name: str, value: object) -> bool:
    """Whether an argument is "auto"; InputError where it is another text."""
    if isinstance(value, str) and value != "auto":
        raise InputError(f'{name}: found {value!r}, wanted two numbers or "auto"')
    return isinstance(value, str)


@dataclass(frozen=True)
class Open:
    """What is "auto" and waits for the pictures."""

    size: bool
    tiles: bool

    @property
    def any(self) -> bool:
        """Whether anything waits."""
        return self.size or self.tiles

    def refuse(self, what: str) -> None:
        """Raise InputError where anything waits, for `what` needs it decided."""
        if self.any:
            name = "image_size" if self.size else "tiles"
            raise InputError(
                f'{name}: "auto" waits for pictures; call fitted(images).{what}, or give a value'
            )

    def fit(self, shapes: Sequence[Size], backbone: Backbone, tiles: Size | None) -> Fit:
        """What suits pictures of these shapes; `tiles` where these do not wait."""
        return fit(
            shapes,
            backbone.image_size,
            backbone.patch_size,
            given=None if self.size else backbone.image_size,
            tiles="auto" if self.tiles else tiles,
        )

    def fit_to_bank(self, source: Mapping[str, Any], backbone: Backbone, tiles: Size | None) -> Fit:
        """What a bank was made with, where it waits."""
        size, cut = source.get("size"), source.get("tiles")
        return Fit(
            (size[0], size[1]) if self.size and size else backbone.image_size,
            ((cut[0], cut[1]) if cut else None) if self.tiles else tiles,
        )


def fit(
    shapes: Sequence[Size],
    default: Size,
    patch: int,
    *,
    given: Size | None = None,
    tiles: Tiles = None,
) -> Fit:
    """Choose what suits pictures of these shapes.

    The size keeps the usual ratio of the sides (the median) with about as many patches as the
    default has. It stays the default where that squashes by less than `SQUASHED`, and where more
    than a quarter of the pictures have another shape than the usual one.

    shapes: (height, width) of the pictures in pixels; without any the default is kept.
    default: the backbone's own input. patch: side of its patches.
    given: the size that was asked for, which is kept; None: choose.
    tiles: "auto" chooses by `tiles_for`, and takes none where the shapes differ as above.
    """
    if not shapes:
        return Fit(given or default, None if tiles == "auto" else tiles)
    usual, alike = _usual_shape(shapes)
    notes: list[str] = []
    chosen = None if tiles == "auto" else tiles
    if tiles == "auto":
        if alike >= _SAME:
            chosen = tiles_for(usual, given or default)
        notes.append(_tiles_note(usual, given or default, chosen, alike))
    if given is not None:
        return Fit(given, chosen, tuple(notes))
    rows, columns = chosen or (1, 1)
    ratio = usual[0] / rows / (usual[1] / columns)  # of the sides of a tile
    if _apart(ratio, default[0] / default[1]) <= SQUASHED + 1e-9:
        return Fit(default, chosen, tuple(notes))
    size = default
    if alike < _SAME:
        notes.append(
            f"the pictures have several shapes ({1 - alike:.0%} are far from {_shown(usual)}), so "
            f"that none is kept: all are squashed to {_shown(default)}; score each shape by itself"
        )
    else:
        size = size_for(ratio, default, patch)
        what = "the tiles" if chosen else "the pictures"
        notes.append(
            f"{what} keep the shape of pictures of {_shown(usual)} pixels: the backbone sees "
            f"{_shown(size)} in place of {_shown(default)} (--size {size[0]},{size[1]})"
        )
    return Fit(size, chosen, tuple(notes))


def size_for(ratio: float, default: Size, patch: int) -> Size:
    """The input (height, width) whose sides have this ratio and that has no more patches.

    ratio: height by width; beyond 16 to 1 it is cut to that.
    default: the input whose patches are the budget. patch: side of a patch.
    """
    ratio = min(max(ratio, 1 / _LONGEST), _LONGEST)
    budget = (default[0] // patch) * (default[1] // patch)

    def loss(rows: int) -> float:
        columns = budget // rows
        return math.log(_apart(rows / columns, ratio) * budget / (rows * columns))

    rows = min(range(1, budget + 1), key=loss)
    return rows * patch, budget // rows * patch


def tiles_for(shape: Size, size: Size) -> tuple[int, int] | None:
    """The (rows, columns) of tiles for pictures of a shape; None where they would not pay.

    Tiles are taken where a picture has four times the pixels of the backbone's input or more, so
    that each side is shrunk to half or less. They are no more than would show it as it is, and no
    more than `MOST_TILES`; among those that are left the most, but nearly of the input's shape.
    """
    times = shape[0] * shape[1] / (size[0] * size[1])
    if times < 4:
        return None
    most = min(MOST_TILES, int(times))

    def worth(tiles: tuple[int, int]) -> tuple[float, int]:
        rows, columns = tiles
        bent = _apart(shape[0] / rows / (shape[1] / columns), size[0] / size[1])
        return round(rows * columns / bent, 6), -rows * columns

    sides = range(1, most + 1)
    found = max(((r, c) for r in sides for c in sides if r * c <= most), key=worth)
    return None if found == (1, 1) else found


def shapes_of(images: Sequence[ImageLike] | Tensor, reading: ReadSettings) -> list[Size]:
    """The (height, width) of pictures, upright; of many, at most 500, evenly spread.

    Files of which the header cannot be read are left out.
    """
    if isinstance(images, Tensor):
        return [(images.shape[-2], images.shape[-1])] if images.ndim == 4 else []
    step = -(-len(images) // _LOOKED_AT) or 1
    some = [images[index] for index in range(0, len(images), step)]
    with ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as pool:
        found = pool.map(lambda image: _shape(image, reading), some)
        return [shape for shape in found if shape is not None and min(shape) > 0]


def _shape(image: object, reading: ReadSettings) -> Size | None:
    """The shape of a picture; None where it cannot be told, which reading it will say."""
    if isinstance(image, str | os.PathLike):
        try:
            return image_size(Path(image), reading)
        except ImageError:
            return None
    if isinstance(image, Image.Image):
        turned = image.getexif().get(ExifTags.Base.Orientation) in _QUARTER_TURNS
        return (image.width, image.height) if turned else (image.height, image.width)
    if isinstance(image, DeepImage):
        return image.size
    sides = tuple(getattr(image, "shape", ()))
    if isinstance(image, Tensor):
        sides = sides[1:]
    return (int(sides[0]), int(sides[1])) if len(sides) in (2, 3) else None


def _usual_shape(shapes: Sequence[Size]) -> tuple[Size, float]:
    """A shape of the median ratio, and the share of the pictures that are nearly of that ratio."""
    ratios = np.log([height / width for height, width in shapes])
    pixels = np.log([height * width for height, width in shapes])
    apart = np.abs(ratios - np.median(ratios))
    # Of those nearest to the median ratio, the one of the median number of pixels.
    near = np.flatnonzero(apart <= apart.min() + 1e-9)
    usual = min(near, key=lambda k: abs(pixels[k] - np.median(pixels)))
    return shapes[int(usual)], float(np.mean(apart < math.log(SQUASHED)))


def _apart(one: float, other: float) -> float:
    """By how much two ratios differ, 1 or more."""
    return max(one / other, other / one)


def _tiles_note(usual: Size, size: Size, tiles: tuple[int, int] | None, alike: float) -> str:
    seen = f"the {_shown(size)} pixels that the backbone sees"
    if alike < _SAME:
        return (
            f"no tiles: {1 - alike:.0%} of the pictures are not of the shape {_shown(usual)}; "
            "score each shape by itself"
        )
    times = usual[0] * usual[1] / (size[0] * size[1])
    if tiles is None:
        return f"no tiles: pictures of {_shown(usual)} have only {times:.1f} times {seen}"
    return (
        f"tiles: {tiles[0]} rows of {tiles[1]}, for pictures of {_shown(usual)} have {times:.0f} "
        f"times {seen} (--tiles {tiles[0]}x{tiles[1]})"
    )


def _shown(size: Size) -> str:
    """A (height, width) as people write it: width first."""
    return f"{size[1]} x {size[0]}"


def check_tiles_alone(tiles: object, margin: int | None, leaves_out: bool) -> None:
    """Raise InputError where a margin is idle, or patches are left out that tiles need."""
    if margin is not None and tiles is None:
        raise InputError("tile_margin: has no say without tiles; leave it out, or give tiles")
    if tiles is not None and leaves_out:
        raise InputError(
            "tiles: with them patches are compared near their own place alone, for which all have "
            "to count; leave out tiles, or ignore and align"
        )
