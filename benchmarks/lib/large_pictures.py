"""Large pictures with small defects, drawn: boards with a bent pin or no part, scratched casts.

A picture is `SIDE` pixels wide and high; what is wrong with a defective one is about a hundredth of
that, so that it vanishes where the whole picture is shrunk to the input of a backbone. Everything
follows from the seed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

SIDE = 3136
GOOD, BAD = 15, 9
_DARK, _METAL, _GREEN, _TAN = (30, 30, 34), (190, 190, 195), (24, 88, 48), (150, 105, 70)
_PIN, _PITCH, _LENGTH = 10, 22, 30  # width, distance and length of a chip's pins in pixels
_Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class _Part:
    """A part of a board: "chip" or "small", and its corner at the top left in pixels."""

    kind: str
    left: int
    top: int


def draw_boards(folder: Path, *, seed: int = 5, good: int = GOOD, bad: int = BAD) -> Path:
    """Draw circuit boards below `folder` in the layout of MVTec AD; returns the category's folder.

    A defective board has a chip with one bent pin, or lacks one of its small parts, which are 48 x
    18 pixels, about 1% of the side. The boards lie still; each part is placed within 2 pixels, and
    each picture has noise and light of its own.
    """
    rng = np.random.default_rng(seed)
    layout = _board_layout(rng)

    def draw(defect: str) -> tuple[Image.Image, Image.Image]:
        return _board(rng, layout, defect)

    return _write(folder / "large_board", draw, ("bent", "missing"), good, bad)


def draw_casts(folder: Path, *, seed: int = 5, good: int = GOOD, bad: int = BAD) -> Path:
    """Draw rough cast surfaces below `folder`, each grain its own; returns the category's folder.

    A defective one has a hair scratch, 2 pixels wide and 80 to 160 long.
    """
    rng = np.random.default_rng(seed)
    return _write(folder / "large_cast", lambda defect: _cast(rng, defect), ("scratch",), good, bad)


def _write(
    folder: Path,
    draw: Callable[[str], tuple[Image.Image, Image.Image]],
    defects: tuple[str, ...],
    good: int,
    bad: int,
) -> Path:
    """Draw and write the pictures and masks of a category; the defects take turns."""
    for number in range(good + bad):
        defect = "good" if number < good else defects[number % len(defects)]
        picture, mask = draw(defect)
        files = {folder / "test" / defect / f"{number:03d}.png": picture}
        if defect != "good":
            files[folder / "ground_truth" / defect / f"{number:03d}_mask.png"] = mask
        for file, drawn in files.items():
            file.parent.mkdir(parents=True, exist_ok=True)
            drawn.save(file, compress_level=1)
    return folder


def _board_layout(rng: np.random.Generator) -> list[_Part]:
    """Chips and rows of small parts in the cells of a board."""
    parts: list[_Part] = []
    for row in range(7):
        for column in range(6):
            left = 150 + column * 490 + int(rng.integers(-30, 30))
            top = 130 + row * 430 + int(rng.integers(-30, 30))
            if rng.random() < 0.5:
                parts.append(_Part("chip", left, top))
                continue
            count = int(rng.integers(4, 9))
            parts += [_Part("small", left + k % 4 * 80, top + k // 4 * 90) for k in range(count)]
    return parts


def _board(
    rng: np.random.Generator, layout: list[_Part], defect: str
) -> tuple[Image.Image, Image.Image]:
    image = Image.new("RGB", (SIDE, SIDE), _GREEN)
    mask = Image.new("L", (SIDE, SIDE), 0)
    pen = ImageDraw.Draw(image)
    for k in range(40):
        pen.line((0, 30 + k * 78, SIDE, 30 + k * 78), fill=(34, 110, 60), width=6)
        pen.line((20 + k * 81, 0, 20 + k * 81, SIDE), fill=(20, 78, 42), width=4)
    wanted = {"bent": "chip", "missing": "small"}.get(defect)
    places = [n for n, part in enumerate(layout) if part.kind == wanted]
    hit = int(rng.choice(places)) if places else -1
    for number, part in enumerate(layout):
        left, top = (int(v) for v in np.add((part.left, part.top), rng.integers(-2, 3, 2)))
        if part.kind == "small":
            if number == hit:
                box = (left - 6, top - 4, left + 42, top + 22)
                ImageDraw.Draw(mask).rectangle(box, fill=255)
            else:
                _small_part(pen, left, top)
            continue
        bent = int(rng.integers(0, 22)) if number == hit else -1
        box = _chip(pen, left, top, bent)
        if bent >= 0:
            ImageDraw.Draw(mask).rectangle(box, fill=255)
    return _photo(image, rng), mask


def _small_part(pen: ImageDraw.ImageDraw, left: int, top: int) -> None:
    pen.rectangle((left, top, left + 36, top + 18), fill=_TAN)
    for end in (left - 6, left + 34):
        pen.rectangle((end, top, end + 8, top + 18), fill=_METAL)


def _chip(pen: ImageDraw.ImageDraw, left: int, top: int, bent: int) -> _Box:
    """Draw a chip with eleven pins on each of two sides; returns the box of the bent pin."""
    wide, high = 11 * _PITCH + 10, 140
    found: _Box = (0, 0, 0, 0)
    for k in range(22):
        x = left + 10 + k % 11 * _PITCH
        y, out = (top, -_LENGTH) if k < 11 else (top + high, _LENGTH)
        lean = 16 if k == bent else 0
        foot = (x + lean, y + out)
        corners = [(x, y), (x + _PIN, y), (foot[0] + _PIN, foot[1]), foot]
        pen.polygon(corners, fill=_METAL)
        if lean:
            found = (x - 4, min(y, y + out) - 4, x + lean + _PIN + 4, max(y, y + out) + 4)
    pen.rectangle((left, top, left + wide, top + high), fill=_DARK)
    pen.ellipse((left + 14, top + 14, left + 36, top + 36), fill=(210, 210, 210))
    return found


def _photo(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """The picture that a camera takes of a drawing: a little blur, light and noise of its own."""
    pixels = np.asarray(image.filter(ImageFilter.GaussianBlur(1.2)), np.float32)
    pixels = pixels * np.float32(1 + rng.uniform(-0.02, 0.02))
    pixels += rng.standard_normal((SIDE, SIDE, 1), np.float32) * 3
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def _cast(rng: np.random.Generator, defect: str) -> tuple[Image.Image, Image.Image]:
    surface = 128 + 26 * _grain(rng, 2.0) + 9 * _grain(rng, 12.0)
    mask = Image.new("L", (SIDE, SIDE), 0)
    if defect == "scratch":
        line = _scratch(rng)
        ImageDraw.Draw(mask).line(line, fill=255, width=10)
        drawn = Image.new("L", (SIDE, SIDE), 0)
        ImageDraw.Draw(drawn).line(line, fill=255, width=2)
        depth = np.asarray(drawn.filter(ImageFilter.GaussianBlur(0.7)), np.float32) / 255
        surface -= 70 * depth
    grey = surface.clip(0, 255).astype(np.uint8)
    return Image.fromarray(grey), mask


def _grain(rng: np.random.Generator, width: float) -> NDArray[np.float32]:
    """Smooth noise of spread 1 whose grains are about `width` pixels."""
    side = int(SIDE / width)
    coarse = Image.fromarray(rng.standard_normal((side, side), np.float32))
    found: NDArray[Any] = np.asarray(coarse.resize((SIDE, SIDE), Image.Resampling.BICUBIC))
    return np.asarray(found / found.std(), np.float32)


def _scratch(rng: np.random.Generator) -> list[tuple[float, float]]:
    """The points of a slightly bent line of 80 to 160 pixels."""
    angle, bend = rng.uniform(0, np.pi), rng.uniform(-0.3, 0.3)
    point = rng.uniform(0.1 * SIDE, 0.9 * SIDE, 2)
    points = []
    for _ in range(9):
        points.append((float(point[0]), float(point[1])))
        point = point + np.array([np.cos(angle), np.sin(angle)]) * rng.uniform(10, 20)
        angle += bend / 9
    return points
