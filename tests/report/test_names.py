"""Names of images in the results: distinct, and unchanged where a file name starts with dots."""

from __future__ import annotations

from pathlib import Path

from musc_fast.report.names import result_names


def test_names_stay_distinct() -> None:
    paths = [Path("/d/a.png"), Path("/d/a.jpg"), Path("/d/s/a.png")]
    assert result_names(paths) == ["a.png", "a.jpg", "s/a"]
    paths = [Path("/d/b.png"), Path("/d/b.jpg"), Path("/d/b.png.png"), Path("/d/c")]
    assert result_names(paths) == ["b.png", "b.jpg", "b.png.png", "c"]


def test_names_that_start_with_dots() -> None:
    paths = [Path("/d/..png"), Path("/d/...png"), Path("/d/.a.png")]
    assert result_names(paths) == ["..png", "...png", ".a"]
