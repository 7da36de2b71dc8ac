"""OpenCV, which is imported where an image is registered and nowhere else."""

from __future__ import annotations

from functools import cache
from typing import Any

from ..errors import BackendError


@cache
def opencv() -> Any:
    """The module cv2, without threads of its own: images are registered in several threads.

    Raises BackendError where it is not installed.
    """
    try:
        import cv2
    except ImportError as error:
        raise BackendError(
            f"align: images are registered by OpenCV, which cannot be imported ({error}); "
            "`pip install opencv-python-headless`, or leave align out"
        ) from None
    cv2.setNumThreads(1)
    return cv2
