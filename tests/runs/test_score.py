"""score_images: the options reach the results folder, and wrong ones fail before the work."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from tiny import TINY, product_folder, tiny_weights

from musc_fast.errors import InputError
from musc_fast.musc import MuSc
from musc_fast.runs.score import score_images


@pytest.fixture(scope="module")
def musc(tmp_path_factory: pytest.TempPathFactory) -> MuSc:
    return MuSc(TINY, weights=tiny_weights(tmp_path_factory.mktemp("weights")), device="cpu")


def test_the_flagged_image_has_its_region_in_the_report(tmp_path: Path, musc: MuSc) -> None:
    paths = product_folder(tmp_path / "images", count=8, defective=4)
    out = tmp_path / "out"
    run = score_images(musc, paths, out, expected_defect_rate=1 / 8, shown=False)
    assert run.threshold.flagged.tolist() == [k == 4 for k in range(8)]
    assert sorted(path.name for path in out.iterdir()) == [
        "maps",
        "maps_grey",
        "overlays",
        "regions.csv",
        "report.html",
        "run.json",
        "scores.csv",
    ]
    with (out / "scores.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [Path(row["path"]).name for row in rows if row["flagged"] == "1"] == ["part4.png"]
    with (out / "regions.csv").open(newline="") as file:
        (region, *others) = csv.DictReader(file)
    assert Path(region["path"]).name == "part4.png"
    assert not [row for row in others if Path(row["path"]).name != "part4.png"]
    # the drawn defect is at 60..84, 30..54
    x, y, width, height, peak_x, peak_y = (
        int(region[k]) for k in ("x", "y", "width", "height", "peak_x", "peak_y")
    )
    assert x < 84
    assert x + width > 60
    assert y < 54
    assert y + height > 30
    assert 50 <= peak_x <= 94
    assert 20 <= peak_y <= 64
    settings = json.loads((out / "run.json").read_text())
    assert settings["threshold"]["rule"] == "expected_defect_rate"
    assert settings["threshold"]["value"] == run.threshold.value
    assert settings["threshold"]["pixel"] == pytest.approx(np.sort(run.raw_scores)[-2])
    assert {"loading", "features", "scoring", "pictures"} <= set(settings["seconds"])


def test_threshold_and_scale(tmp_path: Path, musc: MuSc) -> None:
    paths = product_folder(tmp_path / "images")
    out = tmp_path / "out"
    run = score_images(musc, paths, out, threshold=0.0, map_scale="image", shown=False)
    assert run.threshold.flagged.all()
    settings = json.loads((out / "run.json").read_text())
    assert settings["threshold"]["value"] == 0
    assert settings["map_scale"]["of"] == "image"
    run = score_images(musc, paths, out, threshold=np.inf, shown=False)
    assert not run.threshold.flagged.any()
    assert json.loads((out / "run.json").read_text())["threshold"]["value"] == "inf"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threshold": 0.1, "expected_defect_rate": 0.1}, "not both"),
        ({"expected_defect_rate": 1.5}, "found 1.5, wanted 0 to 1"),
        ({"map_scale": "both"}, "map_scale: found 'both'"),
    ],
)
def test_wrong_options_fail_before_the_work(
    options: dict[str, object], message: str, tmp_path: Path, musc: MuSc
) -> None:
    missing = [tmp_path / "a.png", tmp_path / "b.png"]
    with pytest.raises(InputError, match=message):
        score_images(musc, missing, tmp_path / "out", **options)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []
