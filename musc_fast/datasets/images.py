"""Finding and reading images and masks.

Every failure is an `ImageError` that names the file. Pixels are converted by fixed rules that never
look at an image's content (no per-image stretching), so that images stay comparable in a batch.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from ..errors import ImageError
from ..files import PICTURE_FOLDERS, RUN_FILE, is_results_folder

IMAGE_SUFFIXES = frozenset(
    {".bmp", ".jfif", ".jp2", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
)

_DIGITS = re.compile(r"(\d+)")
_QUARTER_TURNS = frozenset({5, 6, 7, 8})  # EXIF orientations that swap width and height


def natural_key(path: Path) -> tuple[tuple[tuple[str | int, ...], ...], str]:
    """Sort key that puts `part2` before `part10`; folders are compared part by part."""
    # The pieces alternate text, number, text, ...: equal positions always have equal types.
    parts = (
        tuple(
            int(piece) if index % 2 else piece.casefold()
            for index, piece in enumerate(_DIGITS.split(part))
        )
        for part in path.parts
    )
    return tuple(parts), str(path)  # the text decides between `a1` and `a01`


def list_images(folder: Path) -> list[Path]:
    """The image files directly in `folder`, natural sorted, hidden ones left out (may be empty)."""
    names = (entry for entry in folder.iterdir() if _is_image_name(entry.name))
    return sorted((entry for entry in names if entry.is_file()), key=natural_key)


def find_images(paths: Sequence[Path]) -> list[Path]:
    """Image files among `paths`: files as given, folders searched recursively.

    The order is that of `paths`, natural sorted within each folder. Hidden files and folders are
    skipped, as is anything in a folder without one of `IMAGE_SUFFIXES` (any case); a file named
    explicitly is taken whatever its suffix. A file reached twice is listed once: in a batch it
    would otherwise be its own perfect neighbour. Heat maps and overlays of earlier results are
    skipped, and so is what is no regular file (a pipe, a device).

    Raises:
        ImageError: a path does not exist or is neither file nor folder, or a folder holds no image.
    """
    found: dict[Path, Path] = {}  # real path -> path as found
    for path in map(Path, paths):
        if path.is_dir():
            inside = sorted(walk_images(path), key=natural_key)
            if not inside:
                if is_results_folder(path):
                    raise ImageError(
                        f"{path}: this folder holds results of musc_fast, whose pictures are not "
                        "scored, and no other image; name the folder of the photos"
                    )
                known = " ".join(sorted(IMAGE_SUFFIXES))
                raise ImageError(f"{path}: no images in this folder (looked for {known})")
        elif path.is_file():
            inside = [path]
        elif path.exists():
            raise ImageError(f"{path}: neither a file nor a folder")
        else:
            raise ImageError(f"{path}: no such file or folder")
        for file in inside:
            found.setdefault(file.resolve(), file)
    return list(found.values())


def read_image(path: str | os.PathLike[str]) -> Image.Image:
    """Read `path` as 8-bit RGB, upright (EXIF orientation applied); conversions as in `to_rgb`.

    Of a file with several frames the first is read.

    Raises:
        ImageError: the file is missing, no image, truncated, too large to be decoded safely, or has
            pixels that `to_rgb` refuses.
    """
    with _opened(path) as image:
        return to_rgb(ImageOps.exif_transpose(image))


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert any PIL image to 8-bit RGB; an RGB image is returned unchanged.

    16-bit grey is scaled by its full range (65535 becomes 255), not clipped as Pillow does.
    Transparent images (also by palette) are laid on white. Palette, CMYK and the rest are converted
    by Pillow.

    Raises:
        ImageError: floating-point pixels, or integers beyond 16 bits: they have no known white.
    """
    if image.mode.startswith("I"):
        return Image.fromarray(_grey_to_8_bits(np.asarray(image))).convert("RGB")
    if image.mode == "F":
        raise ImageError(
            "floating-point pixels have no known white level; save the image with 8 or 16 bits"
        )
    if "transparency" in image.info or image.mode in {"RGBA", "LA", "PA", "RGBa", "La"}:
        # Pillow converts La only to LA, RGBa only to RGBA.
        straight = image.convert("LA") if image.mode == "La" else image
        layer = straight.convert("RGBA")
        ground = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(ground, layer).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def image_size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """(height, width) of the upright image, without decoding it where the format allows.

    Raises:
        ImageError: the file is missing or no image.
    """
    with _opened(path) as image:
        width, height = image.size
        orientation = image.getexif().get(ExifTags.Base.Orientation)
        # Pillow swaps the size of a TIFF by itself.
        turned = orientation in _QUARTER_TURNS and image.format != "TIFF"
        return (width, height) if turned else (height, width)


def read_mask(
    path: str | os.PathLike[str], size: tuple[int, int] | None = None
) -> npt.NDArray[np.bool_]:
    """Read a ground-truth mask, bool [h, w], True on the defect.

    A pixel counts above half of white (> 127 at 8 bits). Where no pixel does, the file is taken as
    a map of defect classes (VisA has 1, 2, ... on black) and every value above 0 counts; so it does
    for palette colours other than black. A folder is the union of the masks in it (MVTec LOCO).

    Args:
        path: mask file, or a folder of masks of one image.
        size: (height, width) to resize to by nearest neighbour; None keeps the size of the file.

    Raises:
        ImageError: unreadable file, empty folder, or masks of different sizes in a folder.
    """
    path = Path(path)
    if path.is_dir():
        mask = _union(path)
    else:
        with _opened(path) as image:
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
    # 65535 = 255 * 257; the half rounds to nearest.
    return ((wide + 128) // 257).astype(np.uint8)


@contextmanager
def _opened(path: str | os.PathLike[str]) -> Iterator[Image.Image]:
    """Open `path` with Pillow and turn whatever goes wrong into an ImageError that names it."""
    try:
        with Image.open(path) as image:
            yield image
    except FileNotFoundError as error:
        raise ImageError(f"{os.fspath(path)}: no such file") from error
    except UnidentifiedImageError as error:
        raise ImageError(f"{os.fspath(path)}: not an image, or of an unknown format") from error
    except ImageError as error:
        raise ImageError(f"{os.fspath(path)}: {error}") from error
    except Image.DecompressionBombError as error:
        raise ImageError(f"{os.fspath(path)}: too large to be decoded safely ({error})") from error
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, struct.error, ...
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise ImageError(f"{os.fspath(path)}: cannot be read ({reason})") from error


def _is_image_name(name: str) -> bool:
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


def walk_images(folder: Path) -> Iterator[Path]:
    """Image files under `folder`; links to folders are followed, each real folder once.

    Our own pictures of an earlier run are left out; what else lies in its folder is not.
    """
    seen = {os.path.realpath(folder)}
    for base, folders, files in os.walk(folder, followlinks=True):
        fresh = []
        ours = PICTURE_FOLDERS if RUN_FILE in files and is_results_folder(base) else ()
        for name in sorted(folders):
            real = os.path.realpath(os.path.join(base, name))
            if not name.startswith(".") and name not in ours and real not in seen:
                seen.add(real)
                fresh.append(name)
        folders[:] = fresh
        found = (Path(base, name) for name in files if _is_image_name(name))
        # A broken link is kept: reading it names it, whereas skipping it would hide a lost image.
        yield from (file for file in found if file.is_file() or not os.path.exists(file))
