"""Size and tiles that suit pictures: by their shapes alone, within the backbone's patches."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from musc_fast.features.fit import MOST_TILES, SQUASHED, fit, shapes_of, size_for, tiles_for
from musc_fast.settings import ReadSettings

DEFAULT, PATCH = (392, 392), 14


def apart(one: float, other: float) -> float:
    return max(one / other, other / one)


@settings(deadline=None, max_examples=50)
@given(st.floats(1 / 16, 16))
def test_a_size_keeps_the_ratio_and_the_budget(ratio: float) -> None:
    height, width = size_for(ratio, DEFAULT, PATCH)
    assert height % PATCH == width % PATCH == 0
    assert 0.88 * 784 <= height * width / PATCH**2 <= 784
    assert apart(height / width, ratio) <= 8 / 7 + 1e-9  # seven columns stand in for eight at most


def test_sizes_of_known_pictures() -> None:
    assert size_for(1.0, DEFAULT, PATCH) == DEFAULT
    assert size_for(3 / 4, DEFAULT, PATCH) == (336, 448)
    assert size_for(1250 / 500, DEFAULT, PATCH) == (602, 252)
    assert size_for(1000.0, DEFAULT, PATCH) == size_for(16.0, DEFAULT, PATCH)


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 30_000), st.integers(1, 30_000))
def test_tiles_are_bounded_and_enlarge_nothing(height: int, width: int) -> None:
    tiles = tiles_for((height, width), DEFAULT)
    times = height * width / (DEFAULT[0] * DEFAULT[1])
    assert (tiles is None) == (times < 4)
    if tiles is not None:
        assert 2 <= tiles[0] * tiles[1] <= min(MOST_TILES, times)
        turned = tiles_for((width, height), DEFAULT)
        assert turned is not None
        assert turned[0] * turned[1] == tiles[0] * tiles[1]


def test_tiles_of_known_pictures() -> None:
    assert tiles_for((3136, 3136), DEFAULT) == (4, 4)
    assert tiles_for((3000, 4000), DEFAULT) == (3, 4)
    assert tiles_for((1250, 500), DEFAULT) == (3, 1)
    assert tiles_for((512, 512), DEFAULT) is None


def test_nearly_square_pictures_keep_the_default() -> None:
    for shape in ((500, 500), (1024, 1280), (1280, 1024)):
        found = fit([shape] * 4, DEFAULT, PATCH)
        assert (found.image_size, found.tiles, found.notes) == (DEFAULT, None, ())
    assert apart(1280 / 1024, 1.0) == SQUASHED


def test_the_shape_of_most_decides_and_is_told() -> None:
    found = fit([(1250, 500)] * 7 + [(1240, 500), (300, 300)], DEFAULT, PATCH)
    assert found.image_size == (602, 252)
    (note,) = found.notes
    assert "shape of pictures of 500 x 1250 pixels: the backbone sees 252 x 602" in note
    assert "--size 602,252" in note


def test_several_shapes_keep_none() -> None:
    found = fit([(400, 900)] * 6 + [(900, 400)] * 4, DEFAULT, PATCH, tiles="auto")
    assert (found.image_size, found.tiles) == (DEFAULT, None)
    assert len(found.notes) == 2
    assert all("40% " in note and "score each shape by itself" in note for note in found.notes)


def test_tiles_share_the_shape_of_a_picture() -> None:
    found = fit([(3136, 3136)], DEFAULT, PATCH, tiles="auto")
    assert (found.image_size, found.tiles) == (DEFAULT, (4, 4))
    assert "4 rows of 4" in found.notes[0]
    assert "64 times" in found.notes[0]
    found = fit([(2000, 2000)], DEFAULT, PATCH, tiles=(1, 4))
    assert found.tiles == (1, 4)
    assert found.image_size == size_for(4.0, DEFAULT, PATCH)
    found = fit([(2000, 2000)], DEFAULT, PATCH, given=(280, 420), tiles="auto")
    assert found.image_size == (280, 420)
    found = fit([(512, 512)], DEFAULT, PATCH, tiles="auto")
    assert found.tiles is None
    assert "no tiles: pictures of 512 x 512 have only 1.7 times" in found.notes[0]


def test_without_a_shape_nothing_is_chosen() -> None:
    assert fit([], DEFAULT, PATCH, tiles="auto").choice == (DEFAULT, None)
    assert fit([], DEFAULT, PATCH, tiles=(2, 2)).choice == (DEFAULT, (2, 2))


def test_shapes_of_every_form(tmp_path: Path) -> None:
    picture = Image.new("RGB", (30, 20))
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    picture.save(tmp_path / "turned.jpg", exif=exif)
    (tmp_path / "none.png").write_bytes(b"no picture")
    turned = Image.open(tmp_path / "turned.jpg")
    found = shapes_of(
        [
            tmp_path / "turned.jpg",
            str(tmp_path / "none.png"),
            picture,
            turned,
            np.zeros((5, 7), np.uint8),
            np.zeros((5, 8, 3), np.uint16),
            torch.zeros(3, 6, 9),
        ],
        ReadSettings(),
    )
    assert found == [(30, 20), (20, 30), (30, 20), (5, 7), (5, 8), (6, 9)]
    assert shapes_of(torch.zeros(4, 3, 6, 9), ReadSettings()) == [(6, 9)]
    assert len(shapes_of([picture] * 5000, ReadSettings())) <= 500


@pytest.mark.parametrize("count", [1, 499, 500, 501, 1300])
def test_many_pictures_are_sampled_evenly(count: int) -> None:
    images = [np.zeros((1, k + 1), np.uint8) for k in range(count)]
    places = [width - 1 for _, width in shapes_of(images, ReadSettings())]
    assert places[0] == 0
    assert len(places) <= 500
    assert count - places[-1] <= math.ceil(count / 500)
