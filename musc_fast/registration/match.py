"""How one small grey image lies on another: a search from coarse to fine.

On the coarsest level every turn (and scale) of a grid is tried, the shift found by phase
correlation; the best start is refined on each level by maximising the enhanced correlation
coefficient (Evangelidis and Psarakis 2008), which lighting does not change. A last refinement and
the correlations leave out the places that are least alike: a defect would draw the image to it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from .geometry import IDENTITY, Matrix, Size, to_pixels, to_units, turn_and_scale
from .opencv import opencv
from .pictures import Grey, smoothed

Motion = Literal["rigid", "similarity"]

_COARSER = (4, 2, 1)  # times that a level is smaller than the image
_TURNS = range(-15, 16, 3)  # degrees, of the starts
_SCALES = (0.92, 1.0, 1.08)  # of the starts, where the scale is free
_COMMON = 0.5  # share of the frame that must be common to both
_STEPS, _PRECISION = 30, 1e-5  # of the refinement on a level
_ALIKE = 0.9  # share of the frame that the last refinement looks at
_PLACE = 0.015  # size of a place that may be left out, in units of the longer side
_GAUSS = 3  # pixels that OpenCV smooths gradients over


@dataclass(frozen=True)
class Match:
    """How an image lies on the frame.

    transform: from the frame to the image, see `geometry`.
    before, after: correlation with the frame inside the common area, without and with it, the
        places that are least alike left out; -1 where less than half of the frame is common.
    whole: `after` with all places: a defect counts.
    """

    transform: Matrix
    before: float
    after: float
    whole: float


class Levels:
    """A small grey image, smoothed, and its coarser levels, the coarsest first."""

    def __init__(self, grey: Grey) -> None:
        cv2 = opencv()
        fine = smoothed(grey)
        self.size: Size = (fine.shape[0], fine.shape[1])
        self.images: list[Grey] = []
        for times in _COARSER:
            height, width = (max(8, side // times) for side in self.size)
            area = cv2.INTER_AREA
            level = fine if times == 1 else cv2.resize(fine, (width, height), interpolation=area)
            self.images.append(level)


def correlation(frame: Levels, image: Levels, transform: Matrix = IDENTITY) -> float:
    """The correlation of two images of one size inside their common area."""
    return _correlation(frame.images[-1], image.images[-1], transform)


def match(frame: Levels, image: Levels, motion: Motion) -> Match:
    """How `image` lies on `frame`; both have one size."""
    transform = _best_start(frame.images[0], image.images[0], motion)
    for still, moving in zip(frame.images, image.images, strict=True):
        if motion == "similarity":
            transform = _refined(still, moving, transform, affine=True)
        transform = _refined(still, moving, transform, affine=False)
    still, moving = frame.images[-1], image.images[-1]
    alike = _alike(still, moving, transform)
    transform = _refined(still, moving, transform, affine=False, alike=alike)
    return Match(
        transform,
        _correlation(still, moving, IDENTITY, alike),
        _correlation(still, moving, transform, alike),
        _correlation(still, moving, transform),
    )


def _alike(still: Grey, moving: Grey, transform: Matrix) -> NDArray[np.uint8]:
    """1 where the images are alike, 0 at the places of the frame where they are least."""
    cv2 = opencv()
    size: Size = (still.shape[0], still.shape[1])
    there = _warped(moving, to_pixels(transform, size, size), cv2.BORDER_REFLECT_101)
    spread = float(there.std())
    gain = float(still.std()) / spread if spread > 0 else 1.0
    apart = np.abs(still - still.mean() - gain * (there - there.mean()))
    apart = cv2.GaussianBlur(apart, (0, 0), _PLACE * max(size))
    return np.asarray(apart <= np.quantile(apart, _ALIKE), dtype=np.uint8)


def _starts(motion: Motion, size: Size) -> Iterator[Matrix]:
    """Turned and scaled about the centre, in pixels."""
    cv2 = opencv()
    centre = ((size[1] - 1) / 2, (size[0] - 1) / 2)
    for scale in (1.0,) if motion == "rigid" else _SCALES:
        for turn in _TURNS:
            yield np.asarray(cv2.getRotationMatrix2D(centre, turn, scale))


def _best_start(still: Grey, moving: Grey, motion: Motion) -> Matrix:
    cv2 = opencv()
    size, shape = still.shape[:2], still.shape[::-1]
    window = cv2.createHanningWindow(shape, cv2.CV_32F)
    best, highest = IDENTITY, -2.0
    for start in _starts(motion, size):
        turned = _warped(moving, start, cv2.BORDER_REFLECT_101)
        # It multiplies the images by the window in their own memory.
        shift, _ = cv2.phaseCorrelate(still.copy(), turned, window)
        shifted = start.copy()
        shifted[:, 2] += start[:, :2] @ np.asarray(shift)
        for matrix in (start, shifted):
            transform = to_units(matrix, size, size)
            found = _correlation(still, moving, transform)
            if found > highest:
                best, highest = transform, found
    return best


def _refined(
    still: Grey,
    moving: Grey,
    transform: Matrix,
    *,
    affine: bool,
    alike: NDArray[np.uint8] | None = None,
) -> Matrix:
    """The transform refined on a level; as it was where the search goes astray.

    affine: let all six numbers go, then take the nearest similarity; else the scale stays.
    alike: where to look on the frame; None: everywhere.
    """
    cv2 = opencv()
    size: Size = (still.shape[0], still.shape[1])
    _, scale = turn_and_scale(transform, size)
    # OpenCV knows no similarity: the image is scaled first, what is left is rigid.
    scaled = np.array([[scale, 0, 0], [0, scale, 0]]) if not affine else IDENTITY
    source = moving
    if not affine and abs(scale - 1) > 1e-9:
        width, height = (int(np.ceil(side / scale)) for side in moving.shape[::-1])
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        source = cv2.warpAffine(
            moving, scaled, (width, height), flags=flags, borderMode=cv2.BORDER_REPLICATE
        )
    matrix = to_pixels(transform, size, size)
    start = matrix if affine else matrix / scale
    mask = None
    if alike is not None:  # as the image has it
        mask = cv2.warpAffine(
            alike, start, source.shape[::-1], flags=cv2.INTER_NEAREST, borderValue=1
        )
    kind = cv2.MOTION_AFFINE if affine else cv2.MOTION_EUCLIDEAN
    criteria = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, _STEPS, _PRECISION)
    try:
        _, found = cv2.findTransformECC(
            still, source, start.astype(np.float32), kind, criteria, mask, _GAUSS
        )
    except cv2.error:  # the images have nothing in common, or one is constant
        return transform
    found = np.asarray(found, dtype=np.float64)
    if not np.isfinite(found).all():
        return transform
    refined = _nearest_similarity(found, size) if affine else found * scale
    result = to_units(refined, size, size)
    known = _correlation(still, moving, transform, alike)
    return result if _correlation(still, moving, result, alike) > known else transform


def _nearest_similarity(matrix: Matrix, size: Size) -> Matrix:
    """The similarity that moves the centre as `matrix` does, and the rest as nearly as it can."""
    a, b = matrix[0, 0] + matrix[1, 1], matrix[1, 0] - matrix[0, 1]
    linear = np.array([[a, -b], [b, a]]) / 2
    centre = np.array([(size[1] - 1) / 2, (size[0] - 1) / 2])
    shift = matrix[:, :2] @ centre + matrix[:, 2] - linear @ centre
    return np.column_stack([linear, shift])


def _correlation(
    still: Grey, moving: Grey, transform: Matrix, alike: NDArray[np.uint8] | None = None
) -> float:
    cv2 = opencv()
    size: Size = (still.shape[0], still.shape[1])
    matrix = to_pixels(transform, size, size)
    ones = np.ones(size, dtype=np.uint8)
    common = _warped(ones, matrix, cv2.BORDER_CONSTANT, cv2.INTER_NEAREST) > 0
    if common.mean() < _COMMON:
        return -1.0
    if alike is not None:
        common &= alike > 0
    a = still[common].astype(np.float64)
    b = _warped(moving, matrix, cv2.BORDER_REFLECT_101)[common].astype(np.float64)
    a -= a.mean()
    b -= b.mean()
    product = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / product if product > 0 else 0.0


def _warped(image: Any, matrix: Matrix, border: int, interpolation: int = 1) -> Any:
    """`image` seen through a matrix from the frame; interpolation 1 is linear."""
    cv2 = opencv()
    return cv2.warpAffine(
        image,
        matrix,
        image.shape[::-1],
        flags=interpolation | cv2.WARP_INVERSE_MAP,
        borderMode=border,
    )
