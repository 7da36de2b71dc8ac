"""Axes of the part on the canvas."""

from __future__ import annotations

import pytest

from musc_fast.datasets.sample.part import Frame, Pose


def test_frame_takes_part_axes_to_image_axes() -> None:
    frame = Frame(200, Pose(0.03, -0.02, 0.1, 1.1))
    x, y = frame.to_image(0.4, -0.3)
    column, row = round((x + 1) * 100 - 0.5), round((y + 1) * 100 - 0.5)
    assert frame.u[row, column] == pytest.approx(0.4, abs=0.01)
    assert frame.v[row, column] == pytest.approx(-0.3, abs=0.01)
