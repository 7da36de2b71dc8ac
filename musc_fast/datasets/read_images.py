"""Reading images: one file as a picture, and what a batch of them needs to be read alike.

Every failure is an `ImageError` that names the file. Pixels are converted by fixed rules that do
not depend on an image's content (no stretching of contrast), so that images stay comparable in a
batch.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
from PIL import Image

from ..errors import ImageError
from ..settings import ReadSettings
from .decode import decode, peek_white
from .decode import image_size as _image_size
from .deep import DeepImage, alpha_note, batch_white

DEFAULTS = ReadSettings()


def read_image(
    path: str | os.PathLike[str], reading: ReadSettings = DEFAULTS, *, white: float | None = None
) -> Image.Image:
    """Read the first frame of an image file as 8-bit RGB, upright by its EXIF data.

    white: the white level of the batch where `reading` gives none; None: that of a batch of this
        image alone.
    Raises ImageError where the file is missing, no image, truncated, too large to be decoded
    safely, or has pixels whose white level is unknown.
    """
    picture = read_picture(path, reading)[0]
    if isinstance(picture, Image.Image):
        return picture
    with _named(path):
        return picture.rgb(reading.white if white is None else white)


def read_picture(
    path: str | os.PathLike[str], reading: ReadSettings = DEFAULTS
) -> tuple[Image.Image | DeepImage, tuple[str, ...]]:
    """Read an image file with all its bits: RGB of 8 bits, or a DeepImage.

    Also returns what the user should know: pages left out, alpha that is none.

    Raises ImageError as `read_image`, except for the white level.
    """
    picture, notes = decode(path, reading.max_pixels)
    if isinstance(picture, DeepImage):
        return picture, (*notes, *picture.notes)
    if _has_alpha(picture):
        rgb, note = _flatten(picture)
        return rgb, (*notes, note) if note else notes
    return to_rgb(picture), notes


def white_level(
    images: Sequence[Any], reading: ReadSettings = DEFAULTS
) -> tuple[float | None, str]:
    """The white level of a batch, and a sentence for the user where it was guessed.

    images: files; anything else than a path and a DeepImage is passed over.

    Raises InputError where the files contradict each other.
    """
    if reading.white is not None:
        return float(reading.white), ""
    return batch_white(
        partial(peek_white, image, reading.max_pixels)
        if isinstance(image, str | os.PathLike)
        else partial(image.need, f"image {index}")
        for index, image in enumerate(images)
        if isinstance(image, str | os.PathLike | DeepImage)
    )


def image_size(path: str | os.PathLike[str], reading: ReadSettings = DEFAULTS) -> tuple[int, int]:
    """Return the (height, width) of an upright image, without decoding it.

    Raises ImageError where the file is missing, no image or too large.
    """
    return _image_size(path, reading.max_pixels)


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert a PIL image of any mode to 8-bit RGB; an RGB image is returned unchanged.

    Images with transparency, also of a palette, are laid on white; an alpha channel that is none
    (see `deep.alpha_note`) is left out. 16-bit grey has the white level of a batch of this image
    alone. Pillow converts all other modes.

    Raises ImageError where pixels are floating-point numbers, or integers beyond 16 bits: their
    white level is unknown.
    """
    if image.mode.startswith("I") or image.mode == "F":
        return DeepImage(np.asarray(image)).rgb(None)
    if _has_alpha(image):
        return _flatten(image)[0]
    return image if image.mode == "RGB" else image.convert("RGB")


def _has_alpha(image: Image.Image) -> bool:
    return "transparency" in image.info or image.mode in {"RGBA", "LA", "PA", "RGBa", "La"}


def _flatten(image: Image.Image) -> tuple[Image.Image, str]:
    """An image with alpha laid on white, and why its alpha was left out, "" where it was not."""
    # Pillow converts La (premultiplied alpha) to LA alone, not to RGBA.
    layer = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
    if note := alpha_note(np.asarray(layer.getchannel("A"))):
        return layer.convert("RGB"), note
    white = Image.new("RGBA", layer.size, "white")
    return Image.alpha_composite(white, layer).convert("RGB"), ""


@contextmanager
def _named(path: str | os.PathLike[str]) -> Iterator[None]:
    try:
        yield
    except ImageError as error:
        raise ImageError(f"{os.fspath(path)}: {error}") from error
