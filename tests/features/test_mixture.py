"""A batch of several kinds is said to be one; a batch of one kind is not."""

from __future__ import annotations

import io

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from musc_fast.datasets.deep import DeepImage
from musc_fast.features.mixture import is_grey, mixture_note

NAMES = [f"{k}.png" for k in range(12)]


def test_what_differs_is_named() -> None:
    sizes = [(480, 640)] * 9 + [(1, 1), (640, 480), (480, 600)]
    grey = [False] * 8 + [True, False, False, False]
    note = mixture_note(NAMES, sizes, grey)
    assert "of 12 images 1 without colours (8.png, 640 x 480)" in note
    assert "1 smaller than 16 pixels (9.png, 1 x 1)" in note
    assert "1 of another shape (10.png, 480 x 640)" in note  # 600 x 480 is near enough
    few = mixture_note(NAMES, [(480, 640)] * 12, [True] * 10 + [False] * 2)
    assert "2 with colours (10.png" in few


@given(
    st.integers(3, 12),
    st.tuples(st.integers(1, 5000), st.integers(1, 5000)),
    st.booleans(),
)
def test_one_kind_is_no_mixture(count: int, size: tuple[int, int], grey: bool) -> None:
    assert mixture_note(NAMES[:count], [size] * count, [grey] * count) == ""


def test_grey_is_told_from_colours_of_any_form() -> None:
    rng = np.random.default_rng(0)
    values = rng.integers(0, 256, (60, 80), dtype=np.uint8)
    photo = Image.fromarray(values)
    data = io.BytesIO()
    photo.convert("RGB").save(data, "JPEG")  # grey, saved with three channels
    assert is_grey(Image.open(data).convert("RGB"))
    assert is_grey(photo.convert("RGB"))
    assert is_grey(DeepImage(values.astype(np.uint16)))
    colours = np.stack([values, values, values // 2 + 40], axis=2)
    assert not is_grey(Image.fromarray(colours))
    assert not is_grey(DeepImage(colours.astype(np.uint16)))
