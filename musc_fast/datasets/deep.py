"""Images of more than 8 bits a channel: their values, and the one white level of a batch.

A file of 16 bits a channel seldom says which value is white: cameras of 10, 12 and 14 bits write
their values as they are. Divided by 65535 they would be nearly black. A white level of each image's
own would make bright images of dark ones, so a batch (and a bank) has one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..errors import ImageError, InputError

#: White levels of 10, 12, 14 and 16 bits, among which the one of a batch is looked for.
USUAL_WHITES = (1023, 4095, 16383, 65535)
ALPHA_IS_EMPTY = "alpha is 0 everywhere, which is taken for no transparency at all"
ALPHA_IS_A_BAND = (
    "the fourth channel is partly transparent nearly everywhere, which is taken for a band such as "
    "near infrared, and left out; save three channels if it is not"
)
_T = TypeVar("_T")


@dataclass(frozen=True)
class DeepImage:
    """An upright image of more than 8 bits a channel, with all its bits.

    values: [h, w] grey or [h, w, 3] RGB; integers, or floating-point numbers.
    white: the white level that the file states; None where it states none.
    inverted: whether 0 is white and the white level black.
    alpha: [h, w] in 0..1; None where there is none.
    notes: what was decided while reading, for the user.
    """

    values: NDArray[Any]
    white: float | None = None
    inverted: bool = False
    alpha: NDArray[np.float32] | None = None
    notes: tuple[str, ...] = ()

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)."""
        height, width = self.values.shape[:2]
        return int(height), int(width)

    def unit(self, white: float | None) -> NDArray[np.float32]:
        """The values on a scale from 0, black, to 1, white: [h, w] or [h, w, 3].

        Transparent parts are white.

        white: None takes the level that `white_of` finds for this image alone.
        Raises ImageError where a value is not finite, negative, or above white.
        """
        white = white_of([self.need("")]) if white is None else white
        if white is None:
            raise ImageError(
                f"its {_kind(self.values)} have no known white level; give it (white=..., --white) "
                "or save the image with 8 or 16 bits"
            )
        low, high = self._range()
        if low < 0 or high > white:
            raise ImageError(
                f"its values, {low:g} to {high:g}, exceed the range from 0 to the white level "
                f"{white:g}; give a white level that holds those of all images (white=..., --white)"
            )
        unit = self.values.astype(np.float32)
        unit /= np.float32(white)
        if self.inverted:
            np.subtract(1, unit, out=unit)
        if self.alpha is not None:
            alpha = self.alpha if unit.ndim == 2 else self.alpha[:, :, None]
            unit = unit * alpha + (1 - alpha)
        return unit

    def rgb(self, white: float | None) -> Image.Image:
        """The image as RGB of 8 bits, rounded to nearest; `white` as for `unit`."""
        levels = np.rint(self.unit(white) * 255).astype(np.uint8)
        return Image.fromarray(levels).convert("RGB")

    def need(self, name: str) -> WhiteNeed:
        """What the batch's white level has to hold of this image; `name` is for messages."""
        highest = 0.0 if self.white else self._range()[1]
        unknown = self.values.dtype.kind == "f" or highest > USUAL_WHITES[-1]
        return WhiteNeed(name, self.white, highest, unknown)

    def _range(self) -> tuple[float, float]:
        if not self.values.size:
            return 0.0, 0.0
        low, high = float(self.values.min()), float(self.values.max())
        if not np.isfinite([low, high]).all():
            raise ImageError("its values hold NaN or Inf")
        return low, high


@dataclass(frozen=True)
class WhiteNeed:
    """What one image of more than 8 bits says about white.

    name: of the image, for messages.
    stated: the level that the file states, or None.
    highest: its largest value, 0 where the level is stated.
    unknown: whether only a user can know its white: floating-point numbers, more than 16 bits.
    """

    name: str
    stated: float | None
    highest: float
    unknown: bool = False


def white_of(needs: Iterable[WhiteNeed]) -> float | None:
    """The white level of images that have these needs; None where only a user can know it.

    The level that files state, else the smallest of `USUAL_WHITES` that holds every value.

    Raises InputError where no one level suits all.
    """
    needs = list(needs)
    known = [need for need in needs if not need.unknown]
    by_level = {need.stated: need.name for need in known if need.stated is not None}
    top = max(known, key=lambda need: need.highest, default=None)
    problem = ""
    if len(known) not in (0, len(needs)):
        odd = next(need for need in needs if need.unknown)
        problem = f"{odd.name} holds floating-point numbers or more than 16 bits, others 16 bits"
    elif len(by_level) > 1:
        told = (f"{level:g} ({name})" for level, name in sorted(by_level.items()))
        problem = f"files state different levels: {', '.join(told)}"
    elif by_level and top is not None and top.highest > next(iter(by_level)):
        level, name = next(iter(by_level.items()))
        problem = f"{name} states {level:g}, {top.name} holds values up to {top.highest:g}"
    if problem:
        raise InputError(
            f"white: {problem}; images of one batch have one white level, give it (white=..., "
            "--white)"
        )
    if top is None:
        return None
    return next(iter(by_level), None) or float(next(w for w in USUAL_WHITES if top.highest <= w))


def batch_white(peeks: Iterable[Callable[[], WhiteNeed | None]]) -> tuple[float | None, str]:
    """The white level of a batch, and a sentence for the user where it was guessed.

    peeks: one function an image, called in threads; None is an image of 8 bits or one that cannot
        be read.

    Raises InputError as `white_of`.
    """
    with ThreadPoolExecutor(max_workers=4) as pool:
        needs = [need for need in pool.map(_call, peeks) if need is not None]
    white = white_of(needs)
    if white is None or white == USUAL_WHITES[-1] or any(need.stated for need in needs):
        return white, ""
    highest = max(need.highest for need in needs)
    return white, (
        f"{white:g} is taken for white, the smallest of {', '.join(map(str, USUAL_WHITES))} that "
        f"holds the largest value, {highest:g}, of the {len(needs)} images of 16 bits; "
        "white=... (--white) sets another"
    )


def alpha_note(alpha: NDArray[Any]) -> str:
    """Why an alpha channel is no transparency; "" where it is one.

    alpha: [h, w], 0 is transparent and the largest value of its type (1 of floats) opaque.
    """
    opaque = np.iinfo(alpha.dtype).max if alpha.dtype.kind == "u" else 1
    if not alpha.any():
        return ALPHA_IS_EMPTY
    partly = np.count_nonzero((alpha > 0) & (alpha < opaque))
    return ALPHA_IS_A_BAND if partly > 0.9 * alpha.size else ""


def _call(function: Callable[[], _T]) -> _T:
    return function()


def _kind(values: NDArray[Any]) -> str:
    if values.dtype.kind == "f":
        return "floating-point pixels"
    return f"integer pixels from {values.min()} to {values.max()}, which exceed 16 bits,"
