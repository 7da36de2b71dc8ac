"""Outlines: they run where the map crosses the threshold, close, and keep holes."""

from __future__ import annotations

import numpy as np

from musc_fast.report.outline import outlines, simplify, svg_path


def area(loop: np.ndarray) -> float:
    x, y = loop.T
    return abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2


def test_a_round_hill_gives_a_circle() -> None:
    y, x = np.mgrid[:60, :60] + 0.5
    distance = np.hypot(x - 31.3, y - 24.8)
    (loop,) = outlines((distance <= 12).astype(int), -distance, -12.0)
    radius = np.hypot(*(loop - (31.3, 24.8)).T)
    assert np.abs(radius - 12).max() < 0.02
    assert abs(area(loop) - np.pi * 144) < 2
    short = simplify(loop, 0.2)
    assert len(short) < len(loop) / 2
    # No dropped point is farther away than the tolerance, so the area hardly changes.
    assert abs(area(short) - area(loop)) < 0.2 * 2 * np.pi * 12


def test_the_border_of_the_image_closes_an_outline() -> None:
    (loop,) = outlines(np.ones((3, 5), dtype=int), np.ones((3, 5)), 0.5)
    assert loop.min() == 0
    assert loop.max(axis=0).tolist() == [5, 3]
    assert 14 <= area(loop) <= 15  # the corners are cut


def test_holes_and_parts_have_outlines_of_their_own() -> None:
    labels = np.zeros((12, 12), dtype=int)
    labels[1:8, 1:8] = 1
    labels[3:6, 3:6] = 0
    labels[10, 10] = 2
    areas = sorted(area(loop) for loop in outlines(labels, labels > 0, 0.5))
    assert len(areas) == 3
    assert areas[0] == 0.5
    assert 8 <= areas[1] <= 9
    assert 48 <= areas[2] <= 49


def test_pixels_that_touch_at_a_corner_share_an_outline() -> None:
    for labels in (np.eye(2, dtype=int), np.eye(2, dtype=int)[::-1]):
        (loop,) = outlines(labels, labels, 0.5)
        assert len(loop) == 8


def test_every_set_of_pixels_gives_closed_loops() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        labels = (rng.random((9, 9)) < rng.random()).astype(int)
        loops = outlines(labels, labels, 0.5)
        for loop in loops:
            steps = np.abs(np.roll(loop, -1, axis=0) - loop).max(axis=1)
            assert steps.max() <= 1
        assert (len(loops) > 0) == bool(labels.any())


def test_path_in_the_view() -> None:
    labels = np.zeros((10, 20), dtype=int)
    labels[2:4, 5:10] = 1
    path = svg_path(labels, labels, 0.5, (500, 1000), tolerance=0)
    assert path.count("M") == path.count("Z") == 1
    numbers = np.array([part.split() for part in path.strip("MZ").split("L")], dtype=int)
    assert numbers.min(axis=0).tolist() == [250, 100]
    assert numbers.max(axis=0).tolist() == [500, 200]
    assert svg_path(labels * 0, labels, 0.5, (500, 1000)) == ""
