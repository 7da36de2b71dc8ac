"""Boards with parts at fixed places, seen by a camera that does not lie still; and textures."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from musc_fast.registration.geometry import to_units

BORDER = 40  # pixels that a board goes on beyond the picture


def moved(
    turn: float, shift: tuple[float, float], size: tuple[int, int], scale: float = 1.0
) -> NDArray[np.float64]:
    """The transform from the picture at rest to one turned (degrees) and shifted (pixels: x, y)."""
    height, width = size
    angle = math.radians(turn)
    a, b = scale * math.cos(angle), scale * math.sin(angle)
    x, y = (width - 1) / 2, (height - 1) / 2
    matrix = np.array([[a, -b, x - a * x + b * y + shift[0]], [b, a, y - b * x - a * y + shift[1]]])
    return to_units(matrix, size, size)


def board(
    transform: NDArray[np.float64] | None = None,
    *,
    seed: int = 0,
    noise: int = 0,
    size: tuple[int, int] = (96, 120),
    missing: int | None = None,
) -> NDArray[np.uint8]:
    """A board [h, w, 3] with parts drawn by `seed`.

    transform: where the board lies, as from `moved`; None: at rest.
    noise: seed of the sensor's noise. missing: the number of a part that is not there.
    """
    height, width = size
    rng = np.random.default_rng(seed)
    canvas = Image.new("RGB", (width + 2 * BORDER, height + 2 * BORDER), (24, 88, 48))
    draw = ImageDraw.Draw(canvas)
    for part in range(48):
        x, y = rng.integers(0, canvas.width), rng.integers(0, canvas.height)
        w, h = rng.integers(6, 22, 2)
        colour = tuple(int(c) for c in rng.integers(0, 256, 3))
        if part != missing:
            draw.rectangle((int(x), int(y), int(x + w), int(y + h)), fill=colour)
    canvas = canvas.filter(ImageFilter.GaussianBlur(0.7))
    there = np.eye(3)  # from pixels of the picture at rest to its own
    if transform is not None:
        scale = np.array([[width, 0, -0.5], [0, height, -0.5], [0, 0, 1]])
        there = scale @ np.vstack([transform, (0, 0, 1)]) @ np.linalg.inv(scale)
    back = np.linalg.inv(there)
    # Pillow maps the centres (x + 0.5, y + 0.5) of the picture to points of the canvas.
    shift = back[:2, 2] - back[:2, :2] @ (0.5, 0.5) + BORDER + 0.5
    data = (*back[0, :2], shift[0], *back[1, :2], shift[1])
    picture = canvas.transform(
        (width, height), Image.Transform.AFFINE, tuple(map(float, data)), Image.Resampling.BICUBIC
    )
    grain = np.random.default_rng(1000 + noise).normal(0, 3, (height, width, 1))
    return np.clip(np.asarray(picture) + grain, 0, 255).astype(np.uint8)


def moved_boards(
    folder: Path,
    count: int = 6,
    missing: int | None = None,
    defective: int = 4,
    size: tuple[int, int] = (96, 120),
) -> list[Path]:
    """`count` PNG files of boards, each in another place; one may have a part missing."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"board{k}.png" for k in range(count)]
    rng = np.random.default_rng(2)
    for k, path in enumerate(paths):
        place = moved(rng.uniform(-4, 4), tuple(rng.uniform(-6, 6, 2)), size)
        gone = missing if k == defective else None
        Image.fromarray(board(place, noise=k, missing=gone, size=size)).save(path)
    return paths


def texture(seed: int, size: tuple[int, int] = (96, 120)) -> NDArray[np.uint8]:
    """Grain without outlines [h, w, 3], other on every picture."""
    rng = np.random.default_rng(seed)
    grain = Image.fromarray(rng.integers(0, 256, size, dtype=np.uint8))
    return np.asarray(grain.filter(ImageFilter.GaussianBlur(2)).convert("RGB"))
