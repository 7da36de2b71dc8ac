"""Pictures small enough to carry 500 of them in one HTML file."""

from __future__ import annotations

import base64
import io
import math

from PIL import Image

from .heatmap import Floats, Scale, heat_layer

#: Encoded bytes of both pictures of an image; text in base64 takes a third more.
PICTURE_BYTES = 38_000
LONGEST_SIDE = 1024
HEAT_SIDE = 112
_QUALITY = 78
_SHORTEST_SIDE = 64
_TRIES = 6


def data_uri(data: bytes) -> str:
    """The bytes of a WebP picture as a data URI."""
    return "data:image/webp;base64," + base64.b64encode(data).decode("ascii")


def photo(image: Image.Image, budget: int, longest: int = LONGEST_SIDE) -> bytes:
    """The image as WebP of at most `budget` bytes, about as large as that allows, never enlarged.

    Texture and noise cost bytes, so the side is found by a few tries, from `longest` down.
    """
    image = image.convert("RGB")
    side = min(longest, max(image.size))
    fits, failed, best = 0, 0, b""
    for _ in range(_TRIES):
        data = _encoded(image, side)
        if len(data) <= budget:
            fits, best = side, data
            if not failed or len(data) > 0.75 * budget:
                break
        else:
            failed = side
        if fits:
            side = round(math.sqrt(fits * failed))
        else:
            side = max(1, int(side * min(0.9, 0.97 * math.sqrt(budget / len(data)))))
    return best or _encoded(image, min(side, _SHORTEST_SIDE))


def _encoded(image: Image.Image, side: int) -> bytes:
    part = side / max(image.size)
    if part < 1:
        size = max(1, round(image.width * part)), max(1, round(image.height * part))
        image = image.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)
    data = io.BytesIO()
    image.save(data, "WEBP", quality=_QUALITY, method=2)
    return data.getvalue()


def heat(anomaly_map: Floats, scale: Scale) -> bytes:
    """The transparent colours of a map [h, w] as lossless WebP; the browser enlarges them."""
    data = io.BytesIO()
    heat_layer(anomaly_map, scale, HEAT_SIDE).save(data, "WEBP", lossless=True, method=3)
    return data.getvalue()
