"""Which image is the frame, and where `auto` finds nothing that could be aligned."""

from __future__ import annotations

import numpy as np
from outlines import board, moved, texture
from PIL import Image

from musc_fast.registration import choose_frame, small_grey
from musc_fast.registration.pictures import Grey

SIZE = (96, 120)
NAMES = tuple(f"image {k}" for k in range(8))


def greys_of(pictures: list[np.ndarray]) -> list[Grey]:
    return [small_grey(Image.fromarray(each)) for each in pictures]


def moving(count: int = 6) -> list[np.ndarray]:
    rng = np.random.default_rng(3)
    return [
        board(moved(rng.uniform(-5, 5), tuple(rng.uniform(-6, 6, 2)), SIZE), noise=k)
        for k in range(count)
    ]


def test_a_product_that_moves_has_one_frame() -> None:
    found, again = (choose_frame(NAMES[:5], greys_of(moving(5)), "auto") for _ in range(2))
    assert found.frame is not None
    assert again.frame is not None
    assert found.frame.as_json() == again.frame.as_json()  # ranks and later runs choose alike
    assert found.note == ""
    assert found.frame.motion == "rigid"
    assert found.frame.usual < 0.05


def test_a_product_at_rest_has_a_frame_too() -> None:
    """So that the few images of a batch that moved are found."""
    found = choose_frame(NAMES[:4], greys_of([board(noise=k) for k in range(4)]), "auto")
    assert found.frame is not None


def test_the_frame_is_no_outlier_and_lies_in_the_middle() -> None:
    outlier = board(seed=5)
    turned = [board(moved(turn, (0, 0), SIZE), noise=k) for k, turn in enumerate((-6, -1, 1, 6))]
    found = choose_frame(NAMES[:5], greys_of([outlier, turned[0], *turned[1:]]), "auto")
    assert found.frame is not None
    assert found.frame.name in ("image 2", "image 3")


def test_the_frame_is_one_of_the_references() -> None:
    found = choose_frame(NAMES[:4], greys_of(moving(4)), "auto", candidates=2)
    assert found.frame is not None
    assert found.frame.name in NAMES[:2]


def test_auto_leaves_what_has_no_common_outline() -> None:
    for pictures in ([texture(k) for k in range(4)], [board(seed=k) for k in range(4)]):
        found = choose_frame(NAMES[:4], greys_of(pictures), "auto")
        assert found.frame is None
        assert "no common outline" in found.note


def test_auto_decides_on_nothing_with_few_images() -> None:
    found = choose_frame(NAMES[:3], greys_of(moving(3)), "auto")
    assert found.frame is None
    assert "3 images are too few" in found.note


def test_one_or_two_images_have_a_frame_where_it_is_asked_for() -> None:
    for count in (1, 2):
        found = choose_frame(NAMES[:count], greys_of(moving(count)), "similarity")
        assert found.frame is not None
        assert (found.frame.name, found.frame.motion) == ("image 0", "similarity")
