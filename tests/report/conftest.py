"""Runs with known maps, for the tests of the results folder and the report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from musc_fast.report.run import ScoredBatch
from musc_fast.threshold import find_threshold

RunMaker = Callable[..., ScoredBatch]


def bump(size: tuple[int, int], row: float, column: float, height: float) -> np.ndarray:
    """A round hill [h, w] on a floor of 0.1."""
    y, x = np.mgrid[: size[0], : size[1]]
    hill = np.exp(-((y - row) ** 2 + (x - column) ** 2) / (2 * 4.0**2))
    return (0.1 + height * hill).astype(np.float32)


@pytest.fixture
def make_run(tmp_path: Path) -> RunMaker:
    """make_run(names, threshold=0.5, size=(w, h), noise=False): image k has a peak of about
    0.9 - 0.8 k / N at row 10, column 20 of a map of 40 x 40."""

    def make(
        names: Sequence[str],
        threshold: float | None = 0.5,
        size: tuple[int, int] = (160, 120),
        noise: bool = False,
    ) -> ScoredBatch:
        rng = np.random.default_rng(0)
        paths = []
        for k, name in enumerate(names):
            path = tmp_path / "images" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = np.full((size[1], size[0], 3), (60 + k) % 256, dtype=np.uint8)
            if noise:
                pixels = rng.integers(0, 256, pixels.shape, dtype=np.uint8)
            Image.fromarray(pixels).save(path, compress_level=1)
            paths.append(path)
        maps = np.stack(
            [bump((40, 40), 10, 20, 0.8 - 0.8 * k / len(names)) for k in range(len(names))]
        )
        raw = maps.max(axis=(1, 2))
        settings = {"backbone": "tiny", "image_size": [40, 40], "seconds": {"scoring": 61.0}}
        flags = find_threshold(raw, value=threshold if threshold is not None else np.inf)
        return ScoredBatch(paths, raw.copy(), raw, maps, settings, flags)

    return make
