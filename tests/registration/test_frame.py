"""A picture that was moved is brought back within a stated distance, or it is left as it is."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from outlines import board, moved, texture
from PIL import Image

from musc_fast.errors import InputError
from musc_fast.registration import Frame, small_grey
from musc_fast.registration.geometry import IDENTITY, apply, covered
from musc_fast.registration.match import Motion

SIZE = (96, 120)
CORNERS = np.array([[0, 0], [1, 0], [0, 1], [1, 1]], dtype=np.float64)


def frame_of(picture: np.ndarray, motion: Motion = "rigid") -> Frame:
    grey = np.rint(small_grey(Image.fromarray(picture))).astype(np.uint8)
    return Frame(grey, motion, 0.005, "the frame")


def apart(found: np.ndarray, wanted: np.ndarray) -> float:
    """How many pixels apart two transforms bring a corner at most."""
    steps = (apply(found, CORNERS) - apply(wanted, CORNERS)) * (SIZE[1], SIZE[0])
    return float(np.hypot(*steps.T).max())


@settings(max_examples=12, deadline=None)
@given(st.floats(-8, 8), st.tuples(st.floats(-12, 12), st.floats(-12, 12)), st.integers(0, 3))
def test_a_moved_picture_is_found_within_half_a_pixel(
    turn: float, shift: tuple[float, float], seed: int
) -> None:
    wanted = moved(turn, shift, SIZE)
    place = frame_of(board(seed=seed)).place_of(Image.fromarray(board(wanted, seed=seed, noise=1)))
    assert place.outcome in ("moved", "still")
    if place.outcome == "moved":
        assert apart(place.transform, wanted) < 0.5
    else:
        assert apart(IDENTITY, wanted) < 0.5  # nearer than LEAST_MOVE, within the precision


@pytest.mark.parametrize("scale", [0.93, 1.06])
def test_a_scaled_picture_needs_the_similarity(scale: float) -> None:
    wanted = moved(3, (4, -3), SIZE, scale)
    picture = Image.fromarray(board(wanted, noise=1))
    assert apart(frame_of(board(), "similarity").place_of(picture).transform, wanted) < 0.5
    assert apart(frame_of(board(), "rigid").place_of(picture).transform, wanted) > 2


def test_the_picture_lies_on_the_frame() -> None:
    still, wanted = board(), moved(4, (6, -5), SIZE)
    picture, place = frame_of(still).bring(Image.fromarray(board(wanted, noise=1)))
    assert place.outcome == "moved"
    shown = covered(place.transform, SIZE).reshape(SIZE)
    assert shown.mean() > 0.85
    error = np.abs(np.asarray(picture, np.float64) - still).mean(axis=2)
    assert error[shown].mean() < 6  # of 255, the noise of both pictures included
    unmoved = np.abs(board(wanted, noise=1).astype(np.float64) - still).mean(axis=2)
    assert unmoved[shown].mean() > 25


def test_a_picture_with_a_defect_and_other_light_is_found() -> None:
    wanted = moved(-3, (-7, 4), SIZE)
    dark = (board(wanted, noise=1, missing=7) * 0.7).astype(np.uint8)
    place = frame_of(board()).place_of(Image.fromarray(dark))
    assert apart(place.transform, wanted) < 0.5


def test_numbers_and_grey_are_found_like_colours() -> None:
    wanted = moved(5, (6, 3), SIZE)
    colours = board(wanted, noise=1)
    unit = colours.astype(np.float32) / 255
    frame = frame_of(board())
    for picture in (
        unit,
        np.ascontiguousarray(unit[:, :, 1]),
        Image.fromarray(colours).convert("L"),
    ):
        brought, place = frame.bring(picture)
        assert apart(place.transform, wanted) < 0.5
        assert type(brought) is type(picture)
        assert np.shape(brought) == np.shape(picture)
        assert np.asarray(brought).dtype == np.asarray(picture).dtype
    assert brought.mode == "L"


def test_one_product_in_other_resolutions() -> None:
    wanted = moved(3, (5, 5), SIZE)
    picture = Image.fromarray(board(wanted, noise=1)).resize((300, 240), Image.Resampling.BICUBIC)
    brought, place = frame_of(board()).bring(picture)
    assert apart(place.transform, wanted) < 0.5
    assert brought.size == (300, 240)


@pytest.mark.parametrize(
    "picture",
    [
        board(seed=9),  # another product
        texture(0),
        np.full((*SIZE, 3), 90, np.uint8),  # the camera saw nothing
        board(moved(60, (0, 0), SIZE)),  # turned by more than a little
        board(moved(0, (70, 0), SIZE)),
    ],
    ids=["other", "texture", "constant", "turned", "shifted"],
)
def test_what_cannot_be_registered_is_left_as_it_is(picture: np.ndarray) -> None:
    given_one = Image.fromarray(picture)
    brought, place = frame_of(board()).bring(given_one)
    assert brought is given_one
    assert place.outcome == "left"
    assert (place.transform == IDENTITY).all()


def test_a_picture_that_lies_on_the_frame_is_not_touched() -> None:
    frame = frame_of(board())
    for picture in (board(noise=1), board(noise=2, missing=3), board(moved(0, (0.05, 0), SIZE))):
        given_one = Image.fromarray(picture)
        brought, place = frame.bring(given_one)
        assert (brought is given_one, place.outcome) == (True, "still")


def test_patches_that_a_picture_does_not_show() -> None:
    right = moved(0, (30, 0), SIZE)  # the frame's right quarter lies outside of the picture
    assert (covered(right, (4, 8)).reshape(4, 8) == ([True] * 6 + [False] * 2)).all()
    down = moved(0, (0, -24), SIZE)
    assert (covered(down, (4, 8)).reshape(4, 8).all(axis=1) == [False, True, True, True]).all()
    assert covered(moved(0, (2, 2), SIZE), (4, 8)).all()  # less than a quarter of a patch
    assert covered(IDENTITY, (4, 8)).all()


def test_a_frame_comes_back_from_json() -> None:
    frame = frame_of(board(), "similarity")
    found = Frame.of_json(frame.as_json())
    assert (found.grey == frame.grey).all()
    assert (found.motion, found.usual, found.name) == ("similarity", 0.005, "the frame")
    for wrong in ({}, {**frame.as_json(), "grey": "AAAA"}, {**frame.as_json(), "motion": "affine"}):
        with pytest.raises(InputError, match="align: the frame cannot be read"):
            Frame.of_json(wrong)
