"""Anomaly maps as pictures: one honest scale for a whole batch, perceptually uniform colours."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from ..errors import InputError

Floats = NDArray[np.floating[Any]]
Bools = NDArray[np.bool_]
MapScale = Literal["batch", "image"]
_STRIPE = 1 << 20  # pixels of a picture that are enlarged at a time
_HATCHES = 60  # stripes along the longest side of a picture of which parts are not scored

_SHORTEST, _LONGEST = 160, 2400  # sides of an image in a panel, in pixels
_WIDE = 2.5  # from this width to height on the overlay lies below the image


@dataclass(frozen=True)
class Scale:
    """The distances `low` and `high` that the first and the last colour stand for."""

    low: float
    high: float

    @classmethod
    def of(cls, maps: Floats, ignored: Bools | None = None) -> Scale:
        """The scale of a batch: its smallest and largest value, but for those `ignored`."""
        if ignored is None or ignored.all():
            return cls(float(np.min(maps)), float(np.max(maps)))
        counted = maps[~ignored]
        return cls(float(counted.min()), float(counted.max()))

    def calm(self) -> Scale:
        """The scale twice as far, on which the largest value has the middle colour alone."""
        return Scale(self.low, self.high + (self.high - self.low))

    def unit(self, values: Floats) -> NDArray[np.float64]:
        """Values as 0..1 on this scale; a constant batch is 0."""
        span = self.high - self.low
        if span <= 0:
            return np.zeros(np.shape(values))
        return np.clip((np.asarray(values, dtype=np.float64) - self.low) / span, 0, 1)


def scale_of(
    maps: Floats,
    kind: MapScale,
    *,
    calm: bool = False,
    ignored: Callable[[int], Bools | None] | None = None,
) -> Callable[[int], Scale]:
    """A function from an image's index to its scale.

    maps: [N, h, w] distances.
    kind: "batch" for one scale, on which pictures can be compared; "image" for one an image.
    calm: whether nothing stands out; then no value has a colour above the middle one.
    ignored: gives the pixels [h, w] of an image that are not scored; None: all are.

    Raises InputError where `kind` is neither.
    """

    def of_image(index: int) -> Scale:
        found = Scale.of(maps[index], None if ignored is None else ignored(index))
        return found.calm() if calm else found

    if kind == "batch":
        if ignored is None:
            batch_scale = Scale.of(maps)
        else:
            ends = [Scale.of(each, ignored(index)) for index, each in enumerate(maps)]
            batch_scale = Scale(min(end.low for end in ends), max(end.high for end in ends))
        if calm:
            batch_scale = batch_scale.calm()
        return lambda index: batch_scale
    if kind == "image":
        return of_image
    raise InputError(f'map_scale: found {kind!r}, wanted "batch" or "image"')


@cache
def colour_table() -> NDArray[np.uint8]:
    """256 sRGB colours [256, 3], black-violet over red to pale yellow.

    Lightness grows evenly in OKLab (Ottosson 2020, "A perceptual color space for image
    processing"), so equal steps in score look equally large, in grey print too. Hue and chroma are
    interpolated between hand-chosen points.
    """
    t = np.linspace(0, 1, 256)
    lightness = 0.16 + 0.80 * t
    points = [0.0, 0.25, 0.5, 0.75, 1.0]
    chroma = np.interp(t, points, [0.05, 0.15, 0.19, 0.16, 0.09])
    hue = np.radians(np.interp(t, points, [-80.0, -40.0, 20.0, 62.0, 105.0]))
    a, b = chroma * np.cos(hue), chroma * np.sin(hue)
    lms = (
        np.stack([lightness, a, b], axis=1)
        @ np.array(
            [
                [1.0, 1.0, 1.0],
                [0.3963377774, -0.1055613458, -0.0894841775],
                [0.2158037573, -0.0638541728, -1.2914855480],
            ]
        )
    ) ** 3
    linear = lms @ np.array(
        [
            [4.0767416621, -1.2684380046, -0.0041960863],
            [-3.3077115913, 2.6097574011, -0.7034186147],
            [0.2309699292, -0.3413193965, 1.7076147010],
        ]
    )
    linear = np.clip(linear, 0, 1)
    srgb = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    table: NDArray[np.uint8] = np.rint(srgb * 255).astype(np.uint8)
    table.setflags(write=False)
    return table


def _resize(anomaly_map: Floats, size: tuple[int, int]) -> NDArray[np.float32]:
    """Bilinear resize of a map to `size` (h, w)."""
    picture = Image.fromarray(np.asarray(anomaly_map, dtype=np.float32), mode="F")
    return np.asarray(picture.resize((size[1], size[0]), Image.Resampling.BILINEAR))


def grey_map(anomaly_map: Floats, scale: Scale, size: tuple[int, int]) -> Image.Image:
    """The map as an 8-bit grey picture of `size` (h, w); 0 and 255 are the ends of the scale.

    The map is enlarged in stripes, so that a byte a pixel is all the memory for a large picture.
    """
    height, width = size
    picture = Image.fromarray(np.asarray(anomaly_map, dtype=np.float32), mode="F")
    levels = np.empty(size, dtype=np.uint8)
    rows = max(1, _STRIPE // width)
    for top in range(0, height, rows):
        end = min(top + rows, height)
        box = (0, top * picture.height / height, picture.width, end * picture.height / height)
        part = picture.resize((width, end - top), Image.Resampling.BILINEAR, box=box)
        levels[top:end] = np.rint(scale.unit(np.asarray(part)) * 255)
    return Image.fromarray(levels)


def coloured(levels: Image.Image) -> Image.Image:
    """A grey picture of levels in the colours of `colour_table`, as a picture with a palette."""
    picture = Image.frombuffer("P", levels.size, levels.tobytes())
    picture.putpalette(colour_table().tobytes())
    return picture


def heat_map(anomaly_map: Floats, scale: Scale, size: tuple[int, int]) -> Image.Image:
    """The map as a coloured picture of `size` (h, w)."""
    return Image.fromarray(colour_table()[np.asarray(grey_map(anomaly_map, scale, size))])


def opacity(level: Floats) -> NDArray[np.float64]:
    """Share of colour in an overlay at levels 0 to 1; at low levels the image shows through."""
    return 0.15 + 0.6 * np.sqrt(np.asarray(level, dtype=np.float64))


def overlay(image: Image.Image, anomaly_map: Floats, scale: Scale) -> Image.Image:
    """The heat map over the grey image."""
    size = (image.height, image.width)
    level = scale.unit(_resize(anomaly_map, size)).astype(np.float32)
    share = opacity(level).astype(np.float32)[..., None]
    grey = np.asarray(image.convert("L"), dtype=np.float32)[..., None]
    mixed = colour_table()[np.rint(level * 255).astype(np.uint8)] * share
    mixed += (1 - share) * grey
    return Image.fromarray(np.rint(mixed, out=mixed).astype(np.uint8))


def heat_layer(anomaly_map: Floats, scale: Scale, side: int) -> Image.Image:
    """The colours that `overlay` mixes with the grey image, as RGBA with the longest side `side`.

    Alpha is `opacity`. A map smaller than `side` is not enlarged.
    """
    height, width = anomaly_map.shape
    shrink = min(1.0, side / max(height, width))
    size = (max(1, round(height * shrink)), max(1, round(width * shrink)))
    level = np.asarray(grey_map(anomaly_map, scale, size))
    alpha = np.rint(opacity(np.arange(256) / 255) * 255).astype(np.uint8)
    return Image.fromarray(np.dstack([colour_table()[level], alpha[level]]))


def hatch(picture: Image.Image, ignored: Bools | None) -> None:
    """Draw grey stripes over what is not scored: `ignored` [h, w] of any size; None: nothing."""
    if ignored is None:
        return
    width, height = picture.size
    where = Image.fromarray(ignored.astype(np.uint8)).resize(
        (width, height), Image.Resampling.NEAREST
    )
    stripe = max(1, max(width, height) // (2 * _HATCHES))
    across = np.arange(width)
    rows = max(1, _STRIPE // width)
    for top in range(0, height, rows):
        end = min(top + rows, height)
        inside = np.asarray(where.crop((0, top, width, end))).astype(np.bool_)
        lines = (across + np.arange(top, end)[:, None]) // stripe % 2
        for colour, line in ((190, 0), (90, 1)):
            drawn = Image.fromarray((inside & (lines == line)) * np.uint8(255))
            picture.paste((colour,) * 3, (0, top), drawn)


def panel(
    image: Image.Image,
    anomaly_map: Floats,
    scale: Scale,
    caption: str,
    height: int = 480,
    ignored: Bools | None = None,
) -> Image.Image:
    """Image, overlay and colour bar on white below a caption; see `panel_size` for their size.

    ignored: the pixels [h, w] of the map that are not scored; they are hatched in the overlay.

    The overlay lies beside the image, or below it where the image is very wide.
    """
    width, height = panel_size(image.size, height)
    small = image.convert("RGB").resize((width, height), Image.Resampling.LANCZOS)
    gap, top, bar = 12, 42, 110
    below = width > _WIDE * height
    second = (gap, top + gap + height) if below else (2 * gap + width, top)
    right, bottom = second[0] + width, second[1] + height
    canvas = Image.new("RGB", (right + 2 * gap + bar, bottom + gap), "white")
    draw = ImageDraw.Draw(canvas)
    font = ImageFont.load_default(size=16)
    draw.text((gap, 12), caption, fill="black", font=font)
    canvas.paste(small, (gap, top))
    layer = overlay(small, anomaly_map, scale)
    hatch(layer, ignored)
    canvas.paste(layer, second)
    _draw_bar(canvas, (right + gap, top), bottom - top, scale)
    return canvas


def panel_size(size: tuple[int, int], height: int) -> tuple[int, int]:
    """(width, height) of an image of `size` (w, h) in a panel: `height` pixels high.

    Long images are shown larger, so that their shorter side has at least 160 pixels, but not longer
    than 2400 pixels.
    """
    scale = max(height / size[1], _SHORTEST / min(size))
    scale = min(scale, _LONGEST / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _draw_bar(canvas: Image.Image, corner: tuple[int, int], height: int, scale: Scale) -> None:
    """A vertical colour bar with five labelled distances."""
    x, y = corner
    column = colour_table()[np.linspace(255, 0, height).astype(int)][:, None]
    canvas.paste(Image.fromarray(np.repeat(column, 18, axis=1)), (x, y))
    draw = ImageDraw.Draw(canvas)
    font = ImageFont.load_default(size=14)
    for quarter in range(5):
        value = scale.low + (scale.high - scale.low) * quarter / 4
        tick = y + (height - 1) * (4 - quarter) / 4
        draw.line((x + 18, tick, x + 24, tick), fill="black")
        draw.text((x + 28, tick), f"{value:.3f}", fill="black", font=font, anchor="lm")
