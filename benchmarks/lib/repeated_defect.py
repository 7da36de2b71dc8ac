"""Drawn parts of which some have one and the same defect, as from a worn tool or a scratched mask.

The difference that a defect makes to one drawn part is laid upon photos of good parts, at the same
place of the picture: each has its own pose, light, tool marks and noise, so that the defects are
alike and not equal.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from musc_fast.datasets.sample.photo import take_photo

SIZE = 512
Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Stamp:
    """What a defect changes in a picture.

    change: [size, size, 3] in values of 8 bits, 0 away from the defect.
    mask: bool [size, size], True on the defect.
    """

    change: NDArray[np.float32]
    mask: NDArray[np.bool_]


def make_stamp(number: int, *, size: int = SIZE, seed: int = 0) -> Stamp:
    """The stamp of the defect of defective part `number` of the sample, see `sample.photo.CYCLE`.

    0, 4 and 8 are scratches, 1 a dent, 2 oil, 5 rust.
    """
    photo, repaired = (
        take_photo(number, defective=True, size=size, seed=seed, repaired=each)
        for each in (False, True)
    )
    assert photo.mask is not None  # of a defective part
    near = np.clip(1 - ndimage.distance_transform_edt(~photo.mask) / 3, 0, 1)
    change = photo.pixels.astype(np.float32) - repaired.pixels.astype(np.float32)
    return Stamp((near[..., None] * change).astype(np.float32), photo.mask)


def stamped(picture: Pixels, stamp: Stamp) -> Pixels:
    """A picture [size, size, 3] with the defect on it."""
    found: Pixels = np.rint(np.clip(picture + stamp.change, 0, 255)).astype(np.uint8)
    return found


def draw_repeats(
    images: int, defective: Collection[int], stamp: Stamp, *, seed: int = 0
) -> list[Pixels]:
    """Pictures of good parts 0 to `images` - 1; those at the places `defective` have the stamp."""
    good = good_parts(range(images), size=len(stamp.mask), seed=seed)
    return [
        stamped(picture, stamp) if place in defective else picture
        for place, picture in enumerate(good)
    ]


def good_parts(numbers: Sequence[int], *, size: int = SIZE, seed: int = 0) -> list[Pixels]:
    """Pictures of good parts of the sample."""
    return [take_photo(number, defective=False, size=size, seed=seed).pixels for number in numbers]
