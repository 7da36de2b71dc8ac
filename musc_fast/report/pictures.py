"""Pictures of an image and its map, small enough that one HTML file can hold those of 500."""

from __future__ import annotations

import base64
import io
import math

from PIL import Image

from .heatmap import Floats, Scale, heat_layer

#: Most bytes of photo and heat layer of an image together, before base64, which adds a third.
PICTURE_BYTES = 38_000
#: Longest side of a photo and of a heat layer, in pixels.
LONGEST_SIDE = 1024
HEAT_SIDE = 112
_QUALITY = 78  # of lossy WebP, 0 to 100
_FALLBACK_SIDE = 64  # longest side of a photo that fits the budget at no size tried
_TRIES = 6


def data_uri(data: bytes) -> str:
    """The bytes of a WebP picture as a data URI."""
    return "data:image/webp;base64," + base64.b64encode(data).decode("ascii")


def photo(image: Image.Image, budget: int, longest: int = LONGEST_SIDE) -> bytes:
    """The image as WebP, as large as the budget allows at one of a few tries, never enlarged.

    The bytes for a size depend on texture and noise, so sizes are tried from `longest` down. A
    picture that fits at no size tried is encoded at `_FALLBACK_SIDE` and may exceed the budget.

    budget: most bytes of the encoded picture.
    longest: most pixels of its longest side.
    """
    image = image.convert("RGB")
    side = min(longest, max(image.size))
    fitting_side, failing_side, best = 0, 0, b""
    for _ in range(_TRIES):
        data = _encode(image, side)
        if len(data) <= budget:
            fitting_side, best = side, data
            if not failing_side or len(data) > 0.75 * budget:
                break
        else:
            failing_side = side
        if fitting_side:
            side = round(math.sqrt(fitting_side * failing_side))
        else:
            side = max(1, int(side * min(0.9, 0.97 * math.sqrt(budget / len(data)))))
    return best or _encode(image, min(side, _FALLBACK_SIDE))


def _encode(image: Image.Image, side: int) -> bytes:
    """WebP with a longest side of at most `side` pixels."""
    shrink = side / max(image.size)
    if shrink < 1:
        size = max(1, round(image.width * shrink)), max(1, round(image.height * shrink))
        image = image.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)
    data = io.BytesIO()
    image.save(data, "WEBP", quality=_QUALITY, method=2)
    return data.getvalue()


def heat(anomaly_map: Floats, scale: Scale) -> bytes:
    """The heat layer of a map [h, w] as lossless WebP; the browser enlarges it over the photo."""
    data = io.BytesIO()
    heat_layer(anomaly_map, scale, HEAT_SIDE).save(data, "WEBP", lossless=True, method=3)
    return data.getvalue()
