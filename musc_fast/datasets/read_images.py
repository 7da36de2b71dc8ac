"""Reading images and masks.

Every failure is an `ImageError` that names the file. Pixels are converted by fixed rules that do
not depend on an image's content (no stretching of contrast), so that images stay comparable in a
batch.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from ..errors import ImageError
from .find_images import list_images

_QUARTER_TURNS = frozenset({5, 6, 7, 8})  # EXIF orientations that swap width and height


def read_image(path: str | os.PathLike[str]) -> Image.Image:
    """Read the first frame of an image file as 8-bit RGB by `to_rgb`, upright by its EXIF data.

    Raises ImageError where the file is missing, no image, truncated, too large to be decoded
    safely, or has pixels that `to_rgb` refuses.
    """
    with _open_image(path) as image:
        return to_rgb(ImageOps.exif_transpose(image))


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert a PIL image of any mode to 8-bit RGB; an RGB image is returned unchanged.

    16-bit grey is scaled by its full range (65535 becomes 255), whereas Pillow clips it. Images
    with transparency, also of a palette, are laid on white. Pillow converts all other modes.

    Raises ImageError where pixels are floating-point numbers, or integers beyond 16 bits: their
    white level is unknown.
    """
    if image.mode.startswith("I"):
        return Image.fromarray(_grey_to_8_bits(np.asarray(image))).convert("RGB")
    if image.mode == "F":
        raise ImageError(
            "floating-point pixels have no known white level; save the image with 8 or 16 bits"
        )
    if "transparency" in image.info or image.mode in {"RGBA", "LA", "PA", "RGBa", "La"}:
        # Pillow converts La (premultiplied alpha) to LA alone, not to RGBA.
        straight = image.convert("LA") if image.mode == "La" else image
        layer = straight.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(white, layer).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def image_size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Return the (height, width) of an upright image, without decoding it where possible.

    Raises ImageError where the file is missing or no image.
    """
    with _open_image(path) as image:
        width, height = image.size
        orientation = image.getexif().get(ExifTags.Base.Orientation)
        # Pillow itself swaps width and height of a TIFF.
        swap = orientation in _QUARTER_TURNS and image.format != "TIFF"
        return (width, height) if swap else (height, width)


def read_mask(
    path: str | os.PathLike[str], size: tuple[int, int] | None = None
) -> npt.NDArray[np.bool_]:
    """Read a ground-truth mask, bool [h, w], True on the defect.

    A pixel is defective if it is brighter than half of white (> 127 at 8 bits). If no pixel is,
    the file is a map of defect classes (VisA has 1, 2, ... on black) and every pixel above 0 is
    defective. With a palette, every colour but black is defective.

    path: mask file, or a folder with several masks of one image, whose union counts (MVTec LOCO).
    size: (height, width) to resize to by nearest neighbour; None keeps the size of the file.
    Raises ImageError where a file is unreadable, or a folder is empty or has masks of different
    sizes.
    """
    path = Path(path)
    if path.is_dir():
        mask = _union(path)
    else:
        with _open_image(path) as image:
            mask = _foreground(ImageOps.exif_transpose(image))
    if size is None or mask.shape == tuple(size):
        return mask
    height, width = size
    resized = Image.fromarray(mask.astype(np.uint8)).resize(
        (width, height), Image.Resampling.NEAREST
    )
    return np.asarray(resized).astype(np.bool_)


def _union(folder: Path) -> npt.NDArray[np.bool_]:
    files = list_images(folder)
    if not files:
        raise ImageError(f"{folder}: no masks in this folder")
    union = read_mask(files[0])
    for file in files[1:]:
        mask = read_mask(file)
        if mask.shape != union.shape:
            raise ImageError(
                f"{file}: mask is {mask.shape[1]} x {mask.shape[0]}, but {files[0]} of the same "
                f"image is {union.shape[1]} x {union.shape[0]}"
            )
        union |= mask
    return union


def _foreground(image: Image.Image) -> npt.NDArray[np.bool_]:
    if image.mode in {"P", "PA"}:
        colours = np.asarray(image.convert("RGB"))
        return np.asarray(colours.any(axis=-1))
    wide = image.mode.startswith("I")
    grey: npt.NDArray[np.int32] = np.asarray(image if wide else image.convert("L"), dtype=np.int32)
    half = 32767 if wide else 127
    return np.asarray(grey > (half if grey.max(initial=0) > half else 0))


def _grey_to_8_bits(grey: npt.NDArray[np.generic]) -> npt.NDArray[np.uint8]:
    wide = grey.astype(np.int64)
    if wide.size and (wide.min() < 0 or wide.max() > 65535):
        raise ImageError(
            f"integer pixels from {wide.min()} to {wide.max()} exceed 16 bits and have no known "
            "white level; save the image with 8 or 16 bits"
        )
    # 65535 = 255 * 257, and adding half of 257 rounds to nearest.
    return ((wide + 128) // 257).astype(np.uint8)


@contextmanager
def _open_image(path: str | os.PathLike[str]) -> Iterator[Image.Image]:
    """Open `path` with Pillow; any error of opening or decoding becomes an ImageError."""
    try:
        # From an open file: given a name, Pillow 11 to 13 map the pixels of an uncompressed grey
        # TIFF in the size that its orientation tag turns them to, which scrambles them.
        with open(path, "rb") as file, Image.open(file) as image:
            yield image
    except FileNotFoundError as error:
        raise ImageError(f"{os.fspath(path)}: no such file") from error
    except UnidentifiedImageError as error:
        raise ImageError(f"{os.fspath(path)}: not an image, or of an unknown format") from error
    except ImageError as error:
        raise ImageError(f"{os.fspath(path)}: {error}") from error
    except Image.DecompressionBombError as error:
        raise ImageError(f"{os.fspath(path)}: too large to be decoded safely ({error})") from error
    except Exception as error:  # decoders of Pillow raise OSError, SyntaxError, struct.error, ...
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise ImageError(f"{os.fspath(path)}: cannot be read ({reason})") from error
