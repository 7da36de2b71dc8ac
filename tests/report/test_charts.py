"""Charts: every image is counted once, on its side of the threshold."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import numpy as np
import pytest

from musc_fast.report.charts import curve, histogram, histogram_bins, nice_ticks


@pytest.mark.parametrize("seed", range(20))
def test_bins_hold_all_and_do_not_cross_the_threshold(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.gamma(3, 0.1, rng.integers(2, 300)).astype(np.float32)
    ordered = np.sort(scores)
    for threshold in (float(ordered[len(ordered) // 2]), float(ordered[-1]), float(ordered[0])):
        edges, index = histogram_bins(scores, threshold)
        cut = int(np.argmin(np.abs(edges - threshold)))
        assert edges[cut] == pytest.approx(threshold)
        assert ((index >= cut) == (scores >= threshold)).all()
        slack = 1e-6 * (edges[-1] - edges[0])
        assert (edges[index] <= scores + slack).all()
        assert (scores <= edges[index + 1] + slack).all()


def test_equal_scores_and_a_threshold_out_of_sight() -> None:
    edges, index = histogram_bins(np.full(5, 0.3), None)
    assert len(set(index.tolist())) == 1
    assert edges[0] < 0.3 < edges[-1]
    edges, _ = histogram_bins(np.array([0.1, 0.2]), 7.0)
    assert edges[-1] == pytest.approx(0.2)


def test_histogram_counts_in_its_bars() -> None:
    scores = np.array([0.1, 0.11, 0.12, 0.3, 0.9])
    flagged = scores > 0.5
    groups = [("not flagged", "plain", ~flagged), ("flagged", "flagged", flagged)]
    svg = ElementTree.fromstring(histogram(scores, 0.6, groups, "distance"))
    assert svg.get("role") == "group"  # its bars are buttons
    texts = [element.text or "" for element in svg.iter()]
    assert "threshold 0.600" in texts
    assert any("5 images from 0.100 to 0.900; threshold 0.600" in text for text in texts)
    bar_titles = [text for text in texts if re.search(r"\d (not )?flagged$", text)]
    assert sum(int(title.split(": ")[1].split()[0]) for title in bar_titles) == 5
    bars = {bar.get("class"): bar for bar in svg.iter("rect")}
    line = next(element for element in svg.iter("line") if element.get("class") == "cut")
    assert float(bars["bar flagged"].get("x", 0)) > float(line.get("x1", 0))


def test_curve_ends_at_its_corners() -> None:
    x, y = np.array([0, 0.5, 1.0]), np.array([0, 0.75, 1.0])
    svg = ElementTree.fromstring(curve("roc", "ROC", x, y, ("fpr", "tpr"), (0.5, 0.75), True))
    points = next(svg.iter("polyline")).get("points", "").split()
    first, _, last = ([float(v) for v in point.split(",")] for point in points)
    assert first[0] < last[0]
    assert first[1] > last[1]  # up is up
    dot = next(svg.iter("circle"))
    assert [dot.get("cx"), dot.get("cy")] == points[1].split(",")


def test_ticks_are_round() -> None:
    assert nice_ticks(0, 10, 5) == [0, 2, 4, 6, 8, 10]
    assert nice_ticks(0.047, 0.757, 4) == pytest.approx([0.2, 0.4, 0.6])
    assert nice_ticks(3, 3) == [3]
