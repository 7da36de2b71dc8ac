"""The threshold for a watch that a batch of the same settings tells."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import numpy as np
import pytest
from tiny import TINY, product_folder, tiny_weights
from typer.testing import CliRunner
from watched import aged, rows

from musc_fast.cli.app import app
from musc_fast.runs.watch_threshold import watch_command, watch_settings, watch_threshold
from musc_fast.settings import ReadSettings

SETTINGS = {
    "max_references": None,
    "backbone": "b",
    "image_size": [96, 96],
    "recipe": "paper",
    "degrees": [1, 3],
    "topmin": (0.0, 0.3),
    "pooling": "snamd-unit",
    "temperature": 0.5,
    "copies": "auto",
    "repeats": "off",
    "precision": "exact",
    "chosen_place": 2,
    "feature_precision": "fp32",
    "white": None,
    "max_pixels": ReadSettings.max_pixels,
    "align": "off",
    "ignore": ["my mask.png", "0,0,30,7%"],
}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_weights(tmp_path_factory.mktemp("weights"))


def test_the_printed_command_flags_new_defects(weights: Path, tmp_path: Path) -> None:
    """`score` of a batch with one defect, then its command on other images."""
    product_folder(tmp_path / "batch", count=20, defective=4)
    aged(product_folder(tmp_path / "new", count=8, defective=6))
    out = tmp_path / "out"
    given = ["--backbone", TINY, "--size", "96", "--topmin", "0,0.4"]
    line = ["score", str(tmp_path / "batch"), "--out", str(out), "--no-maps", *given]
    result = CliRunner().invoke(app, [*line, "--weights", str(weights)])
    assert result.exit_code == 0, result.output
    told = json.loads((out / "run.json").read_text())["watch"]
    assert told["command"] in result.output
    words = shlex.split(told["command"])
    assert words[:5] == ["musc-fast", "watch", "FOLDER", "--bank", "FILE"]
    words = [str(tmp_path / "new") if word == "FOLDER" else word for word in words[1:]]
    words = [str(tmp_path / "bank") if word == "FILE" else word for word in words]
    assert words[words.index("--weights") + 1] == str(weights)
    words += ["--once", "--interval", "0.1", "--start", "4"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    found = rows(tmp_path / "scores.csv")
    assert [Path(row["path"]).name for row in found if row["flagged"] == "1"] == ["part6.png"]
    assert float(found[0]["threshold"]) == pytest.approx(told["threshold"], rel=1e-5)


def test_references_tell_the_threshold(weights: Path, tmp_path: Path) -> None:
    """It is a level of the references' own scores: an image that is flagged lies above it."""
    product_folder(tmp_path / "good", count=20)
    product_folder(tmp_path / "new", count=3, defective=1)
    out = tmp_path / "out"
    line = ["score", str(tmp_path / "new"), "--references", str(tmp_path / "good"), "--out"]
    line += [str(out), "--no-maps", "--backbone", TINY, "--size", "96", "--weights", str(weights)]
    result = CliRunner().invoke(app, line)
    assert result.exit_code == 0, result.output
    told = json.loads((out / "run.json").read_text())["watch"]
    assert told["command"] in result.output
    words = shlex.split(told["command"])
    assert words[words.index("--references") + 1] == str(tmp_path / "good")
    assert words[words.index("--weights") + 1] == str(weights)
    scores = {Path(row["path"]).name: float(row["raw_score"]) for row in rows(out / "scores.csv")}
    assert scores["part1.png"] > told["threshold"] > max(scores["part0.png"], scores["part2.png"])


def test_defects_of_the_batch_do_not_raise_the_threshold() -> None:
    good = np.random.default_rng(0).normal(0.45, 0.03, 30)
    alone = watch_threshold(good)
    among = watch_threshold(np.append(good, [0.9, 0.97]))
    assert alone is not None
    assert among is not None
    assert good.max() < alone < 0.6
    assert good.max() < among < 0.6
    assert watch_threshold(good[:3]) is None


def test_a_run_that_cannot_tell_leaves_the_decision_to_the_bank(
    weights: Path, tmp_path: Path
) -> None:
    """Nothing is flagged, so defects may be among the scores that a threshold would be of."""
    product_folder(tmp_path / "batch", count=6, defective=-1)
    out = tmp_path / "out"
    line = ["score", str(tmp_path / "batch"), "--out", str(out), "--no-maps", "--backbone", TINY]
    result = CliRunner().invoke(app, [*line, "--size", "96", "--weights", str(weights)])
    assert result.exit_code == 0, result.output
    assert json.loads((out / "results.json").read_text())["flagged"] == 0
    told = json.loads((out / "run.json").read_text())["watch"]
    assert told["threshold"] is None
    assert told["command"] in result.output
    assert "--threshold" not in told["command"]


def test_the_threshold_of_a_watch_is_not_above_what_the_run_flagged() -> None:
    good = np.random.default_rng(0).normal(0.45, 0.03, 30)
    usual = watch_settings(SETTINGS, good, flagged=[0.7, 0.9])
    assert usual is not None
    assert usual["threshold"] == watch_threshold(good) < 0.6
    assert "--threshold" in usual["command"]
    other = watch_settings(SETTINGS, good, flagged=[0.47, 0.9])
    assert other is not None
    assert other["threshold"] is None
    assert "--threshold" not in other["command"]


@pytest.mark.parametrize("count", [0, 1, 3])
def test_few_scores_leave_the_decision_to_the_bank(count: int) -> None:
    """None where every image was flagged."""
    told = watch_settings(SETTINGS, np.linspace(0.4, 0.5, count), flagged=[0.9])
    assert told is not None
    assert told["threshold"] is None
    assert "--threshold" not in told["command"]


def test_a_stated_rate_goes_into_the_command_where_the_bank_decides() -> None:
    good = np.random.default_rng(0).normal(0.45, 0.03, 30)
    told = watch_settings(SETTINGS, good, flagged=[0.46], false_alarms=0.05)
    assert told is not None
    words = shlex.split(told["command"])
    assert words[words.index("--false-alarms") + 1] == "0.05"
    told = watch_settings(SETTINGS, good, flagged=[0.9], false_alarms=0.05)
    assert told is not None
    assert "--false-alarms" not in told["command"]  # the threshold is of that rate


def test_no_watch_compares_with_drawn_references() -> None:
    assert watch_command({"max_references": 20}, 0.5) is None


def test_what_a_batch_ignores_and_how_it_pools_goes_into_the_command() -> None:
    command = watch_command(SETTINGS, 0.5)
    assert command is not None
    words = shlex.split(command)
    assert [words[k + 1] for k, word in enumerate(words) if word == "--ignore"] == [
        "my mask.png",
        "0,0,30,7%",
    ]
    assert words[words.index("--pooling") + 1] == "snamd-unit"
    assert words[words.index("--temperature") + 1] == "0.5"
    assert words[words.index("--place") + 1] == "2"
    assert watch_command({**SETTINGS, "ignore": ["an array"]}, 0.5) is None
