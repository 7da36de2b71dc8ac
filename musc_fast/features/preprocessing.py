"""Images to input tensors: squash resize, no crop, normalised channels (official behaviour)."""

from __future__ import annotations

from functools import cache
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from ..datasets.read_images import to_rgb

_FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


def preprocess(
    image: Image.Image,
    size: tuple[int, int],
    interpolation: Literal["bicubic", "bilinear"],
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
) -> torch.Tensor:
    """Return an image as a model's input, [3, h, w] float32.

    The result equals that of torchvision's Resize, ToTensor and Normalize on the same RGB image to
    the bit. EXIF orientation is not applied here, but by
    `datasets.read_images.read_image`, which reads a file.

    image: of any mode; `datasets.read_images.to_rgb` converts it.
    size: (height, width) in pixels to which the image is squashed.
    interpolation: of the resize.
    mean, std: of each channel on the scale 0..1.
    """
    resized = np.asarray(to_rgb(image).resize((size[1], size[0]), _FILTERS[interpolation]))
    out = np.empty((3, *size), dtype=np.float32)
    for channel, table in enumerate(_tables(mean, std)):
        # A table of the 256 values gives the same bits, and keeps the threads that read images
        # from starting torch's own threads, which would take the cores from the backbone.
        np.take(table, resized[:, :, channel], out=out[channel])
    return torch.from_numpy(out)


@cache
def _tables(
    mean: tuple[float, float, float], std: tuple[float, float, float]
) -> npt.NDArray[np.float32]:
    """The normalised value of every 8-bit value in each channel, [3, 256]."""
    values = torch.arange(256).float() / 255.0
    offset = torch.tensor(mean).view(3, 1)
    scale = torch.tensor(std).view(3, 1)
    return np.asarray(((values - offset) / scale).numpy())
