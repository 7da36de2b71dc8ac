"""The results folder: complete or absent, ranks, names, pictures on one scale."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from musc_fast.errors import InputError
from musc_fast.report.heatmap import colour_table
from musc_fast.report.results import Run, result_names, staged, write_results, write_settings
from musc_fast.threshold import find_threshold


@pytest.fixture
def run(tmp_path: Path) -> Run:
    paths = []
    for k, name in enumerate(("x/a.png", "x/b.png", "c.png")):
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40 + 10 * k, 30), (60 * k, 90, 50)).save(path)
        paths.append(path)
    maps = np.random.default_rng(0).random((3, 14, 14)).astype(np.float32)
    scores = np.array([0.5, 0.9, 0.5], dtype=np.float32)
    raw = np.array([0.1, 0.2, 0.3], dtype=np.float32)
    return Run(paths, scores, raw, maps, {"images": 3}, find_threshold(raw, value=0.2))


def write(out: Path, run: Run) -> None:
    with staged(out) as stage:
        write_results(stage, run)
        write_settings(stage, run)


def test_files_and_values(tmp_path: Path, run: Run) -> None:
    out = tmp_path / "deep" / "out"
    write(out, run)
    with (out / "scores.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["path", "image_score", "raw_score", "rank", "flagged"]
    # rank 1 first; a tie of image scores goes by the raw score
    assert [Path(row["path"]).name for row in rows] == ["b.png", "c.png", "a.png"]
    assert [row["rank"] for row in rows] == ["1", "2", "3"]
    assert [float(row["raw_score"]) for row in rows] == [0.2, 0.3, 0.1]
    assert [row["flagged"] for row in rows] == ["1", "1", "0"]
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


def test_all_pictures_share_one_scale(tmp_path: Path, run: Run) -> None:
    run.anomaly_maps[0] *= 0.01
    write(tmp_path / "out", run)
    dim = np.asarray(Image.open(tmp_path / "out" / "maps" / "x" / "a.png"))
    assert dim.sum(axis=2).max() <= colour_table()[4].sum()


def test_a_scale_for_each_picture(tmp_path: Path, run: Run) -> None:
    run.anomaly_maps[0] *= 0.01
    out = tmp_path / "out"
    with staged(out) as stage:
        write_results(stage, run, map_scale="image")
        write_settings(stage, run, "image")
    for name in ("x/a", "x/b", "c"):
        grey = np.asarray(Image.open(out / "maps_grey" / f"{name}.png"))
        assert grey.max() > 200
    assert json.loads((out / "run.json").read_text())["map_scale"]["of"] == "image"


def test_no_maps(tmp_path: Path, run: Run) -> None:
    with staged(tmp_path / "out") as stage:
        write_results(stage, run, maps=False)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["scores.csv"]


def test_names_stay_distinct() -> None:
    paths = [Path("/d/a.png"), Path("/d/a.jpg"), Path("/d/s/a.png")]
    assert result_names(paths) == ["a.png", "a.jpg", "s/a"]
    paths = [Path("/d/b.png"), Path("/d/b.jpg"), Path("/d/b.png.png"), Path("/d/c")]
    assert result_names(paths) == ["b.png", "b.jpg", "b.png.png", "c"]


def test_a_failed_run_leaves_the_earlier_one(tmp_path: Path, run: Run) -> None:
    out = tmp_path / "out"
    write(out, run)
    before = sorted(path.name for path in out.rglob("*"))

    def fail() -> None:
        with staged(out) as stage:
            (stage / "half.txt").write_text("x")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert sorted(path.name for path in out.rglob("*")) == before
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
    write(out, run)  # and can be run again


def test_a_killed_run_leaves_nothing_half_written(tmp_path: Path, run: Run) -> None:
    out = tmp_path / "out"
    code = (
        "import sys, time; from pathlib import Path; "
        "from musc_fast.report.results import staged\n"
        "with staged(Path(sys.argv[1])) as stage:\n"
        "    (stage / 'half.txt').write_text('x'); print('ready', flush=True); time.sleep(60)"
    )
    child = subprocess.Popen([sys.executable, "-c", code, str(out)], stdout=subprocess.PIPE)
    assert child.stdout is not None
    assert child.stdout.readline() == b"ready\n"
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    child.stdout.close()
    assert not out.exists()
    assert len(list(tmp_path.glob(".out-partial-*"))) == 1
    write(out, run)
    assert (out / "scores.csv").is_file()
    assert not list(tmp_path.glob(".out-partial-*"))


def test_a_foreign_folder_is_never_replaced(tmp_path: Path, run: Run) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("precious")
    with pytest.raises(InputError, match="holds no earlier run"):
        write(out, run)
    assert (out / "thesis.txt").read_text() == "precious"
    with pytest.raises(InputError, match="is a file"):
        write(out / "thesis.txt", run)
