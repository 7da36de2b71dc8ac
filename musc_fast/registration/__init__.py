"""Registration: bringing the images of a batch onto one of them, the frame, by OpenCV."""

from __future__ import annotations

from .choice import SAMPLE, Alignment, choose_frame
from .frame import Frame, Frames, Place, frames_of
from .maps import own_grid, own_maps
from .pictures import small_grey

__all__ = [
    "SAMPLE",
    "Alignment",
    "Frame",
    "Frames",
    "Place",
    "choose_frame",
    "frames_of",
    "own_grid",
    "own_maps",
    "small_grey",
]
