"""The files of a results folder: values, ranks, names, pictures on one scale."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from musc_fast.errors import InputError
from musc_fast.report.folder import staged
from musc_fast.report.heatmap import colour_table
from musc_fast.report.names import result_names
from musc_fast.report.results import write_results, write_settings
from musc_fast.report.scored_batch import ScoredBatch


def write(out: Path, run: ScoredBatch) -> None:
    with staged(out) as stage:
        write_results(stage, run)
        write_settings(stage, run)


def test_files_and_values(tmp_path: Path, run: ScoredBatch) -> None:
    out = tmp_path / "deep" / "out"
    write(out, run)
    with (out / "scores.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    earlier = ["path", "image_score", "raw_score", "rank", "flagged"]
    assert list(rows[0]) == [*earlier, "verdict", "threshold", "p_value"]
    # rank 1 first; a tie of image scores goes by the raw score
    assert [Path(row["path"]).name for row in rows] == ["b.png", "c.png", "a.png"]
    assert [row["rank"] for row in rows] == ["1", "2", "3"]
    assert [float(row["raw_score"]) for row in rows] == [0.2, 0.3, 0.1]
    assert [row["flagged"] for row in rows] == ["1", "1", "0"]
    assert [row["verdict"] for row in rows] == ["flagged", "flagged", "clear"]
    assert {row["threshold"] for row in rows} == {"0.2"}
    for k, name in enumerate(("x/a", "x/b", "c")):
        stored = np.load(out / "maps" / f"{name}.npy")
        assert stored.dtype == np.float32
        np.testing.assert_array_equal(stored, run.anomaly_maps[k])
        heat = Image.open(out / "maps" / f"{name}.png")
        assert heat.size == (40 + 10 * k, 30)
        grey = Image.open(out / "maps_grey" / f"{name}.png")
        assert (grey.mode, grey.size) == ("L", heat.size)
        np.testing.assert_array_equal(colour_table()[np.asarray(grey)], np.asarray(heat))
        assert Image.open(out / "overlays" / f"{name}.png").width > 200
    settings = json.loads((out / "run.json").read_text())
    assert settings["images"] == 3
    assert settings["map_scale"]["low"] == float(run.anomaly_maps.min())
    assert settings["map_scale"]["of"] == "batch"
    assert settings["threshold"]["value"] == 0.2
    assert settings["threshold"]["rule"] == "value"
    assert settings["threshold"]["flagged"] == 2
    with (out / "regions.csv").open(newline="") as file:
        regions = list(csv.DictReader(file))
    assert {row["path"] for row in regions} == set(map(str, run.paths))  # all maps reach 0.2
    assert max(float(row["peak_score"]) for row in regions) == pytest.approx(run.anomaly_maps.max())
    assert "b.png" in (out / "report.html").read_text(encoding="utf-8")


def test_all_pictures_share_one_scale(tmp_path: Path, run: ScoredBatch) -> None:
    run.anomaly_maps[0] *= 0.01
    write(tmp_path / "out", run)
    dim = np.asarray(Image.open(tmp_path / "out" / "maps" / "x" / "a.png"))
    assert dim.sum(axis=2).max() <= colour_table()[4].sum()


def test_a_scale_for_each_picture(tmp_path: Path, run: ScoredBatch) -> None:
    run.anomaly_maps[0] *= 0.01
    out = tmp_path / "out"
    with staged(out) as stage:
        write_results(stage, run, map_scale="image")
        write_settings(stage, run, "image")
    for name in ("x/a", "x/b", "c"):
        grey = np.asarray(Image.open(out / "maps_grey" / f"{name}.png"))
        assert grey.max() > 200
    assert json.loads((out / "run.json").read_text())["map_scale"]["of"] == "image"


def test_no_maps(tmp_path: Path, run: ScoredBatch) -> None:
    with staged(tmp_path / "out") as stage:
        write_results(stage, run, maps=False)
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["results.json", "scores.csv"]


def test_paths_with_dots_stay_in_the_folder(
    tmp_path: Path, run: ScoredBatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path / "images" / "x")
    dotted = [Path("a.png"), Path("b.png"), Path("../c.png")]
    assert result_names([Path("../../a/1.png"), Path("e/2.png")]) == ["a/1", "images/x/e/2"]
    trees = []
    for name, batch in (("out", replace(run, paths=dotted)), ("plain", run)):
        write(tmp_path / name, batch)
        files = (path for path in (tmp_path / name).rglob("*") if path.is_file())
        trees.append(sorted(path.relative_to(tmp_path / name).as_posix() for path in files))
    assert trees[0] == trees[1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images", "out", "plain"]


def test_a_name_that_leaves_the_folder_is_refused(
    tmp_path: Path, run: ScoredBatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    for bad in ("../../a", "x/../../../a", str(tmp_path / "a")):
        names = ["x/a", "x/b", bad]
        monkeypatch.setattr("musc_fast.report.results.result_names", lambda _, n=names: n)
        with pytest.raises(InputError, match="leave its folder"):
            write(tmp_path / "deep" / "out", run)
    assert not list(tmp_path.glob("**/a.npy"))


def test_the_colours_of_a_batch_without_a_flag_stay_below_the_middle(
    tmp_path: Path, make_run: Callable[..., ScoredBatch]
) -> None:
    for threshold, highest in ((0.5, 255), (None, 128)):
        run = make_run(["a.png", "b.png", "c.png"], threshold=threshold)
        out = tmp_path / str(highest)
        out.mkdir()
        write_results(out, run)
        write_settings(out, run)
        levels = [np.asarray(Image.open(out / "maps_grey" / f"{n}.png")).max() for n in "abc"]
        assert max(levels) in (highest, highest - 1)
        stored = json.loads((out / "run.json").read_text())["map_scale"]
        low, high = float(run.anomaly_maps.min()), float(run.anomaly_maps.max())
        assert stored["low"] == low
        assert stored["high"] == (high if threshold else pytest.approx(2 * high - low))
