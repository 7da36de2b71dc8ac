"""Folders in the layouts of public data sets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from musc_fast.datasets.layouts import Category


def draw(path: Path, size: tuple[int, int] = (6, 8), spot: int | None = None) -> Path:
    """A grey picture of (height, width); with a `spot` a mask whose pixel (0, spot) is white."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full(size, 0 if spot is not None else 100, np.uint8)
    if spot is not None:
        pixels[0, spot] = 255
    Image.fromarray(pixels).save(path)
    return path


def summary(category: Category, root: Path) -> list[tuple[str, bool | None, str, str | None]]:
    return [
        (
            sample.image.relative_to(root).as_posix(),
            sample.label,
            sample.defect,
            sample.mask and sample.mask.relative_to(root).as_posix(),
        )
        for sample in category.samples
    ]


def mvtec_tree(root: Path) -> Path:
    for name in ("000", "001", "002"):
        draw(root / f"bottle/train/good/{name}.png")
    draw(root / "bottle/test/good/000.png")
    draw(root / "bottle/test/broken/2.png")
    draw(root / "bottle/test/broken/10.png")
    draw(root / "bottle/ground_truth/broken/10_mask.png", spot=1)
    draw(root / "bottle/ground_truth/broken/2_mask.png", spot=2)
    draw(root / "screw/test/good/000.png")
    (root / "license.txt").write_text("text")
    (root / "bottle/test/broken/.DS_Store").write_text("hidden")
    (root / "empty").mkdir()
    return root
