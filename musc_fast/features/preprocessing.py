"""Images to input tensors: squash resize, no crop, normalised channels (official behaviour)."""

from __future__ import annotations

from typing import Literal

import numpy as np
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
    resized = to_rgb(image).resize((size[1], size[0]), _FILTERS[interpolation])
    pixels = torch.from_numpy(np.array(resized)).permute(2, 0, 1).float() / 255.0
    offset = torch.tensor(mean, dtype=torch.float32, device="cpu").view(3, 1, 1)
    scale = torch.tensor(std, dtype=torch.float32, device="cpu").view(3, 1, 1)
    return ((pixels - offset) / scale).contiguous()
