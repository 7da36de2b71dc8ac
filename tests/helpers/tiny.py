"""A tiny ViT with random weights in a local file, and images for it: no test needs a network."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import timm
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import save_file

if TYPE_CHECKING:
    import pytest

    from musc_fast import MuSc
    from musc_fast.features.extraction import Extractor

TINY = "timm:test_vit"  # 160 px, patch 16, 64 channels


def tiny_weights(folder: Path) -> Path:
    path = folder / "tiny.safetensors"
    torch.manual_seed(0)
    save_file(timm.create_model("test_vit", pretrained=False).state_dict(), path)
    return path


DEFECTS = {1: (30, 60, (250, 20, 20)), 2: (60, 12, (20, 40, 240))}  # top, left, colour


def product(seed: int, defect: int = 0) -> NDArray[np.uint8]:
    """A striped product [96, 120, 3]; a defective one has a bright square on it.

    Two kinds of defect, since two images with the same one would be each other's twin.
    """
    rng = np.random.default_rng(seed)
    height, width = 96, 120
    stripes = 90 + 60 * (np.arange(width) // 12 % 2)
    image = np.tile(stripes[None, :, None], (height, 1, 3)) + rng.normal(0, 3, (height, width, 3))
    if defect:
        top, left, colour = DEFECTS[defect]
        image[top : top + 24, left : left + 24] = colour
    return np.clip(image, 0, 255).astype(np.uint8)


def product_folder(folder: Path, count: int = 6, defective: int = 4) -> list[Path]:
    """`count` PNG files; the one at index `defective` has a defect."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"part{k}.png" for k in range(count)]
    for k, path in enumerate(paths):
        Image.fromarray(product(k, int(k == defective))).save(path)
    return paths


class Counting:
    """Counts the images of which a backbone extracts features.

    user: what holds the backbone, a MuSc or an Extractor.
    """

    def __init__(self, user: MuSc | Extractor, monkeypatch: pytest.MonkeyPatch) -> None:
        self.images = 0
        original = user.backbone.extract

        def extract(images: torch.Tensor, **keywords: Any) -> object:
            self.images += images.shape[0]
            return original(images, **keywords)

        monkeypatch.setattr(user.backbone, "extract", extract)
