"""One photograph of the demo sample: pose, light, lens, sensor, and the mask of the defect."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from .defects import DEFECTS
from .part import BOLT_HOLES, DOWEL_HOLES, HOLES, Array, Frame, Pose, build_part
from .shading import Light, shade

# Defective part k has the defect k % 8 of these: its type and its variant.
CYCLE = (
    ("scratch", "scratch"),
    ("dent", "dent"),
    ("stain", "oil"),
    ("missing_hole", "bolt"),
    ("scratch", "scratch"),
    ("stain", "rust"),
    ("dent", "dent"),
    ("missing_hole", "dowel"),
)
_GOOD, _DEFECTIVE = 0, 1  # part of the seed of an image's random streams
_VISIBLE = 0.016  # least change of a picture value (0..1) that belongs to a defect


@dataclass(frozen=True)
class Photo:
    """A picture and its mask.

    pixels: uint8 [size, size, 3].
    mask: bool [size, size], True on the defect; None for a good part.
    """

    pixels: NDArray[np.uint8]
    mask: NDArray[np.bool_] | None


def take_photo(
    number: int, *, defective: bool, size: int, seed: int = 0, repaired: bool = False
) -> Photo:
    """Photograph one part.

    number: of the part among the good or among the defective ones.
    size: side of the picture in pixels.
    seed: of the whole sample.
    repaired: leave the defect out of the picture, but not out of the mask. Outside the mask and a
        border of 3 pixels about it, the picture equals that of the defective part to the bit.
    """
    kind = _DEFECTIVE if defective else _GOOD
    scene, noise = (np.random.default_rng((seed, kind, number, part)) for part in (0, 1))
    pose = Pose(
        shift_x=scene.uniform(-0.012, 0.012),
        shift_y=scene.uniform(-0.012, 0.012),
        angle=np.radians(scene.uniform(-1.6, 1.6)),
        scale=scene.uniform(0.995, 1.005),
    )
    light = Light(
        x=Light.x + scene.uniform(-0.07, 0.07),
        y=Light.y + scene.uniform(-0.07, 0.07),
        strength=scene.uniform(0.96, 1.04),
        warmth=scene.uniform(-0.012, 0.012),
    )
    frame = Frame(2 * size, pose)
    finish = int(scene.integers(2**62))
    linear = _expose(frame, light, finish, size)
    mask = None
    if defective:
        damaged = _expose(frame, light, finish, size, (CYCLE[number % len(CYCLE)][1], number, seed))
        mask = _defect_mask(_develop(damaged) - _develop(linear), size)
        if not repaired:
            linear = linear + _feather(mask) * (damaged - linear)
    # The variance of shot noise grows with the light, that of read noise does not.
    grain = noise.standard_normal((3, size, size), dtype=np.float32)
    linear = linear + grain * np.sqrt(4.0e-5 * np.maximum(linear, 0.0) + 4.0e-7)
    pixels = np.rint(255.0 * _develop(linear)).astype(np.uint8)
    return Photo(np.ascontiguousarray(pixels.transpose(1, 2, 0)), mask)


def _expose(
    frame: Frame, light: Light, finish: int, size: int, defect: tuple[str, int, int] | None = None
) -> Array:
    """Linear RGB [3, size, size] behind the lens.

    finish: seed of the tool marks and the mat.
    defect: (variant, number of the part, seed); None for a part without defect.
    """
    rng = np.random.default_rng(finish)
    holes, damage = HOLES, None
    if defect is not None:
        variant, number, seed = defect
        damage = np.random.default_rng((seed, _DEFECTIVE, number, 2))
        if variant in ("bolt", "dowel"):
            choice = BOLT_HOLES if variant == "bolt" else DOWEL_HOLES
            missing = choice[int(damage.integers(len(choice)))]
            holes = tuple(hole for hole in HOLES if hole != missing)
    surface = build_part(frame, holes, rng)
    if defect is not None and damage is not None and defect[0] in DEFECTS:
        DEFECTS[defect[0]](surface, frame, damage)
    double = shade(surface, frame, light, rng)
    rows = double[:, 0::2] + double[:, 1::2]
    linear: Array = np.float32(0.25) * (rows[..., 0::2] + rows[..., 1::2])
    ndimage.gaussian_filter(linear, (0.0, 0.5, 0.5), output=linear)
    axis = np.linspace(-1.0, 1.0, size, dtype=np.float32)
    linear *= 1.0 - 0.09 * (axis[:, None] ** 2 + axis[None, :] ** 2)
    return linear


def _develop(linear: Array) -> Array:
    """Map linear light to picture values in [0, 1]: a soft shoulder, then gamma."""
    picture: Array = (1.0 - np.exp(-2.5 * np.maximum(linear, 0.0))) ** np.float32(1 / 2.2)
    return picture


def _defect_mask(difference: Array, size: int) -> NDArray[np.bool_]:
    """Mask of visible differences of two pictures, gaps closed and specks dropped.

    difference: [3, size, size] of the picture values.
    """
    visible = np.abs(difference).max(axis=0) > _VISIBLE
    reach = max(1, round(size / 256))
    closed = ndimage.binary_closing(np.pad(visible, reach), iterations=reach)[
        reach:-reach, reach:-reach
    ]
    filled = ndimage.binary_fill_holes(closed)
    regions, _ = ndimage.label(filled, structure=np.ones((3, 3)))
    area = np.bincount(regions.ravel())
    keep = area >= max(4.0, 0.04 * area[1:].max(initial=0))
    keep[0] = False
    mask: NDArray[np.bool_] = keep[regions]
    return mask


def _feather(mask: NDArray[np.bool_]) -> Array:
    """Weight [size, size] that is 1 on the mask and falls to 0 within 3 pixels."""
    distance = ndimage.distance_transform_edt(~mask)
    feather: Array = np.clip(1.0 - distance / 3.0, 0.0, 1.0).astype(np.float32)
    return feather
