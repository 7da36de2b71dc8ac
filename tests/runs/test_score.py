"""ScoreJob: options reach the results folder; wrong inputs fail when the job is made."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tiny import TINY, Counting, product, product_folder, tiny_weights

from musc_fast.errors import ImageError, InputError, MuscFastWarning
from musc_fast.musc import MuSc
from musc_fast.report.scored_batch import ScoredBatch
from musc_fast.runs.score import ScoreJob


@pytest.fixture(scope="module")
def musc(tmp_path_factory: pytest.TempPathFactory) -> MuSc:
    return MuSc(TINY, weights=tiny_weights(tmp_path_factory.mktemp("weights")), device="cpu")


def run(musc: MuSc, paths: list[Path], out: Path, **options: Any) -> ScoredBatch:
    batch = ScoreJob(paths, out, **options).run(musc, progress=False)
    assert batch is not None
    return batch


def test_a_picture_that_is_there_twice_is_told(tmp_path: Path, musc: MuSc) -> None:
    paths = product_folder(tmp_path / "images", count=6, defective=4)
    twice = paths[4].with_name("twice.png")
    shutil.copy(paths[4], twice)
    with pytest.warns(MuscFastWarning, match=r"twice.png = .*part4.png: there twice"):
        batch = run(musc, [*paths, twice], tmp_path / "out")
    assert batch.raw_scores[4] == batch.raw_scores[6] == batch.raw_scores.max()
    copies = [{"image": str(twice), "of": str(paths[4]), "exact": True}]
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert record["copies"] == "auto"
    assert record["repeats"] == "off"
    assert record["found_copies"] == copies
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["copies"] == copies
    assert results["repeats"] == []
    assert "part4.png: there twice, and no reference" in (tmp_path / "out/report.html").read_text()
    command = record.get("watch") or {"command": ""}
    assert "--copies" not in command["command"]


def test_repeats_are_told(tmp_path: Path, musc: MuSc, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = product_folder(tmp_path / "images", count=18, defective=99)
    for k in (3, 5, 8, 13):
        Image.fromarray(product(k, defect=1)).save(paths[k])
    monkeypatch.setattr(musc, "settings", replace(musc.settings, repeats="auto"))
    with pytest.warns(MuscFastWarning, match=r"part3.png, .*part13.png: these 4 images share"):
        batch = run(musc, paths, tmp_path / "out")
    assert set(np.argsort(-batch.raw_scores)[:4]) == {3, 5, 8, 13}
    (repeat,) = json.loads((tmp_path / "out" / "results.json").read_text())["repeats"]
    assert [Path(path).name for path in repeat["images"]] == [f"part{k}.png" for k in (3, 5, 8, 13)]
    left, top, right, bottom = repeat["box"]  # the square is at 60..84 of 120, 30..54 of 96
    assert left < 0.6 < right
    assert top < 0.45 < bottom
    assert "these 4 images share" in (tmp_path / "out" / "report.html").read_text()
    count = Counting(musc, monkeypatch)
    with pytest.raises(InputError, match="repeats: with references"):
        run(musc, paths[:4], tmp_path / "new", references=paths[4:])
    assert count.images == 0  # it is said before the work


def test_the_flagged_image_has_its_region_in_the_report(tmp_path: Path, musc: MuSc) -> None:
    paths = product_folder(tmp_path / "images", count=8, defective=4)
    out = tmp_path / "out"
    batch = run(musc, paths, out, expected_defect_rate=1 / 8)
    assert batch.threshold.flagged.tolist() == [k == 4 for k in range(8)]
    assert sorted(path.name for path in out.iterdir()) == [
        "maps",
        "maps_grey",
        "overlays",
        "regions.csv",
        "report.html",
        "results.json",
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
    assert settings["threshold"]["value"] == batch.threshold.value
    assert settings["threshold"]["pixel"] == pytest.approx(np.sort(batch.raw_scores)[-2])
    assert {"loading", "features", "scoring", "pictures"} <= set(settings["seconds"])


def test_threshold_and_scale(tmp_path: Path, musc: MuSc) -> None:
    paths = product_folder(tmp_path / "images")
    out = tmp_path / "out"
    batch = run(musc, paths, out, threshold=0.0, map_scale="image")
    assert batch.threshold.flagged.all()
    settings = json.loads((out / "run.json").read_text())
    assert settings["threshold"]["value"] == 0
    assert settings["map_scale"]["of"] == "image"
    batch = run(musc, paths, out, threshold=np.inf)
    assert not batch.threshold.flagged.any()
    assert json.loads((out / "run.json").read_text())["threshold"]["value"] == "inf"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threshold": 0.1, "expected_defect_rate": 0.1}, "not both"),
        ({"expected_defect_rate": 1.5}, "found 1.5, wanted 0 to 1"),
        ({"map_scale": "both"}, "map_scale: found 'both'"),
    ],
)
def test_wrong_options_fail_when_the_job_is_made(
    options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    missing = [tmp_path / "a.png", tmp_path / "b.png"]
    with pytest.raises(InputError, match=message):
        ScoreJob(missing, tmp_path / "out", **options)
    assert list(tmp_path.iterdir()) == []


def test_wrong_inputs_and_targets_fail_when_the_job_is_made(tmp_path: Path) -> None:
    paths = product_folder(tmp_path / "images", count=3)
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "mine.txt").touch()
    out = tmp_path / "out"
    with pytest.raises(ImageError, match="no such file"):
        ScoreJob([tmp_path / "nowhere"], out)
    with pytest.raises(InputError, match="one image has no others"):
        ScoreJob([paths[0], paths[0]], out)
    with pytest.raises(InputError, match="own references"):
        ScoreJob(paths[:2], out, references=[tmp_path / "images"])
    with pytest.raises(InputError, match="holds no earlier run"):
        ScoreJob(paths, tmp_path / "foreign")
    with pytest.raises(InputError, match="no folder that can be written to"):
        ScoreJob(paths, paths[0] / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["foreign", "images"]


def test_one_readable_image_is_not_enough(tmp_path: Path, musc: MuSc) -> None:
    paths = product_folder(tmp_path / "images", count=2)
    paths[1].write_bytes(b"no image")
    with pytest.raises(ImageError, match="only 1 of 2 images can be read"):
        run(musc, paths, tmp_path / "out", skip_bad=True)
    batch = run(musc, paths[:1], tmp_path / "out", references=product_folder(tmp_path / "others"))
    assert batch.settings["references"] == 6
    assert list(batch.settings["seconds"]) == ["loading", "features", "scoring", "pictures"]


def test_features_of_references_are_kept(
    tmp_path: Path, musc: MuSc, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = product_folder(tmp_path / "good", count=5, defective=-1)
    paths = product_folder(tmp_path / "images", count=1, defective=0)
    cache = tmp_path / "cache"
    counting = Counting(musc, monkeypatch)
    scores = []
    for extracted in (6, 7):  # the second time that of the image alone
        batch = run(musc, paths, tmp_path / "out", references=good, cache=cache)
        assert counting.images == extracted
        scores.append(batch.raw_scores)
    assert np.array_equal(*scores)
    product_folder(tmp_path / "good", count=5, defective=3)  # another picture under its name
    batch = run(musc, paths, tmp_path / "out", references=good, cache=cache)
    assert counting.images == 13
    assert batch.raw_scores != scores[0]
    with pytest.raises(InputError, match="cache: it keeps the features of references"):
        ScoreJob(good, tmp_path / "out", cache=cache)
