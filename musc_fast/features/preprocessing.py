"""Images to input tensors: squash resize, no crop, normalised channels (official behaviour)."""

from __future__ import annotations

from functools import cache
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from ..datasets.read_images import to_rgb

_FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


def preprocess(
    image: Image.Image | NDArray[np.float32],
    size: tuple[int, int],
    interpolation: Literal["bicubic", "bilinear"],
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
) -> torch.Tensor:
    """Return an image as a model's input, [3, h, w] float32.

    The result equals that of torchvision's Resize, ToTensor and Normalize on the same RGB image to
    the bit. EXIF orientation is not applied here, but by
    `datasets.read_images.read_image`, which reads a file.

    image: of any mode, which `datasets.read_images.to_rgb` converts; or values in 0..1, [h, w] or
        [h, w, 3], of an image of more than 8 bits, all of which count: they are resized as numbers.
    size: (height, width) in pixels to which the image is squashed.
    interpolation: of the resize.
    mean, std: of each channel on the scale 0..1.
    """
    resample = _FILTERS[interpolation]
    if not isinstance(image, Image.Image):
        pixels = _resized(image, size, resample)
        offset = torch.tensor(mean, dtype=torch.float32, device="cpu").view(3, 1, 1)
        scale = torch.tensor(std, dtype=torch.float32, device="cpu").view(3, 1, 1)
        return ((pixels - offset) / scale).contiguous()
    resized = np.asarray(to_rgb(image).resize((size[1], size[0]), resample))
    out = np.empty((3, *size), dtype=np.float32)
    for channel, table in enumerate(_tables(mean, std)):
        # A table of the 256 values gives the same bits, and keeps the threads that read images
        # from starting torch's own threads, which would take the cores from the backbone.
        np.take(table, resized[:, :, channel], out=out[channel])
    return torch.from_numpy(out)


@cache
def _tables(
    mean: tuple[float, float, float], std: tuple[float, float, float]
) -> NDArray[np.float32]:
    """The normalised value of every 8-bit value in each channel, [3, 256]."""
    values = torch.arange(256, dtype=torch.float32, device="cpu") / 255.0
    offset = torch.tensor(mean, dtype=torch.float32, device="cpu").view(3, 1)
    scale = torch.tensor(std, dtype=torch.float32, device="cpu").view(3, 1)
    return np.asarray(((values - offset) / scale).numpy())


def _resized(
    values: NDArray[np.float32], size: tuple[int, int], resample: Image.Resampling
) -> torch.Tensor:
    """Values [h, w] or [h, w, 3] in 0..1 as [3, *size], cut to 0..1 as Pillow cuts 8-bit ones."""
    channels = [values] if values.ndim == 2 else [values[:, :, k] for k in range(3)]
    resized = [
        np.asarray(
            Image.fromarray(np.ascontiguousarray(channel)).resize((size[1], size[0]), resample)
        )
        for channel in channels
    ]
    pixels = torch.from_numpy(np.stack(resized)).clamp_(0, 1)
    return pixels.expand(3, -1, -1)
