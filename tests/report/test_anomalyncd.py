"""Maps for AnomalyNCD: names, scale and levels as its README has them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from musc_fast.errors import InputError
from musc_fast.report.anomalyncd import write_anomalyncd_maps

IMAGES = [f"data/bottle/test/{name}" for name in ("good/000.png", "crack/000.png", "crack/001.jpg")]


def some_maps(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).gamma(2.0, 0.2, (3, 17, 23)).astype(np.float32)


def levels(file: Path) -> np.ndarray:
    with Image.open(file) as picture:
        assert (picture.format, picture.mode) == ("PNG", "L")
        return np.asarray(picture).astype(int)


def test_names_and_levels(tmp_path: Path) -> None:
    maps = some_maps()
    files = write_anomalyncd_maps(tmp_path, IMAGES, maps)
    names = ["bottle/good/000.png", "bottle/crack/000.png", "bottle/crack/001.png"]
    assert [file.relative_to(tmp_path).as_posix() for file in files] == names
    assert sorted(file for file in tmp_path.rglob("*") if file.is_file()) == sorted(files)
    found = np.stack([levels(file) for file in files])
    assert (found.min(), found.max()) == (0, 255)
    plain = (maps.astype(np.float64) - maps.min()) / (float(maps.max()) - maps.min()) * 255
    np.testing.assert_array_equal(found, np.rint(plain))
    # AnomalyNCD's README cuts levels off, these are rounded.
    assert set(np.unique(found - np.floor(plain))) == {0, 1}


def test_a_constant_batch_is_black(tmp_path: Path) -> None:
    files = write_anomalyncd_maps(tmp_path, IMAGES, np.full((3, 4, 5), 0.3))
    assert all(not levels(file).any() for file in files)


def test_a_second_export_replaces_the_first(tmp_path: Path) -> None:
    first = write_anomalyncd_maps(tmp_path, IMAGES, some_maps())
    before = levels(first[0])
    assert write_anomalyncd_maps(tmp_path, IMAGES, some_maps(seed=1)) == first
    assert (levels(first[0]) != before).any()


def test_maps_of_other_images_are_refused(tmp_path: Path) -> None:
    write_anomalyncd_maps(tmp_path, IMAGES, some_maps())
    with pytest.raises(InputError, match=r"crack/001\.png is no map of this batch"):
        write_anomalyncd_maps(tmp_path, IMAGES[:2], some_maps()[:2])
    write_anomalyncd_maps(tmp_path, ["bottle/test/cut/7.png"], some_maps()[:1])  # another type


def test_wrong_arguments(tmp_path: Path) -> None:
    maps = some_maps()
    with pytest.raises(InputError, match=r"anomaly_maps: found \[3, 17, 23\], wanted \[2, h, w\]"):
        write_anomalyncd_maps(tmp_path, IMAGES[:2], maps)
    with pytest.raises(InputError, match="more than one would have the map"):
        write_anomalyncd_maps(tmp_path, [*IMAGES[:2], "data/bottle/test/crack/000.jpg"], maps)
    with pytest.raises(InputError, match=r"/x/a\.png: wanted a path such as category/test/type"):
        write_anomalyncd_maps(tmp_path, ["/x/a.png"], maps[:1])
    maps[1, 2, 3] = np.nan
    with pytest.raises(InputError, match="anomaly_maps: found NaN or Inf"):
        write_anomalyncd_maps(tmp_path, IMAGES, maps)
    assert list(tmp_path.iterdir()) == []
