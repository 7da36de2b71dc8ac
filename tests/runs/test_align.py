"""Runs with files whose images are aligned: score, evaluate's key, watch."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from outlines import moved_boards
from PIL import Image
from tiny import TINY, tiny_weights
from typer.testing import CliRunner
from watched import run

from musc_fast import MuSc, MuscFastWarning, ReferenceBank
from musc_fast.bank.stream import frames_in_bank
from musc_fast.cli.app import app
from musc_fast.datasets.layouts import Category, Sample
from musc_fast.registration import Frame, own_maps
from musc_fast.runs.evaluate import result_key
from musc_fast.runs.watch import WatchSettings
from musc_fast.runs.watch_pictures import pictures_folder


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_weights(tmp_path_factory.mktemp("weights"))


def test_score_records_what_was_aligned(tmp_path: Path, weights: Path) -> None:
    paths = moved_boards(tmp_path / "images", count=6, missing=7)
    out = tmp_path / "out"
    line = ["score", tmp_path / "images", "--out", out, "--backbone", TINY, "--weights", weights]
    with pytest.warns(MuscFastWarning, match="5 of 6 images were moved onto"):
        result = CliRunner().invoke(app, [*map(str, line), "--align", "auto"])
    assert result.exit_code == 0, result.output
    settings = json.loads((out / "run.json").read_text())
    assert settings["align"] == "auto"
    assert settings["align_moved"] == 5
    assert Path(settings["align_frame"]) in paths
    assert any("were moved onto" in note for note in settings["notes"])
    page = (out / "report.html").read_text()
    frame = Path(settings["align_frame"]).name
    assert f"Images moved onto {frame} before they were compared: 5." in page
    maps = [np.load(file) for file in sorted((out / "maps").glob("*.npy"))]
    assert sum(bool((each == 0).any()) for each in maps) == 5
    wrong = CliRunner().invoke(app, [*map(str, line), "--align", "both"])
    told = "align: found 'both', wanted one of off, auto, rigid, similarity"
    assert told in str(wrong.exception)


def test_a_result_depends_on_the_alignment(tmp_path: Path, weights: Path) -> None:
    paths = moved_boards(tmp_path, count=2)
    category = Category("boards", [Sample(path, False, "good", None) for path in paths])
    off = MuSc(TINY, weights=weights)
    others = [MuSc(off.backbone, align=align) for align in ("auto", "rigid", "similarity")]
    assert len({result_key(musc, category, "musc") for musc in (off, *others)}) == 4


def test_a_watch_goes_on_with_its_frame(tmp_path: Path, weights: Path) -> None:
    folder, bank = tmp_path / "images", tmp_path / "bank"
    later = moved_boards(folder, count=7)[5:]
    away = [tmp_path / path.name for path in later]
    for path, elsewhere in zip(later, away, strict=True):
        path.rename(elsewhere)
    musc = MuSc(TINY, weights=weights, align="auto")
    settings = WatchSettings(start=5, threshold=0.0, keep_flagged=True)
    assert len(run(musc, folder, bank, settings)) == 5
    frame = Frame.of_json(ReferenceBank.load(bank).source["frame"])
    for path, elsewhere in zip(later, away, strict=True):
        elsewhere.rename(path)
    assert len(run(musc, folder, bank, settings)) == 2
    assert ReferenceBank.load(bank).source["frame"] == frame.as_json()
    # The pictures show the maps on the images as they were given.
    drawn = sorted(pictures_folder(bank.with_name("scores.csv")).glob("*.png"))
    assert len(drawn) == 7
    frames = frames_in_bank(ReferenceBank.load(bank), musc.extractor, later[1])
    assert (own_maps(torch.ones(1, 160, 160), frames) == 0).any()
    assert Frame.of_json(frame.as_json()).place_of(Image.open(later[1])).outcome == "moved"
