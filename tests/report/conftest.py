"""Scored batches with known maps, for the tests of the results folder and the report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from musc_fast.report.scored_batch import ScoredBatch
from musc_fast.threshold import find_threshold

RunMaker = Callable[..., ScoredBatch]


def bump(size: tuple[int, int], row: float, column: float, height: float) -> np.ndarray:
    """A round hill [h, w] on a floor of 0.1."""
    y, x = np.mgrid[: size[0], : size[1]]
    hill = np.exp(-((y - row) ** 2 + (x - column) ** 2) / (2 * 4.0**2))
    return (0.1 + height * hill).astype(np.float32)


def save(folder: Path, name: str, image: Image.Image) -> Path:
    """Save `image` as `folder`/images/`name` and return its path."""
    path = folder / "images" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, compress_level=1)
    return path


@pytest.fixture
def make_run(tmp_path: Path) -> RunMaker:
    """make_run(names, threshold=0.5, size=(w, h), noise=False), a batch with maps of 40 x 40.

    Image k has a peak of roughly 0.9 - 0.8 k / N at row 10, column 20.
    """

    def make(
        names: Sequence[str],
        threshold: float | None = 0.5,
        size: tuple[int, int] = (160, 120),
        noise: bool = False,
    ) -> ScoredBatch:
        rng = np.random.default_rng(0)
        paths = []
        for k, name in enumerate(names):
            pixels = np.full((size[1], size[0], 3), (60 + k) % 256, dtype=np.uint8)
            if noise:
                pixels = rng.integers(0, 256, pixels.shape, dtype=np.uint8)
            paths.append(save(tmp_path, name, Image.fromarray(pixels)))
        maps = np.stack(
            [bump((40, 40), 10, 20, 0.8 - 0.8 * k / len(names)) for k in range(len(names))]
        )
        raw = maps.max(axis=(1, 2))
        settings = {"backbone": "tiny", "image_size": [40, 40], "seconds": {"scoring": 61.0}}
        flags = find_threshold(raw, value=threshold if threshold is not None else np.inf)
        return ScoredBatch(paths, raw.copy(), raw, maps, settings, flags)

    return make


@pytest.fixture
def run(tmp_path: Path) -> ScoredBatch:
    """Three images in two folders; image 1 ranks first, images 1 and 2 are flagged."""
    paths = [
        save(tmp_path, name, Image.new("RGB", (40 + 10 * k, 30), (60 * k, 90, 50)))
        for k, name in enumerate(("x/a.png", "x/b.png", "c.png"))
    ]
    maps = np.random.default_rng(0).random((3, 14, 14)).astype(np.float32)
    scores = np.array([0.5, 0.9, 0.5], dtype=np.float32)
    raw = np.array([0.1, 0.2, 0.3], dtype=np.float32)
    return ScoredBatch(paths, scores, raw, maps, {"images": 3}, find_threshold(raw, value=0.2))
