"""Reading ground-truth masks; every failure is an `ImageError` that names the file.

What is black or transparent is background. The rest is defect, whatever its colour or level, since
data sets mark classes of defects by colours, by levels such as 64 and 192, and by numbers from 1
on. One kind of mask has levels that are no classes: white on black with a soft edge, by a brush, by
anti-aliasing or by JPEG. It is cut at half of white.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy import ndimage

from ..errors import ImageError
from ..settings import ReadSettings
from .decode import decode
from .deep import DeepImage
from .find_images import list_images
from .read_images import DEFAULTS

_LOSSY_SUFFIXES = frozenset({".jfif", ".jpe", ".jpeg", ".jpg", ".webp"})
_NEAR_WHITE = 0.9  # of the type's largest value
_Bools = npt.NDArray[np.bool_]


def read_mask(
    path: str | os.PathLike[str],
    size: tuple[int, int] | None = None,
    reading: ReadSettings = DEFAULTS,
) -> _Bools:
    """Read a ground-truth mask, bool [h, w], True on the defect; see the text of this module.

    path: mask file, or a folder with several masks of one image, whose union counts (MVTec LOCO).
    size: (height, width) to resize to by nearest neighbour; None keeps the size of the file.
    Raises ImageError where a file is unreadable, or a folder is empty or has masks of different
    sizes.
    """
    path = Path(path)
    if path.is_dir():
        files = list_images(path)
        if not files:
            raise ImageError(f"{path}: no masks in this folder")
        return union_of(files, size, reading)
    picture, _ = decode(path, reading.max_pixels)
    level, alpha, full = _levels(picture)
    mask = _foreground(level, full, lossy=path.suffix.lower() in _LOSSY_SUFFIXES)
    if alpha is not None:
        mask = _seen(mask, level, alpha)
    return shrunk(mask, size)


def union_of(
    files: list[Path], size: tuple[int, int] | None = None, reading: ReadSettings = DEFAULTS
) -> _Bools:
    """Return the union of the masks in `files`, one or more, as `read_mask` does."""
    union = read_mask(files[0], None, reading)
    for file in files[1:]:
        mask = read_mask(file, None, reading)
        if mask.shape != union.shape:
            raise ImageError(
                f"{file}: mask is {mask.shape[1]} x {mask.shape[0]}, but {files[0]} of the same "
                f"image is {union.shape[1]} x {union.shape[0]}"
            )
        union = union | mask
    return shrunk(union, size)


def shrunk(mask: _Bools, size: tuple[int, int] | None) -> _Bools:
    """Return a mask resized to `size` by nearest neighbour; None keeps its size."""
    if size is None or mask.shape == tuple(size):
        return mask
    height, width = size
    resized = Image.fromarray(mask.astype(np.uint8)).resize(
        (width, height), Image.Resampling.NEAREST
    )
    return np.asarray(resized).astype(np.bool_)


def _levels(
    picture: Image.Image | DeepImage,
) -> tuple[npt.NDArray[Any], npt.NDArray[Any] | None, float]:
    """The brightest channel [h, w], alpha in 0..1 or None, and the type's largest value."""
    if isinstance(picture, DeepImage):
        values = picture.values
        whole = values.dtype.kind != "f"
        full = float(np.iinfo(np.uint16).max if whole else values.max(initial=0))
        values = full - values if picture.inverted else values
        level = values if values.ndim == 2 else values.max(axis=2)
        return level, picture.alpha, full
    alpha = None
    if picture.mode in {"RGBA", "LA", "PA", "RGBa", "La"} or "transparency" in picture.info:
        layer = picture.convert("LA" if picture.mode == "La" else "RGBA").convert("RGBA")
        alpha = np.asarray(layer.getchannel("A")) / np.float32(255)
        colours = np.asarray(layer)[:, :, :3]
    else:
        colours = np.asarray(picture.convert("RGB"))
    level = colours.max(axis=2)
    if picture.mode in {"P", "PA"} and not level.any():
        level = np.asarray(picture.getchannel(0))  # a palette of black alone: numbers of classes
    return level, None if alpha is None or not alpha.any() or alpha.min() == 1 else alpha, 255.0


def _foreground(level: npt.NDArray[Any], full: float, *, lossy: bool) -> _Bools:
    """What is not black, cut at half of white where the edges are soft."""
    inside = np.asarray(level > 0)
    highest = level.max(initial=0)
    if highest < _NEAR_WHITE * full:
        return inside
    between = inside & (level < highest)
    sloping = np.count_nonzero(_on_a_slope(level) & between)
    soft = lossy or 2 * sloping >= np.count_nonzero(between)
    return np.asarray(level > full / 2) if soft else inside


def _on_a_slope(level: npt.NDArray[Any]) -> _Bools:
    """Where a pixel has both a darker and a brighter neighbour (of 8), as on a soft edge."""
    lowest = ndimage.minimum_filter(level, size=3, mode="nearest")
    highest = ndimage.maximum_filter(level, size=3, mode="nearest")
    return np.asarray((lowest < level) & (level < highest))


def _seen(mask: _Bools, level: npt.NDArray[Any], alpha: npt.NDArray[Any]) -> _Bools:
    """A mask without what is transparent; of one colour, what is opaque is the defect."""
    opaque = np.asarray(alpha > 0.5)
    if level.min() == level.max() or not (mask & opaque).any():
        return opaque
    return mask & opaque
