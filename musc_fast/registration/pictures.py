"""Images as registration sees them, small and grey, and images brought onto the frame."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .geometry import Matrix, Size, to_pixels
from .opencv import opencv

Grey = NDArray[np.float32]
Picture = Image.Image | NDArray[np.float32]

LONGEST = 256  # pixels of the longer side that registration looks at
LARGEST = 32766  # pixels a side that OpenCV can warp
_LEAST = 8
_BLUR = 1.0  # standard deviation in pixels: noise and the finest texture say nothing of the place


def small_size(size: Size) -> Size:
    """The size at which an image of `size` is registered: its shape, at most `LONGEST` long."""
    longest = min(LONGEST, max(size))
    height, width = (max(_LEAST, round(side * longest / max(size))) for side in size)
    return height, width


def size_of(picture: Picture) -> Size:
    """(height, width)."""
    if isinstance(picture, Image.Image):
        return picture.height, picture.width
    return int(picture.shape[0]), int(picture.shape[1])


def small_grey(picture: Picture, size: Size | None = None) -> Grey:
    """The image in grey of 0..255, squashed to `size` (None: see `small_size`) and not smoothed.

    picture: a PIL image, or values in 0..1, [h, w] or [h, w, 3].
    """
    cv2 = opencv()
    height, width = small_size(size_of(picture)) if size is None else size
    if isinstance(picture, Image.Image):
        shrink = min(picture.width // (2 * width), picture.height // (2 * height))
        small = picture.reduce(shrink) if shrink > 1 else picture  # a large image, quickly
        values = np.asarray(small.convert("L"), dtype=np.float32)
    elif picture.ndim == 3:
        values = picture @ np.array([0.299, 0.587, 0.114], dtype=np.float32) * 255
    else:
        values = picture * np.float32(255)
    found = cv2.resize(values, (width, height), interpolation=cv2.INTER_AREA)
    return np.asarray(found, dtype=np.float32)


def smoothed(grey: Grey) -> Grey:
    """The image without its noise."""
    return np.asarray(opencv().GaussianBlur(grey, (0, 0), _BLUR), dtype=np.float32)


def onto_frame(picture: Picture, transform: Matrix) -> Picture:
    """The image as it lies on the frame, in its own size; what it does not show is mirrored.

    transform: as in `geometry`.
    """
    values = np.asarray(picture)
    warped: Any = warp(values, to_pixels(transform, size_of(picture), size_of(picture)))
    if isinstance(picture, Image.Image):
        return Image.fromarray(warped)
    return np.asarray(np.clip(warped, 0, 1), dtype=np.float32)  # cubic interpolation overshoots


def warp(values: NDArray[Any], matrix: Matrix) -> NDArray[Any]:
    """`values` [h, w] or [h, w, 3] by cubic interpolation; matrix: from `geometry.to_pixels`."""
    cv2 = opencv()
    height, width = values.shape[:2]
    found = cv2.warpAffine(
        values,
        matrix,
        (width, height),
        flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REFLECT_101,
    )
    return np.asarray(found)
