"""Decoding image files with all their bits; every failure is an ImageError that names the file.

Pillow decodes images of up to 8 bits a channel, and grey ones of 16. It reads 16-bit colour through
8 bits, scrambles planar 16-bit TIFFs, shows white-is-zero ones as negatives and knows no float64:
such files are decoded by tifffile and imagecodecs.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from ..errors import ImageError
from .deep import DeepImage, WhiteNeed, alpha_note

MORE_CHANNELS = "has channels besides its colours, which are left out"
SEVERAL_PAGES = "has several pages or frames, of which the first alone is read"
_QUARTER_TURNS = frozenset({5, 6, 7, 8})  # EXIF orientations that swap width and height
_TIFF_MARKS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_pillow = threading.Lock()  # Pillow's limit of pixels is a variable of its module

_Path = str | os.PathLike[str]


def decode(path: _Path, max_pixels: int) -> tuple[Image.Image | DeepImage, tuple[str, ...]]:
    """Return the first picture of a file, upright, and what the user should know about it.

    A PIL image has up to 8 bits a channel.

    Raises ImageError where the file is missing, no image, truncated, larger than `max_pixels`, or
    of a kind that is not read.
    """
    with _errors(path):
        tiff = _Tiff(path, max_pixels) if _is_tiff(path) else None
        if tiff is not None and not tiff.is_for_pillow:
            return tiff.decode(), tiff.notes
        with _opened(path, max_pixels) as image:
            notes = (SEVERAL_PAGES,) if getattr(image, "n_frames", 1) > 1 else ()
            deep = _deep_by_pillow(image, path)
            picture = ImageOps.exif_transpose(image) if deep is None else deep
            return picture, notes if tiff is None else tiff.notes


def image_size(path: _Path, max_pixels: int) -> tuple[int, int]:
    """Return the (height, width) of an upright image, without decoding it.

    Raises ImageError as `decode`.
    """
    with _errors(path):
        if _is_tiff(path):
            return _Tiff(path, max_pixels).size
        with _opened(path, max_pixels) as image:
            width, height = image.size
            orientation = image.getexif().get(ExifTags.Base.Orientation)
            return (width, height) if orientation in _QUARTER_TURNS else (height, width)


def peek_white(path: _Path, max_pixels: int) -> WhiteNeed | None:
    """What a file says about white; None where it has up to 8 bits or cannot be read.

    Pixels are decoded only where the header does not tell.
    """
    try:
        with _errors(path):
            if _is_tiff(path):
                tiff = _Tiff(path, max_pixels)
                if tiff.bits <= 8 and tiff.is_whole:
                    return None
                if tiff.white:
                    return WhiteNeed(os.fspath(path), tiff.white, 0.0)
                picture = tiff.decode()
                return picture.need(os.fspath(path)) if isinstance(picture, DeepImage) else None
            with _opened(path, max_pixels) as image:
                deep = _deep_by_pillow(image, path)
                return None if deep is None else deep.need(os.fspath(path))
    except ImageError:
        return None  # `decode` raises when the image is read


@contextmanager
def _opened(path: _Path, max_pixels: int) -> Iterator[Image.Image]:
    # From an open file: given a name, Pillow 11 to 13 map the pixels of an uncompressed grey TIFF
    # in the size that its orientation tag turns them to, which scrambles them.
    with open(path, "rb") as file:
        with _pillow:
            limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
            try:
                image = Image.open(file)  # reads the header alone
            finally:
                Image.MAX_IMAGE_PIXELS = limit
        with image:
            _check_pixels(image.width * image.height, max_pixels)
            yield image


def _check_pixels(pixels: int, max_pixels: int) -> None:
    if pixels > max_pixels:
        raise ImageError(
            f"has {pixels / 1e6:.4g} megapixels, more than the {max_pixels / 1e6:.4g} allowed; "
            "where this is no damaged or hostile file, allow more (max_pixels=..., --max-pixels)"
        )


@contextmanager
def _errors(path: _Path) -> Iterator[None]:
    """Any error of opening or decoding becomes an ImageError that names the file."""
    name = os.fspath(path)
    try:
        yield
    except FileNotFoundError as error:
        raise ImageError(f"{name}: no such file") from error
    except UnidentifiedImageError as error:
        raise ImageError(f"{name}: not an image, or of an unknown format") from error
    except ImageError as error:
        raise ImageError(f"{name}: {error}") from error
    except Exception as error:  # decoders raise OSError, SyntaxError, struct.error, ...
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise ImageError(f"{name}: cannot be read ({reason})") from error


def _deep_by_pillow(image: Image.Image, path: _Path) -> DeepImage | None:
    """An image that Pillow opened, where it has more than 8 bits a channel."""
    # Before anything else: to look for EXIF data Pillow decodes a PNG, which clears the tiles.
    tiles: Any = getattr(image, "tile", None)
    codec, offset, mode = (tiles[0][0], tiles[0][2], tiles[0][3]) if tiles else ("", 0, "")
    if image.format == "JPEG2000":
        bits = _jpeg2000_bits(path)
        if bits > 8:
            import imagecodecs

            values = imagecodecs.jpeg2k_decode(Path(path).read_bytes())
            return deep_image(values, 1, 2**bits - 1 if bits < 16 else None)
    elif image.format == "PPM" and codec in ("ppm", "raw"):
        white = 65535 if mode == "I;16B" else mode[1] if len(mode) == 2 else 0
        if isinstance(white, int) and white > 255:
            return _netpbm(path, offset, image, white)
    elif image.format == "PNG" and image.mode != "I;16" and str(mode).endswith(";16B"):
        import imagecodecs

        values = imagecodecs.png_decode(Path(path).read_bytes())
        return deep_image(values, _orientation(image))
    if image.mode.startswith("I") or image.mode == "F":
        stated = 65535.0 if image.format == "PPM" else None  # Pillow scales text to 16 bits
        return deep_image(np.asarray(image), _orientation(image), stated)
    return None


def _orientation(image: Image.Image) -> int:
    return int(image.getexif().get(ExifTags.Base.Orientation, 1))


def _netpbm(path: _Path, offset: int, image: Image.Image, white: int) -> DeepImage:
    """A binary PGM or PPM of 16 bits; 65535 is what writers state that know no better."""
    shape = (image.height, image.width, len(image.mode))[: 2 if image.mode == "I" else 3]
    values = np.fromfile(path, dtype=">u2", count=int(np.prod(shape)), offset=offset)
    if values.size < np.prod(shape):
        raise ImageError("image file is truncated")
    stated = white if white < 65535 else None
    return DeepImage(values.astype(np.uint16).reshape(shape), white=stated)


def _jpeg2000_bits(path: _Path) -> int:
    """Bits a channel, from the marker SIZ (ISO 15444-1, annex A.5.1)."""
    with open(path, "rb") as file:
        head = file.read(1 << 16)
    start = head.find(b"\xff\x4f\xff\x51")
    return (head[start + 42] & 0x7F) + 1 if 0 <= start < len(head) - 42 else 8


def deep_image(
    values: NDArray[Any],
    orientation: int = 1,
    white: float | None = None,
    *,
    inverted: bool = False,
    alpha: bool | None = None,
    premultiplied: bool = False,
) -> DeepImage:
    """Values [h, w] or [h, w, c], upright, with an alpha channel apart.

    alpha: whether the channel after the colours is alpha; None: where there are 2 or 4 channels.
    """
    values = _upright(values, orientation)
    notes: tuple[str, ...] = ()
    opacity = None
    if values.ndim == 3:
        channels = values.shape[2]
        colours = 1 if channels < 3 else 3
        if channels > colours and alpha is not False:
            note = alpha_note(values[:, :, colours])
            notes = (note,) if note else ()
            if not note:
                full = np.iinfo(values.dtype).max if values.dtype.kind == "u" else 1
                opacity = (values[:, :, colours] / np.float32(full)).astype(np.float32)
        values = values[:, :, 0] if colours == 1 else values[:, :, :3]
    if premultiplied and opacity is not None:
        divided = values / np.maximum(opacity if values.ndim == 2 else opacity[..., None], 1e-6)
        values = np.rint(divided).astype(values.dtype)
    return DeepImage(values, white, inverted, opacity, notes)


def _upright(values: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Turn values [h, w, ...] by their EXIF orientation."""
    if orientation in _QUARTER_TURNS:
        values = np.swapaxes(values, 0, 1)
        orientation = {5: 1, 6: 2, 7: 3, 8: 4}[orientation]
    if orientation in (2, 3):
        values = values[:, ::-1]
    if orientation in (3, 4):
        values = values[::-1]
    return np.ascontiguousarray(values)


def _is_tiff(path: _Path) -> bool:
    with open(path, "rb") as file:
        return file.read(4) in _TIFF_MARKS


class _Tiff:
    """The header of a TIFF's first page, and its pixels where Pillow misreads them.

    is_for_pillow: whether Pillow reads it rightly: whole numbers of up to 8 bits, the channels of a
        pixel side by side, and none that Pillow does not know.
    white: the largest number of its bits, where the header states fewer bits than its type holds.
    """

    def __init__(self, path: _Path, max_pixels: int) -> None:
        import tifffile

        self.path = path
        with tifffile.TiffFile(path) as file:
            page: Any = file.pages.first
            pages = len(file.pages)
        if not isinstance(page.bitspersample, int):
            raise ImageError(f"its channels have different depths, {page.bitspersample} bits")
        channels = max(1, int(page.samplesperpixel) // 4)  # a small file can claim thousands
        _check_pixels(page.imagewidth * page.imagelength * channels, max_pixels)
        self.bits, self.is_whole = page.bitspersample, page.sampleformat == 1
        self.samples, self.photometric = int(page.samplesperpixel), int(page.photometric)
        self.planar = self.samples > 1 and int(page.planarconfig) == 2
        self.extra = [int(kind) for kind in page.extrasamples or ()]
        unknown = self.photometric in (0, 1) and len(self.extra) > 1  # to Pillow: grey and bands
        self.is_for_pillow = self.bits <= 8 and self.is_whole and not (self.planar or unknown)
        self.orientation = int(page.tags.valueof(274, default=1) or 1)
        height, width = page.imagelength, page.imagewidth
        #: (height, width), upright
        self.size = (width, height) if self.orientation in _QUARTER_TURNS else (height, width)
        full = page.dtype.itemsize * 8 if page.dtype is not None else self.bits
        self.white = float(2**self.bits - 1) if self.is_whole and self.bits < full else None
        more = any(kind not in (1, 2) for kind in self.extra) or len(self.extra) > 1
        told = {SEVERAL_PAGES: pages > 1, MORE_CHANNELS: more}
        self.notes = tuple(note for note, is_so in told.items() if is_so)

    def decode(self) -> Image.Image | DeepImage:
        """The pixels. Raises ImageError where they are neither grey nor RGB."""
        import tifffile

        if self.photometric not in (0, 1, 2):
            kind = getattr(tifffile.PHOTOMETRIC(self.photometric), "name", self.photometric)
            raise ImageError(
                f"its pixels are {kind} of {self.bits} bits, neither grey nor RGB; convert it to "
                "RGB of 8 or 16 bits"
            )
        with tifffile.TiffFile(self.path) as file:
            values = np.asarray(file.pages.first.asarray())
        if self.planar:
            values = np.moveaxis(values, 0, -1)
        colours = self.samples - len(self.extra)
        if values.ndim > 3 or colours != (3 if self.photometric == 2 else 1):
            raise ImageError(
                f"has {colours} channels of {self.bits} bits, wanted 1 (grey) or 3 (RGB)"
            )
        alpha = bool(self.extra) and self.extra[0] in (1, 2)
        if values.ndim == 3:
            values = values[:, :, : colours + alpha]
            values = values[:, :, 0] if values.shape[2] == 1 else values
        if self.bits <= 8 and values.dtype == np.uint8:
            values = 255 - values if self.photometric == 0 else values
            return Image.fromarray(_upright(values, self.orientation))
        return deep_image(
            values,
            self.orientation,
            self.white,
            inverted=self.photometric == 0,
            alpha=alpha,
            premultiplied=bool(self.extra) and self.extra[0] == 1,
        )
