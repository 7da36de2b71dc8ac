"""The resize of images and masks for MuSc, as a transform of torchvision."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import Resize

from ..datasets.masks import shrunk
from ..features.preprocessing import preprocess

_ROUNDING = 1e-6  # of values in 0..1 that were 8-bit levels
_NO_MEAN, _UNIT = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)


class Squash(Resize):
    """Squashes images [..., 3, h, w] in 0..1 to one size, with the bits of musc_fast's own reader.

    The reader resizes 8-bit images by Pillow, which rounds to 8 bits; torchvision resizes them as
    floating-point numbers. Images that are no multiples of 1/255 are resized as numbers here, too.
    Masks take their nearest pixels by Pillow's rule, as in `musc-fast evaluate`. Images and masks
    of the size itself are left as they are.

    size: (height, width) in pixels.
    interpolation: of images.
    """

    def __init__(
        self,
        size: tuple[int, int],
        interpolation: Literal["bilinear", "bicubic"] = "bilinear",
    ) -> None:
        super().__init__(list(size), InterpolationMode(interpolation), antialias=True)

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Resize one tensor; called by torchvision for each image and mask of an input."""
        size = (int(self.size[0]), int(self.size[1]))
        if not isinstance(inpt, Tensor) or tuple(inpt.shape[-2:]) == size:
            return inpt
        if isinstance(inpt, tv_tensors.Mask):
            masks = inpt.cpu().numpy().reshape(-1, *inpt.shape[-2:])
            small = np.stack([shrunk(mask != 0, size) for mask in masks]).astype(np.uint8)
            resized = torch.from_numpy(small).reshape(*inpt.shape[:-2], *size)
        else:
            images = inpt.float().cpu().reshape(-1, *inpt.shape[-3:])
            resized = torch.stack([self._squash(image, size) for image in images])
            resized = resized.reshape(*inpt.shape[:-2], *size)
        resized = resized.to(inpt.device, inpt.dtype)
        return (
            tv_tensors.wrap(resized, like=inpt)
            if isinstance(inpt, tv_tensors.TVTensor)
            else (resized)
        )

    def _squash(self, image: Tensor, size: tuple[int, int]) -> Tensor:
        values = np.ascontiguousarray(image.permute(1, 2, 0).numpy())
        eight_bits = np.round(np.clip(values, 0, 1) * 255).astype(np.uint8)
        # torchvision scales by a product, which rounds otherwise than a quotient.
        exact = np.abs(eight_bits / np.float32(255) - values).max() < _ROUNDING
        picture = Image.fromarray(eight_bits) if exact else values
        return preprocess(picture, size, self.interpolation.value, _NO_MEAN, _UNIT)
