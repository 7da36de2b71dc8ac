"""Regions of the pictures that are left out: a mask, boxes, or both, the same for every picture.

They are given in the common frame of the pictures: a mask is laid over each whole picture, whatever
its pixels, and a box is in percent of width and height. A date code, a fixture or a background that
changes from part to part is left out so.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ImageError, InputError
from ..settings import ReadSettings
from .masks import read_mask, shrunk
from .read_images import DEFAULTS

#: A patch is left out where more than this share of its area is ignored. A quarter leaves out what
#: could mislead a score and widens the region by less than a patch.
IGNORED_SHARE = 0.25
#: What a mask that is no file is called.
ARRAY_NAME = "an array"
_SAME_RATIO = 1.02  # of the sides of mask and picture, which rounding changes a little
_BOX_GRID = 1000  # pixels of a side on which boxes are measured where there is no mask
_NUMBER = r"\s*(\d+(?:\.\d+)?)\s*"
_BOX = re.compile(rf"{_NUMBER},{_NUMBER},{_NUMBER},{_NUMBER}%\s*")

_Bools = NDArray[np.bool_]
Box = tuple[float, float, float, float]
Region = str | os.PathLike[str] | NDArray[Any]
Ignore = Region | Sequence[Region]


@dataclass(frozen=True, eq=False)
class IgnoredRegions:
    """What is left out of every picture.

    mask: [h, w] bool, True is left out; None: there is no mask.
    boxes: (x, y, width, height) in percent of the picture, 0, 0 is the left upper corner.
    names: what the user gave, for run.json and messages.
    """

    mask: _Bools | None
    boxes: tuple[Box, ...]
    names: tuple[str, ...]

    @classmethod
    def of(cls, ignore: Ignore | None, reading: ReadSettings = DEFAULTS) -> IgnoredRegions | None:
        """The regions of what a user gives; None where that is None or nothing.

        ignore: the path of a mask (what is not black is left out, as in ground-truth masks), a bool
            array [h, w], the text "x,y,w,h%" of a box in percent of the picture, or several of
            these, which are joined.

        Raises ImageError where a mask cannot be read, InputError where a box is none, masks differ
        in size, or nothing or everything is marked.
        """
        given = [ignore] if isinstance(ignore, str | os.PathLike | np.ndarray) else ignore
        if given is None or len(given) == 0:
            return None
        mask: _Bools | None = None
        boxes, names = [], []
        for each in given:
            if isinstance(each, str) and (each.rstrip().endswith("%") or _lacks_percent(each)):
                boxes.append(_box(each))
                names.append(each.strip())
                continue
            found, name = _mask(each, reading)
            if mask is not None and mask.shape != found.shape:
                raise InputError(
                    f"ignore: {name} is {_size(found.shape)}, an earlier mask {_size(mask.shape)}; "
                    "masks that are joined must have one size"
                )
            mask = found if mask is None else mask | found
            names.append(name)
        regions = cls(mask, tuple(boxes), tuple(names))
        if regions.pixels((_BOX_GRID, _BOX_GRID) if mask is None else mask.shape).all():
            raise InputError(f"ignore: {', '.join(names)} leaves out the whole picture")
        return regions

    @property
    def key(self) -> str:
        """A text that differs wherever other pixels are left out."""
        digest = hashlib.sha256(repr(self.boxes).encode())
        if self.mask is not None:
            digest.update(f"{self.mask.shape}".encode() + np.packbits(self.mask).tobytes())
        return digest.hexdigest()[:16]

    def pixels(self, size: tuple[int, ...]) -> _Bools:
        """The pixels of a picture of `size` (h, w) that are left out, by their middles."""
        height, width = size
        inside = np.zeros((height, width), dtype=np.bool_)
        if self.mask is not None:
            inside |= shrunk(self.mask, (height, width))
        down = (np.arange(height) + 0.5) * 100 / height
        across = (np.arange(width) + 0.5) * 100 / width
        for x, y, wide, high in self.boxes:
            rows, columns = (down >= y) & (down < y + high), (across >= x) & (across < x + wide)
            inside |= rows[:, None] & columns
        return inside

    def patches(self, grid: tuple[int, int]) -> _Bools:
        """The patches [H, W] of a grid that count: not more than IGNORED_SHARE is left out.

        Raises InputError where none is left.
        """
        # On a whole number of pixels a patch, fine enough for a box and not below the mask's.
        least = (_BOX_GRID,) * 2 if self.mask is None else self.mask.shape
        size = tuple(-(-pixels // side) * side for pixels, side in zip(least, grid, strict=True))
        inside = self.pixels(size).reshape(grid[0], size[0] // grid[0], grid[1], size[1] // grid[1])
        counts: _Bools = inside.mean(axis=(1, 3)) <= IGNORED_SHARE
        if not counts.any():
            raise InputError(
                f"ignore: {', '.join(self.names)} leaves no patch of {grid[0]} x {grid[1]} to "
                f"score (a patch is left out where more than {IGNORED_SHARE:.0%} of it is ignored)"
            )
        return counts

    def check_size(self, name: str, size: tuple[int, int]) -> None:
        """Raise ImageError where a picture (h, w) has other proportions than the mask."""
        if self.mask is None:
            return
        ratio = (self.mask.shape[1] * size[0]) / (self.mask.shape[0] * size[1])
        if not 1 / _SAME_RATIO <= ratio <= _SAME_RATIO:
            raise ImageError(
                f"{name}: the picture is {_size(size)}, the mask to ignore {_size(self.mask.shape)}"
                ", of other proportions; give a mask drawn over such a picture"
            )


def _lacks_percent(text: str) -> bool:
    """Whether a text is a box whose % was left out, unless there is a file of this name."""
    return _BOX.fullmatch(f"{text}%") is not None and not Path(text).exists()


def _box(text: str) -> Box:
    match = _BOX.fullmatch(text)
    if match is None:
        raise InputError(
            f"ignore: found {text!r}, wanted a box x,y,w,h% in percent of the picture, as "
            "0,0,25,10%, or the file of a mask"
        )
    x, y, width, height = (float(number) for number in match.groups())
    if width <= 0 or height <= 0 or x + width > 100 or y + height > 100:
        raise InputError(
            f"ignore: the box {text} is empty or leaves the picture; x, y, width and height are in "
            "percent of its width and height"
        )
    return x, y, width, height


def _mask(given: object, reading: ReadSettings) -> tuple[_Bools, str]:
    """A mask, True is left out, and its name."""
    if isinstance(given, np.ndarray):
        if given.ndim != 2 or given.dtype != np.bool_ or 0 in given.shape:
            raise InputError(
                f"ignore: found an array {given.dtype} {list(given.shape)}, wanted bool [h, w]"
            )
        mask, name = given, ARRAY_NAME
    elif isinstance(given, str | os.PathLike):
        name = str(given)
        if Path(given).is_dir():
            raise InputError(f"ignore: {name} is a folder, wanted the file of a mask, or x,y,w,h%")
        mask = read_mask(given, None, reading)
    else:
        raise InputError(
            f"ignore: found {type(given).__name__}, wanted the file of a mask, a bool array, or a "
            'box "x,y,w,h%"'
        )
    if not mask.any():
        raise InputError(f"ignore: {name} marks nothing; what is not black is left out")
    return mask, name


def _size(shape: tuple[int, ...]) -> str:
    """The width and height of a picture, as people say them."""
    return f"{shape[1]} x {shape[0]}"
