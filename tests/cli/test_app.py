"""The command as a user runs it."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from tiny import TINY, product_folder, tiny_weights
from typer.testing import CliRunner, Result

from musc_fast.cli import options
from musc_fast.cli.app import app
from musc_fast.errors import InputError


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_weights(tmp_path_factory.mktemp("weights"))


def musc(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own: exit status, standard output and error."""
    line = [sys.executable, "-m", "musc_fast", *(str(argument) for argument in arguments)]
    return subprocess.run(line, capture_output=True, text=True, check=False)


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
    assert {"features", "scoring", "pictures", "loading"} <= set(run["seconds"])
    assert "part4.png" in result.output


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
    assert sorted(path.name for path in out.iterdir()) == ["run.json", "scores.csv"]
    assert rows(out)[0]["path"].endswith("part4.png")


def test_an_error_is_one_message_without_a_traceback(tmp_path: Path, weights: Path) -> None:
    paths = product_folder(tmp_path / "images")
    paths[1].write_bytes(b"no image")
    common = ("--out", tmp_path / "out", "--backbone", TINY, "--weights", weights)
    result = command("score", tmp_path / "images", *common)
    assert result.returncode == 1
    assert "error:" in result.stderr
    assert "part1.png" in result.stderr
    assert "--skip-bad" in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "out").exists()

    result = command("score", tmp_path / "images", "--skip-bad", *common)
    assert result.returncode == 0, result.stderr
    assert "part1.png" in result.stderr
    assert "1 unreadable" in result.stderr
    assert len(rows(tmp_path / "out")) == 5


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


def test_info_names_versions_and_backends() -> None:
    result = musc("info")
    assert result.exit_code == 0
    for word in ("torch", "reference", "cpu", "chosen by auto"):
        assert word in result.output


def test_backbones_are_listed() -> None:
    result = musc("backbones")
    assert result.exit_code == 0
    for name in ("clip-vit-b-16", "dinov2-vit-s-14", "clip-vit-l-14-336"):
        assert name in result.output


@pytest.mark.parametrize("arguments", [["--help"], ["score", "--help"], ["demo", "--help"]])
def test_help_teaches(arguments: list[str]) -> None:
    result = musc(*arguments)
    assert result.exit_code == 0
    assert "images" in result.output


def test_sizes_and_bytes() -> None:
    assert options.size("--size", "392") == 392
    assert options.size("--size", "392,784") == (392, 784)
    assert options.byte_count("--memory-limit", "4GB") == 4 * 10**9
    assert options.byte_count("--memory-limit", "1.5 GiB") == 3 * 2**29
    assert options.byte_count("--memory-limit", "1000") == 1000
    with pytest.raises(InputError, match="whole numbers"):
        options.whole_numbers("--degrees", "1.5")
