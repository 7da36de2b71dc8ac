"""The frame of the images of a batch, chosen from a few of them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from torch import Tensor

from ..datasets.deep import DeepImage
from ..errors import ImageError
from ..registration import (
    SAMPLE,
    Alignment,
    Frame,
    Frames,
    choose_frame,
    frames_of,
    small_grey,
)
from ..registration.pictures import Grey, Picture
from ..settings import Align, ReadSettings
from .batch_images import ImageLike, picture_of

_OF_IMAGES = 4  # of the sample, where the frame is a reference: the images may lie otherwise


def align_batch(
    images: Sequence[ImageLike] | Tensor,
    references: Sequence[ImageLike] | Tensor,
    align: Align,
    reading: ReadSettings,
    white: float | None,
) -> Alignment:
    """Decide on the frame of images and their references, which are not read where align is "off".

    reading, white: how they are read. Images that cannot be read are passed over.
    """
    if align == "off":
        return Alignment(None, "")
    first = _spread(references, SAMPLE) if len(references) else _spread(images, SAMPLE)
    second = _spread(images, max(_OF_IMAGES, SAMPLE - len(first))) if len(references) else []

    def read(item: tuple[str, ImageLike]) -> tuple[str, Grey] | None:
        try:
            return item[0], small_grey(_picture(item[1], reading, white))
        except ImageError:
            return None

    with ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as pool:
        found = list(pool.map(read, [*first, *second]))
    candidates = sum(each is not None for each in found[: len(first)])
    readable = [each for each in found if each is not None]
    if candidates == 0:
        return Alignment(None, "")  # the extraction tells which images cannot be read
    names, greys = zip(*readable, strict=True)
    return choose_frame(names, greys, align, candidates)


def frames_of_image(
    image: ImageLike, frame: Frame, reading: ReadSettings, white: float | None
) -> Frames:
    """Where one image lies on a frame. Raises ImageError where it cannot be read."""
    return frames_of(frame, [_name(image, 0)], [frame.place_of(_picture(image, reading, white))])


def _picture(image: ImageLike, reading: ReadSettings, white: float | None) -> Picture:
    picture, _ = picture_of(image, reading)
    return picture.unit(white) if isinstance(picture, DeepImage) else picture


def _name(image: ImageLike, place: int) -> str:
    return str(image) if isinstance(image, str | os.PathLike) else f"image {place}"


def _spread(images: Sequence[ImageLike] | Tensor, most: int) -> list[tuple[str, ImageLike]]:
    """At most so many images, from the first to the last, with their names."""
    count = len(images)
    places: Sequence[int] = range(count)
    if count > most:
        places = [round(k * (count - 1) / (most - 1)) for k in range(most)]
    return [
        (_name(image, place), image)
        for place, image in ((place, images[place]) for place in places)
    ]
