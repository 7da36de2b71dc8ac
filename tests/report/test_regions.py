"""Regions: numbers on hand-made maps, specks, the file for other tools."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from musc_fast.report.regions import (
    COLUMNS,
    Region,
    label_regions,
    measure_regions,
    pixel_threshold,
    strongest_place,
    write_regions,
)
from musc_fast.threshold import find_threshold


def find_regions(
    scores: np.ndarray, threshold: float | None, size: tuple[int, int] | None = None
) -> list[Region]:
    """Regions of a map [h, w] for an image of `size`, None: of the map's size."""
    height, width = size or scores.shape
    return measure_regions(label_regions(scores, threshold), scores, (height, width))


def test_two_regions_in_pixels_of_the_original() -> None:
    scores = np.zeros((10, 20), dtype=np.float32)
    scores[1:4, 2:7] = 0.6
    scores[2, 5] = 0.8
    scores[6:9, 12:14] = 0.9
    first, second = find_regions(scores, 0.5, (40, 60))  # rows are 4 pixels high, columns 3 wide
    assert (first.x, first.y, first.width, first.height) == (36, 24, 6, 12)
    assert first.peak_score == pytest.approx(0.9)
    assert first.area == 6 * 12
    assert first.share == 6 / 200
    assert (second.x, second.y, second.width, second.height) == (6, 4, 15, 12)
    assert second.area == 15 * 12
    assert second.peak_score == pytest.approx(0.8)
    # the peak is the middle of map pixel (2, 5)
    assert (second.peak_x, second.peak_y) == (16, 10)


def test_corners_connect_and_the_threshold_belongs_to_the_region() -> None:
    scores = np.array([[0.5, 0, 0], [0, 0.5, 0], [0, 0, 0.4]])
    (region,) = find_regions(scores, 0.5)
    assert (region.x, region.y, region.width, region.height, region.area) == (0, 0, 2, 2, 2)
    assert find_regions(scores, np.nextafter(0.5, 1)) == []
    assert find_regions(scores, None) == []


def test_boxes_hold_every_pixel_of_an_odd_sized_original() -> None:
    scores = np.zeros((7, 7), dtype=np.float32)
    scores[6, 6] = scores[0, 0] = 1
    for region in find_regions(scores, 0.5, (10, 11)):
        assert region.x + region.width <= 11
        assert region.y + region.height <= 10
        assert (region.width, region.height) == (2, 2)


def test_specks_are_dropped_but_never_the_peak() -> None:
    scores = np.zeros((200, 200), dtype=np.float32)  # 0.0002 of it is 8 pixels
    scores[5, 5] = 0.9  # one pixel, the peak of the image
    scores[50:52, 50:54] = 0.8  # 8 pixels
    scores[90, 90:97] = 0.8  # 7 pixels
    labels = label_regions(scores, 0.7)
    assert labels[5, 5] == 1
    assert labels[50, 50] == 2
    assert labels.max() == 2
    assert not labels[90].any()


def hills(*peaks: tuple[int, int, float], level: float = 0.1) -> np.ndarray:
    """A map [200, 200] with a hill of radius 6 at each (row, column, height) on a plain."""
    y, x = np.mgrid[:200, :200]
    found = np.full((200, 200), level)
    for row, column, height in peaks:
        found += height * np.exp(-((y - row) ** 2 + (x - column) ** 2) / (2 * 6.0**2))
    return found


def test_a_plain_above_the_batch_is_no_region() -> None:
    """In a very uniform batch a flagged image is above the others everywhere."""
    scores = hills((50, 60, 0.7), (150, 120, 0.3))
    first, second = find_regions(scores, 0.075)  # the level lies below the plain
    for region, (row, column) in ((first, (50, 60)), (second, (150, 120))):
        # half of a hill's height is at 1.18 of its radius
        assert region.width == region.height == pytest.approx(2 * 1.18 * 6, abs=2)
        assert abs(region.x + region.width / 2 - column) <= 1
        assert abs(region.y + region.height / 2 - row) <= 1
    assert sum(region.share for region in (first, second)) < 0.01
    assert find_regions(scores, 0.3)[0].width > find_regions(scores, 0.6)[0].width


@given(st.integers(0, 2**32 - 1), st.floats(0, 1), st.floats(0, 30))
def test_regions_reach_the_threshold_and_hold_the_peak(
    seed: int, share: float, blur: float
) -> None:
    rng = np.random.default_rng(seed)
    scores = ndimage.gaussian_filter(rng.random((40, 30)), blur)
    threshold = scores.min() + share * (scores.max() - scores.min())
    labels = label_regions(scores, threshold, smallest=0)
    assert (scores[labels > 0] >= threshold).all()
    assert labels[np.unravel_index(scores.argmax(), scores.shape)] == 1
    higher = label_regions(scores, scores.max(), smallest=0) > 0
    assert (labels[higher] > 0).all()


def test_a_level_above_the_own_background_counts_alone() -> None:
    scores = hills((50, 60, 0.7), (150, 120, 0.3))
    (labels,) = (label_regions(scores, 0.3),)
    np.testing.assert_array_equal(labels > 0, scores >= 0.3)
    whole = np.full((20, 20), 0.9)
    whole[:1] = 0.1  # nearly all of the picture is a defect: the lowest tenth is of it, too
    assert label_regions(whole, 0.5).astype(bool).sum() == 19 * 20


@pytest.mark.parametrize("flagged", [0, 1, 7, 20])
def test_flagged_images_and_no_others_have_regions(flagged: int) -> None:
    rng = np.random.default_rng(1)
    maps = rng.random((20, 30, 30)).astype(np.float32)
    raw = maps.max(axis=(1, 2))
    for threshold in (
        find_threshold(raw, expected_defect_rate=flagged / 20),
        find_threshold(raw, value=float(np.append(np.sort(raw), np.inf)[20 - flagged])),
    ):
        level = pixel_threshold(threshold, raw)
        found = [bool(find_regions(scores, level)) for scores in maps]
        assert found == threshold.flagged.tolist()
        assert sum(found) == flagged


def test_the_level_is_the_lowest_that_spares_the_unflagged() -> None:
    raw = np.array([0.2, 0.9, 0.3, 0.8], dtype=np.float32)
    level = pixel_threshold(find_threshold(raw, expected_defect_rate=0.5), raw)
    assert level is not None
    assert level > np.float64(raw[2])
    assert level == pytest.approx(0.3)
    assert pixel_threshold(find_threshold(raw, value=0.6), raw) == 0.6
    assert pixel_threshold(find_threshold(raw, value=2.0), raw) is None
    assert pixel_threshold(find_threshold(np.ones(8)), np.ones(8)) is None


def test_the_file_lists_the_biggest_peak_first(tmp_path: Path) -> None:
    low, high = np.zeros((2, 10, 10), dtype=np.float32)
    low[1:3, 1:3] = 0.7
    high[4:6, 4:6], high[8, 8] = 0.9, 0.6
    images = [Path("a,b.png"), Path('c".png'), Path("none.png")]
    regions = [find_regions(m, 0.5) for m in (low, high, np.zeros((10, 10)))]
    write_regions(tmp_path / "regions.csv", images, regions)
    with (tmp_path / "regions.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS
    assert [(row["path"], row["region"]) for row in rows] == [
        ('c".png', "1"),
        ("a,b.png", "1"),
        ('c".png', "2"),
    ]
    assert [float(row["peak_score"]) for row in rows] == pytest.approx([0.9, 0.7, 0.6])
    assert [rows[1][k] for k in ("x", "y", "width", "height", "area")] == ["1", "1", "2", "2", "4"]
    assert float(rows[1]["share"]) == 0.04


def test_what_is_not_scored_is_no_background() -> None:
    """A plain surface above the batch is no region, though half of the picture is ignored."""
    values = hills((20, 120, 0.4), level=0.5)
    ignored = np.zeros(values.shape, dtype=np.bool_)
    ignored[:, : values.shape[1] // 4] = True
    values[ignored] = 0
    found = label_regions(values, 0.3, ignored=ignored)
    assert 0 < (found > 0).mean() < 0.1
    assert (label_regions(values, 0.3) > 0).mean() > 0.5
    level, place = strongest_place(values, ignored)
    assert level == pytest.approx(0.7, abs=0.02)
    assert 0 < place.mean() < 0.1
