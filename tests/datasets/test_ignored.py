"""Regions to leave out: masks and boxes, the patches and pixels that they cover, wrong ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from musc_fast import ImageError, InputError
from musc_fast.datasets.ignored import IGNORED_SHARE, IgnoredRegions


def regions(ignore: Any) -> IgnoredRegions:
    found = IgnoredRegions.of(ignore)
    assert found is not None
    return found


def mask_file(path: Path, size: tuple[int, int], box: tuple[int, int, int, int]) -> Path:
    """A mask of `size` (w, h), white in a box of pixels."""
    picture = Image.new("L", size)
    picture.paste(255, box)
    picture.save(path)
    return path


def test_a_box_covers_its_patches() -> None:
    found = regions("50,0,50,30%")
    counts = found.patches((10, 10))
    assert np.array_equal(np.argwhere(~counts), [[r, c] for r in range(3) for c in range(5, 10)])
    pixels = found.pixels((100, 200))
    assert pixels[:30, 100:].all()
    assert pixels.sum() == 30 * 100


def test_a_patch_is_left_out_where_more_than_the_share_is(tmp_path: Path) -> None:
    assert IGNORED_SHARE == 0.25
    # Of a patch of 20 x 20 pixels 5 columns are a quarter, and 6 are more.
    quarter = mask_file(tmp_path / "a.png", (100, 100), (0, 0, 25, 100))
    more = mask_file(tmp_path / "b.png", (100, 100), (0, 0, 26, 100))
    assert (~regions(quarter).patches((5, 5))).sum(axis=1).tolist() == [1] * 5
    assert (~regions(more).patches((5, 5))).sum(axis=1).tolist() == [2] * 5


@given(
    grid=st.tuples(st.integers(1, 20), st.integers(1, 20)),
    box=st.tuples(*[st.integers(0, 60)] * 2, *[st.integers(1, 39)] * 2),
)
@settings(max_examples=25, deadline=None)
def test_the_share_of_a_box_is_its_area(
    grid: tuple[int, int], box: tuple[int, int, int, int]
) -> None:
    x, y, wide, high = box
    counts = None
    left, top = np.arange(grid[1]) * 100 / grid[1], np.arange(grid[0]) * 100 / grid[0]
    across = np.clip(np.minimum(left + 100 / grid[1], x + wide) - np.maximum(left, x), 0, None)
    down = np.clip(np.minimum(top + 100 / grid[0], y + high) - np.maximum(top, y), 0, None)
    share = down[:, None] * across * grid[0] * grid[1] / 1e4
    clear = abs(share - IGNORED_SHARE) > 0.02  # boxes are measured in thousandths of a side
    try:
        counts = regions(f"{x},{y},{wide},{high}%").patches(grid)
    except InputError:
        assert not (clear & (share < IGNORED_SHARE)).any()
        return
    assert np.array_equal(counts[clear], (share <= IGNORED_SHARE)[clear])


def test_masks_and_boxes_are_joined(tmp_path: Path) -> None:
    mask = mask_file(tmp_path / "mask.png", (80, 40), (0, 0, 8, 40))
    array = np.zeros((40, 80), dtype=np.bool_)
    array[36:] = True
    found = regions([str(mask), "90,0,10,100%", array])
    counts = found.patches((10, 10))
    assert counts[:9, 1:9].all()
    assert counts.sum() == 9 * 8
    assert found.names == (str(mask), "90,0,10,100%", "an array")
    other = regions([str(mask), "90,0,10,99%", array])
    assert found.key != other.key
    assert regions(mask).key == regions(np.asarray(Image.open(mask)) > 0).key


def test_what_is_not_black_is_left_out(tmp_path: Path) -> None:
    """As in ground-truth masks: numbers of classes and colours count as white does."""
    levels = np.zeros((20, 20), dtype=np.uint8)
    levels[:, :4], levels[:, 4:8] = 1, 2
    Image.fromarray(levels).save(tmp_path / "mask.png")
    assert regions(tmp_path / "mask.png").pixels((20, 20)).sum() == 20 * 8


def test_nothing_given_is_nothing_ignored() -> None:
    assert IgnoredRegions.of(None) is None
    assert IgnoredRegions.of([]) is None


@pytest.mark.parametrize(
    ("ignore", "told"),
    [
        ("0,0,120,40", "wanted a box x,y,w,h% in percent"),
        ("0,0,120,40%", "is empty or leaves the picture"),
        ("0,0,0,40%", "is empty or leaves the picture"),
        ("1,2,3%", "wanted a box x,y,w,h% in percent"),
        ("0,0,100,100%", "0,0,100,100% leaves out the whole picture"),
        (["0,0,50,100%", "50,0,50,100%"], "leaves out the whole picture"),
        (np.zeros((4, 4), dtype=np.bool_), "an array marks nothing"),
        (np.ones((4, 4)), r"found an array float64 \[4, 4\], wanted bool"),
        ([3], "found int, wanted the file of a mask"),
        ([np.eye(4, dtype=np.bool_), np.eye(5, dtype=np.bool_)], "masks that are joined"),
    ],
)
def test_wrong_regions_are_told(ignore: Any, told: str) -> None:
    with pytest.raises(InputError, match=f"ignore: .*{told}"):
        IgnoredRegions.of(ignore)


def test_wrong_files_are_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"is a folder, wanted the file of a mask"):
        IgnoredRegions.of(tmp_path)
    with pytest.raises(ImageError, match=r"none\.png"):
        IgnoredRegions.of(tmp_path / "none.png")
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(ImageError, match=r"text\.png"):
        IgnoredRegions.of(tmp_path / "text.png")


def test_a_mask_of_other_proportions_is_told(tmp_path: Path) -> None:
    found = regions(mask_file(tmp_path / "mask.png", (300, 200), (0, 0, 60, 60)))
    found.check_size("part.png", (400, 600))
    found.check_size("part.png", (199, 300))
    with pytest.raises(ImageError, match=r"part.png: the picture is 400 x 400, the mask .*300 x"):
        found.check_size("part.png", (400, 400))
    regions("0,0,10,10%").check_size("part.png", (400, 400))


def test_no_patch_left_is_told() -> None:
    """Of every patch more than a quarter is left out, though not all of the picture is."""
    stripes = np.zeros((100, 100), dtype=np.bool_)
    stripes[::2] = True
    with pytest.raises(InputError, match=r"leaves no patch of 10 x 10 to score"):
        regions(stripes).patches((10, 10))
