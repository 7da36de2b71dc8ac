"""The frame of a batch or a bank, and where each image lies on it."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..errors import InputError
from .geometry import IDENTITY, Matrix, Size, apply, covered, largest_move, turn_and_scale
from .match import Levels, Match, Motion, correlation, match
from .pictures import LARGEST, Picture, onto_frame, size_of, small_grey

Outcome = Literal["still", "moved", "left"]

#: An image that lies nearer than this to the frame, in units of the longer side, stays as it is.
#: Where the others lie to the pixel, a fifth of a patch (2 pixels of 392) is a false alarm already.
LEAST_MOVE = 0.001
#: A registration is taken for right within these bounds: shift of the centre in units of the
#: longer side, turn in degrees, factor of scale.
MOST_SHIFT, MOST_TURN, MOST_SCALE = 0.25, 18.0, 1.25
# What registration must gain in correlation: a part of what is missing without it, or times the
# usual 1 - correlation of registered images, where that is less.
_GAIN, _GAINED = 0.3, 3.0
_NEAR = 0.005  # a move that gains nothing and is smaller needs no word
_UNLIKE = (3.0, 0.15, 0.5)  # times the usual, more than that, and at most


@dataclass(frozen=True)
class Place:
    """Where an image lies on the frame.

    transform: from the frame to the image, see `geometry`; the identity unless moved.
    outcome: "moved", "still" where it lies on the frame already, or "left" where its registration
        is not trusted.
    """

    transform: Matrix
    outcome: Outcome


@dataclass(frozen=True, eq=False)
class Frame:
    """The image onto which others are brought.

    grey: [h, w] uint8, small.
    motion: "rigid" (shift and turn) or "similarity" (scale, too).
    usual: 1 - correlation that registered images usually have with it.
    name: of the image.
    """

    grey: NDArray[np.uint8]
    motion: Motion
    usual: float
    name: str

    @cached_property
    def levels(self) -> Levels:
        """What images are compared with."""
        return Levels(self.grey.astype(np.float32))

    def bring(self, picture: Picture) -> tuple[Picture, Place]:
        """The image on the frame, as it was given unless moved, and where it lies.

        Several threads may call this.
        """
        place = self.place_of(picture)
        if place.outcome == "moved":
            return onto_frame(picture, place.transform), place
        return picture, place

    def place_of(self, picture: Picture) -> Place:
        """Where an image lies, where its registration can be trusted."""
        found = self.locate(picture)
        outcome = self._outcome(found)
        if outcome == "moved" and max(size_of(picture)) > LARGEST:
            outcome = "left"
        return Place(found.transform if outcome == "moved" else IDENTITY, outcome)

    def locate(self, picture: Picture) -> Match:
        """Where an image lies; it is not searched for where it lies on the frame already."""
        frame = self.levels
        image = Levels(small_grey(picture, frame.size))
        before = correlation(frame, image)
        if 1 - before <= self.usual:
            return Match(IDENTITY, before, before, before)
        return match(frame, image, self.motion)

    def _outcome(self, found: Match) -> Outcome:
        size = self.levels.size
        move = largest_move(found.transform, size)
        if move >= LEAST_MOVE and is_plausible(found, size) and self._is_better(found):
            return "moved"
        # An image unlike the frame, as one with a defect, may lie right all the same.
        return "still" if move < _NEAR else "left"

    def _is_better(self, found: Match) -> bool:
        """Whether it fits about as others do, and clearly better than unmoved.

        A defect remains whatever the place, so the gain is compared with what is usual, too.
        """
        times, more, most = _UNLIKE
        wanted = min(_GAIN * (1 - found.before), _GAINED * self.usual)
        fits = 1 - found.after <= min(times * self.usual + more, most)
        return fits and found.after - found.before >= wanted

    def as_json(self) -> dict[str, Any]:
        """The frame as JSON can hold it."""
        file = io.BytesIO()
        Image.fromarray(self.grey).save(file, format="png")
        return {
            "grey": base64.b64encode(file.getvalue()).decode("ascii"),
            "motion": self.motion,
            "usual": self.usual,
            "name": self.name,
        }

    @classmethod
    def of_json(cls, found: Mapping[str, Any]) -> Frame:
        """The frame of `as_json`. Raises InputError where it is none."""
        try:
            with Image.open(io.BytesIO(base64.b64decode(found["grey"]))) as image:
                grey = np.array(image)
            motion, usual = found["motion"], float(found["usual"])
            sound = grey.ndim == 2 and grey.dtype == np.uint8 and math.isfinite(usual)
            if not sound or motion not in get_args(Motion):
                raise ValueError("no small grey image with its motion")
            return cls(grey, motion, usual, str(found["name"]))
        except (KeyError, TypeError, ValueError, OSError) as error:
            raise InputError(f"align: the frame cannot be read ({error})") from None


def is_plausible(found: Match, size: Size) -> bool:
    """Whether an image may lie so; `size`: of the small frame."""
    turn, scale = turn_and_scale(found.transform, size)
    centre = np.array([[0.5, 0.5]])
    shift = (apply(found.transform, centre) - centre)[0] * (size[1], size[0]) / max(size)
    return (
        float(np.hypot(*shift)) <= MOST_SHIFT
        and abs(turn) <= MOST_TURN
        and 1 / MOST_SCALE <= scale <= MOST_SCALE
    )


@dataclass(frozen=True, eq=False)
class Frames:
    """Where the images of a batch lie on their frame.

    transforms: [N, 2, 3] from the frame to each image, see `geometry`.
    name: of the image that is the frame.
    left: the names of images that were left as they are, since no registration is trusted.
    """

    transforms: NDArray[np.float64]
    name: str
    left: tuple[str, ...] = ()

    @property
    def moved(self) -> NDArray[np.bool_]:
        """[N], whether each image was moved."""
        return np.asarray((self.transforms != IDENTITY).any(axis=(1, 2)))

    def covered(self, grid: Size) -> NDArray[np.bool_] | None:
        """[N, P], whether each image shows a patch of the frame; None where all show all."""
        if not self.moved.any():
            return None
        found = np.stack([covered(each, grid) for each in self.transforms])
        return None if found.all() else found

    def notes(self) -> tuple[str, ...]:
        """What was done, as sentences. Of one image, as on a line, only where it was left."""
        count, moved, notes = len(self.moved), int(self.moved.sum()), []
        if moved and count > 1:
            notes.append(
                f"align: {moved} of {count} images were moved onto {self.name}; what lies outside "
                "of it is not scored"
            )
        if self.left:
            more = f" and {len(self.left) - 1} more" if len(self.left) > 1 else ""
            notes.append(
                f"align: {self.left[0]}{more}: left as read, since no shift and turn makes "
                f"it clearly more like {self.name}"
            )
        return tuple(notes)

    @classmethod
    def join(cls, parts: Sequence[Frames | None]) -> Frames | None:
        """The frames of the images of several parts, one after another; None where there are none.

        parts: of one frame.
        """
        found = [part for part in parts if part is not None]
        if not found:
            return None
        transforms = np.concatenate([part.transforms for part in found])
        return cls(transforms, found[0].name, tuple(name for part in found for name in part.left))


def frames_of(frame: Frame, names: Sequence[str], places: Sequence[Place]) -> Frames:
    """The frames of images of these names, by the place of each."""
    left = [name for name, place in zip(names, places, strict=True) if place.outcome == "left"]
    return Frames(np.stack([place.transform for place in places]), frame.name, tuple(left))
