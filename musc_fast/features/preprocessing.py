"""Images to input tensors: squash resize, no crop, normalised channels (official behaviour)."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from PIL import Image

from ..datasets.images import to_rgb

_FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


def preprocess(
    image: Image.Image,
    size: tuple[int, int],
    interpolation: Literal["bicubic", "bilinear"],
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
) -> torch.Tensor:
    """Return `image` as [3, h, w] float32: squashed to `size` (h, w), scaled to 0..1, normalised.

    Equals torchvision's Resize, ToTensor and Normalize on the same RGB image, to the bit; other
    modes become RGB as `datasets.images.to_rgb` says. EXIF orientation is left alone: reading a
    file is the business of `datasets.images.read_image`.
    """
    resized = to_rgb(image).resize((size[1], size[0]), _FILTERS[interpolation])
    pixels = torch.from_numpy(np.array(resized)).permute(2, 0, 1).float() / 255.0
    offset = torch.tensor(mean).view(3, 1, 1)
    scale = torch.tensor(std).view(3, 1, 1)
    return ((pixels - offset) / scale).contiguous()
