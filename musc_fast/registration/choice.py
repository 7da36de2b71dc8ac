"""Which image is the frame, and whether a product can be aligned at all.

A few images are registered with each other. Where they show one thing in other places, their
transforms agree: from a to b and on to c is the way from a to c. On textures, on pictures of
different things and where registration goes astray they do not.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..settings import Align
from .frame import Frame, is_plausible
from .geometry import IDENTITY, Matrix, Size, chain, inverse, largest_move
from .match import Levels, Match, Motion, match
from .pictures import Grey, small_grey

SAMPLE = 8  # images that are registered with each other
_FEWEST = 4  # images from which on `auto` dares to decide
_AGREE = 0.01  # disagreement of two ways, in units of the longer side, from which on they do not
_AGREEING = 0.65  # share of the images that must agree, and be like the frame
_LIKE = 0.5  # correlation that registered images of one product have at least
_USUAL = 0.02  # 1 - correlation that is taken for usual where there are no others


@dataclass(frozen=True)
class Alignment:
    """What was decided on a batch.

    frame: onto which its images are brought; None: they stay as they are.
    note: why, as a sentence; "" where there is nothing to say.
    """

    frame: Frame | None
    note: str


@dataclass(frozen=True)
class _Pairs:
    """The registrations of a sample: by (i, j), where image j lies on image i."""

    size: Size
    found: dict[tuple[int, int], Match]
    count: int

    def transform(self, i: int, j: int) -> Matrix:
        if i == j:
            return IDENTITY
        return self.found[i, j].transform if i < j else inverse(self.found[j, i].transform)

    def of(self, i: int) -> list[Match]:
        """The registrations of an image with the others."""
        return [found for pair, found in self.found.items() if i in pair]

    def unlike(self, i: int) -> float:
        """The median of 1 - correlation of the others, registered with image i; defects count."""
        return float(np.median([1 - found.whole for found in self.of(i)]))

    def usual(self, i: int) -> float:
        """The same, the places that are least alike left out."""
        return float(np.median([1 - found.after for found in self.of(i)]))

    def moves(self, i: int) -> float:
        """The mean move of the others from image i."""
        others = [j for j in range(self.count) if j != i]
        return float(np.mean([largest_move(self.transform(i, j), self.size) for j in others]))

    def agreeing(self, i: int) -> float:
        """Share of the others whose place agrees with that of most others: the way from j to k
        over i is the one that was found between j and k.
        """
        others = [j for j in range(self.count) if j != i]
        if len(others) < 2:
            return 1.0
        agree = [[self._agree(i, j, k) for k in others if k != j] for j in others]
        return float(np.mean([2 * sum(found) >= len(found) for found in agree]))

    def _agree(self, i: int, j: int, k: int) -> bool:
        over = (inverse(self.transform(i, j)), self.transform(i, k))
        around = chain((*over, inverse(self.transform(j, k))))
        return largest_move(around, self.size) <= _AGREE


def choose_frame(
    names: Sequence[str],
    greys: Sequence[Grey],
    align: Align,
    candidates: int | None = None,
) -> Alignment:
    """Choose the frame of a batch from a sample of it.

    names, greys: of the sample, at most `SAMPLE` images or a few more, as from `small_grey`.
    align: "auto", "rigid" or "similarity".
    candidates: how many of the first may be the frame: the references, where there are some.

    The frame is the image among the more usual half that lies nearest to all others, so that it
    is no outlier and little of the others lies outside of it. `auto` decides on shift and turn,
    and on nothing where the images cannot be aligned.
    """
    count = len(greys)
    candidates = min(count, SAMPLE) if candidates is None else candidates
    motion: Motion = "similarity" if align == "similarity" else "rigid"
    if align == "auto" and count < _FEWEST:
        return Alignment(None, f"align: {count} images are too few to tell whether they move")
    size = greys[0].shape[0], greys[0].shape[1]
    levels = [Levels(_squashed(grey, size)) for grey in greys]
    found = {
        (i, j): match(levels[i], levels[j], motion)
        for i, j in itertools.combinations(range(count), 2)
    }
    pairs = _Pairs(size, found, count)
    place = _best(pairs, candidates)
    if align == "auto" and not _can_align(pairs, place):
        return Alignment(
            None,
            "align: the images show no common outline by which they could be aligned; they are "
            "compared as they are",
        )
    usual = pairs.usual(place) if count > 1 else _USUAL
    return Alignment(Frame(_eight_bits(greys[place]), motion, usual, names[place]), "")


def _best(pairs: _Pairs, candidates: int) -> int:
    places = range(candidates)
    if pairs.count < 3:
        return 0
    agreeing = [pairs.agreeing(i) for i in places]
    unlike = [pairs.unlike(i) for i in places]
    usual = float(np.median(unlike))
    good = [i for i in places if unlike[i] <= usual and agreeing[i] >= max(agreeing) - 0.2]
    good = good or [int(np.argmax(agreeing))]
    return min(good, key=lambda i: (round(pairs.moves(i) / 0.002), unlike[i]))


def _can_align(pairs: _Pairs, place: int) -> bool:
    """Whether the sample shows one thing that lies in other places."""
    like = [found.after >= _LIKE and is_plausible(found, pairs.size) for found in pairs.of(place)]
    return float(np.mean(like)) >= _AGREEING and pairs.agreeing(place) >= _AGREEING


def _squashed(grey: Grey, size: Size) -> Grey:
    """A small grey image in the size of another."""
    return grey if grey.shape == size else small_grey(grey / np.float32(255), size)


def _eight_bits(grey: Grey) -> NDArray[np.uint8]:
    """The image with its whole range of greys: a dark one keeps its detail."""
    low, high = float(grey.min()), float(grey.max())
    scale = 255 / (high - low) if high > low else 1.0
    return np.asarray(np.rint((grey - low) * scale), dtype=np.uint8)
