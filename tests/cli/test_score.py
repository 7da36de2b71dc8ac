"""`score`: options reach the results; wrong ones end it; an interrupted run leaves nothing."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image
from tiny import TINY, product, product_folder, tiny_weights
from typer.testing import CliRunner, Result

from musc_fast.cli.app import app
from musc_fast.cli.console import warnings_printed
from musc_fast.errors import InputError, MuscFastWarning
from musc_fast.features.engines import resolve_engine


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_weights(tmp_path_factory.mktemp("weights"))


def musc(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def rows(out: Path) -> list[dict[str, str]]:
    with (out / "scores.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_score_writes_everything(tmp_path: Path, weights: Path) -> None:
    product_folder(tmp_path / "images")
    out = tmp_path / "out"
    result = musc(
        "score", tmp_path / "images", "--out", out, "--backbone", TINY, "--weights", weights
    )
    assert result.exit_code == 0, result.output
    found = rows(out)
    assert len(found) == 6
    assert Path(found[0]["path"]).name == "part4.png"
    assert [row["rank"] for row in found] == [str(k) for k in range(1, 7)]
    assert np.load(out / "maps" / "part4.npy").shape == (160, 160)
    assert (out / "maps" / "part4.png").is_file()
    assert (out / "overlays" / "part4.png").is_file()
    run = json.loads((out / "run.json").read_text())
    assert run["images"] == 6
    assert run["backbone"] == TINY
    assert run["degrees"] == [1, 3, 5]
    assert (run["recipe"], run["degree_fusion"], run["rscin"]) == ("one-search", "features", False)
    assert run["engine"] == resolve_engine("auto", "cpu").name
    assert run["feature_precision"] == "fp32"
    assert {"features", "scoring", "pictures", "loading"} <= set(run["seconds"])
    assert "part4.png" in result.output


def test_place_is_chosen_and_recorded(tmp_path: Path, weights: Path) -> None:
    product_folder(tmp_path / "images")
    out = tmp_path / "out"
    how = ("--backbone", TINY, "--weights", weights, "--no-maps", "--out", out)
    result = musc("score", tmp_path / "images", *how, "--place", "1")
    assert result.exit_code == 0, result.output
    run = json.loads((out / "run.json").read_text())
    assert (run["place"], run["chosen_place"]) == (1, 1)
    assert "at most 1 from it" in " ".join(run["notes"])
    result = musc("score", tmp_path / "images", *how, "--place", "near")
    assert result.exit_code != 0
    with pytest.raises(InputError, match="--place: found 'near', wanted off, auto or a number"):
        raise result.exception or AssertionError("no error")


def test_engine_precision_and_recipe_are_chosen_and_recorded(tmp_path: Path, weights: Path) -> None:
    product_folder(tmp_path / "images")
    out = tmp_path / "out"
    how = ("--backbone", TINY, "--weights", weights, "--no-maps", "--out", out)
    how += ("--engine", "torch", "--feature-precision", "bf16", "--recipe", "paper")
    result = musc("score", tmp_path / "images", *how)
    assert result.exit_code == 0, result.output
    run = json.loads((out / "run.json").read_text())
    found = {key: run[key] for key in ("engine", "feature_precision", "recipe", "rscin")}
    assert found == {
        "engine": "torch",
        "feature_precision": "bf16",
        "recipe": "paper",
        "rscin": True,
    }


def test_max_references(tmp_path: Path, weights: Path) -> None:
    product_folder(tmp_path / "images")
    how = ("--backbone", TINY, "--weights", weights, "--no-maps")
    every, fewer = tmp_path / "every", tmp_path / "fewer"
    assert musc("score", tmp_path / "images", "--out", every, *how).exit_code == 0
    result = musc("score", tmp_path / "images", "--out", fewer, *how, "--max-references", 2)
    assert result.exit_code == 0, result.output
    assert json.loads((fewer / "run.json").read_text())["max_references"] == 2
    scores = [{row["path"]: row["raw_score"] for row in rows(out)} for out in (every, fewer)]
    assert scores[0].keys() == scores[1].keys()
    assert scores[0] != scores[1]
    refused = musc("score", tmp_path / "images", "--out", fewer, *how, "--max-references", 0)
    assert refused.exit_code != 0
    assert "max_references" in str(refused.exception)


def test_options_reach_the_scoring(tmp_path: Path, weights: Path) -> None:
    paths = product_folder(tmp_path / "images")
    product_folder(tmp_path / "references", count=5, defective=-1)
    out = tmp_path / "out"
    given = ["--references", tmp_path / "references", "--out", out, "--no-maps", "--no-rscin"]
    given += ["--backbone", TINY, "--weights", weights, "--size", "96,128", "--degrees", "1,3"]
    given += ["--topmin", "0,2", "--backend", "reference", "--batch-size", "3"]
    result = musc("score", paths[4], paths[0], *given, "--memory-limit", "1GB")
    assert result.exit_code == 0, result.output
    run = json.loads((out / "run.json").read_text())
    assert run["image_size"] == [96, 128]
    assert run["degrees"] == [1, 3]
    assert run["topmin"] == [0, 2]
    assert run["chosen_backend"] == "reference"
    assert run["references"] == 5
    assert run["memory_limit"] == 10**9
    assert run["rscin"] is False
    names = ["results.json", "run.json", "scores.csv"]
    assert sorted(path.name for path in out.iterdir()) == names
    assert rows(out)[0]["path"].endswith("part4.png")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere"),
        ([".", "--degrees", "1,x"], "--degrees: found '1,x'"),
        ([".", "--topmin", "1"], "--topmin: found '1'"),
        ([".", "--size", "10,10,10"], "--size: found"),
        ([".", "--memory-limit", "lots"], "--memory-limit: found 'lots'"),
        ([".", "--memory-limit", "1.2.3GB"], "--memory-limit: found '1.2.3GB'"),
        ([".", "--size", "inf"], "--size: found 'inf'"),
        ([".", "--threshold", "-1", "--backbone", TINY, "--weights", "W"], "threshold: found -1"),
        ([".", "--references", ".", "--backbone", TINY, "--weights", "W"], "own references"),
        ([".", "--device", "mps", "--backbone", TINY, "--weights", "W"], "only cpu and cuda"),
        (["part0.png", "--backbone", TINY, "--weights", "W"], "one image has no others"),
        ([".", "--backbone", "dinov2-vit-s-15"], "dinov2-vit-s-14"),
        ([".", "--backend", "tpu", "--backbone", TINY, "--weights", "W"], "unknown backend 'tpu'"),
        ([".", "--out", "full", "--backbone", TINY, "--weights", "W"], "holds no earlier run"),
    ],
)
def test_wrong_options(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    weights: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    product_folder(tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("x")
    monkeypatch.chdir(tmp_path)
    result = musc("score", *(str(weights) if a == "W" else a for a in arguments))
    assert result.exit_code == 1
    assert message in str(result.exception)


def test_an_interrupted_run_leaves_no_output(tmp_path: Path, weights: Path) -> None:
    product_folder(tmp_path / "images", count=40)
    line = [sys.executable, "-m", "musc_fast", "score", tmp_path / "images"]
    line += ["--out", tmp_path / "out", "--backbone", TINY, "--weights", weights]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    # A shell's background job ignores SIGINT and hands that on; this run must not.
    ignored = signal.signal(signal.SIGINT, signal.default_int_handler)
    child = subprocess.Popen([*map(str, line)], text=True, **pipes)
    signal.signal(signal.SIGINT, ignored)
    deadline = time.monotonic() + 180
    while not list(tmp_path.glob(".out-partial-*")) and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(child.pid, signal.SIGINT)
    _, stderr = child.communicate(timeout=180)
    assert child.returncode == 130, stderr
    assert "interrupted" in stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images"]


def test_images_of_12_bits_have_one_white_level_that_is_said(tmp_path: Path, weights: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for k in range(6):
        values = np.rint(product(k, int(k == 4)) * (4000 / 255)).astype(np.uint16)
        tifffile.imwrite(folder / f"part{k}.tif", values, photometric="rgb")
    line = ["score", folder, "--backbone", TINY, "--weights", weights, "--out"]
    result = CliRunner().invoke(app, [str(word) for word in [*line, tmp_path / "a"]])
    assert result.exit_code == 0, result.output
    first = (tmp_path / "a" / "scores.csv").read_text()
    assert "part4.tif" in first.splitlines()[1]
    assert json.loads((tmp_path / "a" / "run.json").read_text())["white"] == 4095
    shown = np.asarray(Image.open(tmp_path / "a" / "overlays" / "part0.png"))
    assert shown[42:, 12:200].mean() > 100  # the photo is as bright as it was taken
    line += [tmp_path / "b", "--white", "4095", "--max-pixels", "12k"]
    assert CliRunner().invoke(app, [str(word) for word in line]).exit_code == 0
    assert (tmp_path / "b" / "scores.csv").read_text() == first
    small = CliRunner().invoke(app, [str(word) for word in [*line, "--max-pixels", "11k"]])
    assert "0.01152 megapixels, more than the 0.011 allowed" in str(small.exception)


def test_notes_are_printed_as_lines(capsys: pytest.CaptureFixture[str]) -> None:
    with warnings_printed():
        for _ in range(2):
            warnings.warn("4095 is taken for white", MuscFastWarning, stacklevel=1)
    assert capsys.readouterr().err.count("note: 4095 is taken for white\n") == 2


def test_scripts_get_an_exit_status_and_lines(tmp_path: Path, weights: Path) -> None:
    images = tmp_path / "images"
    product_folder(images)
    how = ["--backbone", TINY, "--weights", weights, "--no-maps", "--fail-on-flagged"]
    line = ["score", images, *how, "--out", tmp_path / "out"]
    one = musc(*line, "--expected-defect-rate", "0.17", "--json", "-")
    assert one.exit_code == 3, one.output
    records = [json.loads(text) for text in one.stdout.splitlines()]  # nothing else is there
    assert [record["flagged"] for record in records] == [True] + 5 * [False]
    assert records[0]["path"].endswith("part4.png")
    assert list(records[0]) == list(rows(tmp_path / "out")[0])
    none = musc(*line, "--threshold", "inf", "--json", tmp_path / "lines.jsonl", "-q")
    assert none.exit_code == 0
    assert none.output == ""
    assert len((tmp_path / "lines.jsonl").read_text().splitlines()) == 6
    assert json.loads((tmp_path / "out" / "results.json").read_text())["flagged"] == 0
    refused = musc(*line, "--json", tmp_path / "out" / "lines.jsonl")
    assert "--json:" in str(refused.exception)


def test_grep_and_awk_find_the_last_column(tmp_path: Path, weights: Path) -> None:
    images = tmp_path / "images"
    product_folder(images)
    how = ["--backbone", TINY, "--weights", weights, "--expected-defect-rate", "0.17"]
    assert musc("score", images, *how, "--out", tmp_path / "out").exit_code == 0
    for name in ("scores.csv", "regions.csv"):
        data = (tmp_path / "out" / name).read_bytes()
        assert b"\r" not in data
        assert data.endswith(b"\n")


def test_a_bad_file_ends_it_before_the_model_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = product_folder(tmp_path / "images")
    paths[2].write_bytes(b"no image")

    def load(*_: object, **__: object) -> None:
        raise AssertionError("the model was loaded")

    monkeypatch.setattr("musc_fast.cli.score.load", load)
    result = musc("score", tmp_path / "images", "--out", tmp_path / "out")
    assert "1 of 6 images cannot be read" in str(result.exception)
    assert "part2.png" in str(result.exception)


def test_how_it_was_decided_is_recorded(tmp_path: Path, weights: Path) -> None:
    product_folder(tmp_path / "images", count=6)
    line = ["score", tmp_path / "images", "--backbone", TINY, "--weights", weights, "--no-maps"]
    for options, rate, share in (
        (["--false-alarms", "0.05", "--look-share", "0.5"], 0.05, 0.5),
        (["--rule", "split"], 0.1, None),
        (["--threshold", "3"], None, None),
    ):
        out = tmp_path / f"out{share}{rate}"
        result = musc(*line, *options, "--out", out)
        assert result.exit_code == 0, result.output
        for name in ("run.json", "results.json"):
            told = json.loads((out / name).read_text())["threshold"]
            assert (told["false_alarms"], told["look_share"]) == (rate, share)


def test_quiet_verbose_and_a_log(tmp_path: Path, weights: Path) -> None:
    images, log = tmp_path / "images", tmp_path / "logs" / "run.log"
    product_folder(images)
    line = ["score", images, "--backbone", TINY, "--weights", weights, "--no-maps", "--out"]
    quiet = musc(*line, tmp_path / "a", "-q", "--log-file", log)
    assert (quiet.exit_code, quiet.output) == (0, "")
    text = log.read_text()
    for word in ("musc-fast ", "features: ", "part4.png", "results: "):
        assert word in text
    assert all(entry[:2] == "20" for entry in text.splitlines())  # each line begins with its time
    verbose = musc(*line, tmp_path / "a", "-v", "--log-file", log)
    assert "using timm:test_vit" in verbose.stderr
    assert log.read_text().startswith(text)
    both = musc(*line, tmp_path / "a", "-q", "-v")
    assert "contradict" in str(both.exception)
    unwritable = musc(*line, tmp_path / "a", "--log-file", tmp_path)
    assert "--log-file:" in str(unwritable.exception)


def test_a_pipe_sees_lines_while_it_runs(tmp_path: Path, weights: Path) -> None:
    product_folder(tmp_path / "images")
    result = musc(
        "score", tmp_path / "images", "--backbone", TINY, "--weights", weights, "--no-maps",
        "--out", tmp_path / "out",
    )  # fmt: skip
    lines = result.stderr.splitlines()
    assert lines[0] == f"loading {TINY}"
    assert any(text.startswith("features: ") for text in lines)
    assert "\x1b" not in result.stderr
