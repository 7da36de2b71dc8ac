"""The images of a batch in any form: files, PIL images, arrays, tensors."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from ..datasets.decode import deep_image
from ..datasets.deep import DeepImage
from ..datasets.find_images import find_images
from ..datasets.read_images import image_size, read_picture, to_rgb
from ..errors import ImageError, InputError
from ..settings import ReadSettings

ImageLike = str | os.PathLike[str] | Image.Image | NDArray[Any] | Tensor
# The way out of an unreadable image that not every caller offers.
SKIP_HINT = ", or skip them (skip_bad=True, --skip-bad)"
Images = str | os.PathLike[str] | Sequence[ImageLike] | Tensor


def check_apart(
    images: Sequence[ImageLike] | Tensor, references: Sequence[ImageLike] | Tensor
) -> None:
    """Raise InputError where an image file is its own reference: it would score 0."""
    files = [
        {Path(image).resolve() for image in side if isinstance(image, str | os.PathLike)}
        for side in (images, references)
    ]
    both = files[0] & files[1]
    if both:
        listing = "\n".join(f"  {path}" for path in sorted(both)[:10])
        raise InputError(
            f"{len(both)} images are among their own references and would score 0; leave them out "
            f"of one side:\n{listing}"
        )


def check_headers(paths: Sequence[Path], reading: ReadSettings) -> None:
    """Raise ImageError that lists the files whose headers cannot be read, before a model is loaded.

    A file that is cut short after its header is found by `Extractor.extract`.
    """

    def reason(path: Path) -> str | None:
        try:
            image_size(path, reading)
        except ImageError as error:
            return str(error)
        return None

    with ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as pool:
        found = pool.map(reason, paths)
        bad = [(str(path), why) for path, why in zip(paths, found, strict=True) if why]
    if bad:
        raise unreadable(bad, len(paths))


def as_sequence(images: Images) -> Sequence[ImageLike] | Tensor:
    """Return the image files of a folder; a sequence comes back as it is.

    Raises InputError where `images` is neither, or one image, ImageError where the folder holds no
    image.
    """
    if isinstance(images, str | os.PathLike):
        return find_images([Path(images)])
    if not isinstance(images, Sequence | Tensor | np.ndarray):
        raise InputError(
            f"images: found one {type(images).__name__}, wanted a sequence; put one image in a "
            "list: [image]"
        )
    refuse_one_image(images)
    return images


def refuse_one_image(images: object) -> None:
    """Raise InputError where an array or tensor is one image: its rows would pass for images."""
    if not isinstance(images, Tensor | np.ndarray) or not 2 <= images.ndim <= 3:
        return
    shape = list(images.shape)
    is_tensor = isinstance(images, Tensor)
    # A batch of grey arrays [N, h, w] is none of these: images are wider than 4 pixels.
    if len(shape) == 2 or is_tensor or shape[-1] in (1, 3, 4):
        raise InputError(
            f"images: found {'a tensor' if is_tensor else 'an array'} {shape}, which is one image, "
            "wanted a batch; put it in a list, [image], with others or with references"
        )


def unreadable(bad: Sequence[tuple[str, str]], total: int) -> ImageError:
    """Return the error that lists the images that cannot be read.

    bad: (name, reason) of each; the reason names the file.
    total: images in all; where all are bad, skipping them is no way out, and is not named.
    """
    listing = "\n".join(f"  {reason}" for _, reason in bad)
    way_out = f"remove them{SKIP_HINT}" if len(bad) < total else "none is left"
    return ImageError(f"{len(bad)} of {total} images cannot be read; {way_out}:\n{listing}")


def peekable(image: ImageLike) -> str | os.PathLike[str] | DeepImage | None:
    """What may have more than 8 bits a channel: a file, or the values of an array or PIL image."""
    if isinstance(image, str | os.PathLike | DeepImage):
        return image
    if isinstance(image, np.ndarray) and image.dtype == np.uint16 and image.ndim in (2, 3):
        return deep_image(image)
    if isinstance(image, Image.Image) and image.mode.startswith("I"):
        return DeepImage(np.asarray(image))
    return None


def picture_of(
    image: ImageLike, reading: ReadSettings
) -> tuple[Image.Image | DeepImage, tuple[str, ...]]:
    """Return one image in any accepted form, upright, and notes on it: RGB, or all its bits.

    Raises ImageError where a file cannot be read, or an array has another shape, dtype or range.
    """
    if isinstance(image, str | os.PathLike):
        return read_picture(Path(image), reading)
    if isinstance(image, DeepImage):
        return image, image.notes
    if isinstance(image, Image.Image):
        upright = ImageOps.exif_transpose(image)
        if upright.mode.startswith("I") or upright.mode == "F":
            return DeepImage(np.asarray(upright)), ()
        return to_rgb(upright), ()
    if isinstance(image, Tensor):
        if image.ndim != 3 or image.shape[0] not in (1, 3):
            raise ImageError(f"tensor image: found {list(image.shape)}, wanted [3, h, w]")
        if image.layout != torch.strided or image.device.type == "meta":
            raise ImageError("tensor image: found a sparse tensor or one without values")
        if image.is_floating_point():
            image = image.float()  # bfloat16 and float8 are unknown to NumPy
        image = image.detach().cpu().permute(1, 2, 0).numpy()
    if np.ma.is_masked(image):
        raise ImageError("array image: found masked pixels, which would count; fill them")
    try:
        array = np.asarray(image)
    except Exception:  # an object may raise anything when it is asked for an array
        raise ImageError(f"found {type(image).__name__}, wanted an image or its path") from None
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (3, 4)):
        raise ImageError(f"array image: found {list(array.shape)}, wanted (h, w) or (h, w, 3)")
    if array.dtype == np.uint16:
        return deep_image(array), ()
    if array.dtype != np.uint8:
        if not np.issubdtype(array.dtype, np.floating):
            raise ImageError(
                f"array image: found {array.dtype}, wanted uint8, uint16 or floats in 0..1"
            )
        if not np.isfinite(array).all() or array.min() < 0 or array.max() > 1:
            raise ImageError("array image: floats must lie in 0..1")
        array = np.rint(array * 255).astype(np.uint8)
    return to_rgb(Image.fromarray(np.ascontiguousarray(array))), ()
