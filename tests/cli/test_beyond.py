"""Options beyond MuSc on the command line: they reach the results, wrong ones end the command."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny import TINY, product_folder, tiny_weights
from typer.testing import CliRunner, Result

from musc_fast.cli.app import app
from musc_fast.errors import MuscFastError


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_weights(tmp_path_factory.mktemp("weights"))


def musc(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_score_ignores_a_mask_and_a_box_and_pools_by_likeness(
    tmp_path: Path, weights: Path
) -> None:
    product_folder(tmp_path / "images")
    mask = Image.new("L", (120, 96))
    mask.paste(255, (0, 0, 36, 96))
    mask.save(tmp_path / "mask.png")
    how = ("--backbone", TINY, "--weights", weights, "--out", tmp_path / "out")
    how += ("--ignore", tmp_path / "mask.png", "--ignore", "0,90,100,10%")
    how += ("--pooling", "snamd-unit", "--temperature", "0.5", "--similarity", "salient")
    result = musc("score", tmp_path / "images", *how)
    assert result.exit_code == 0, result.output
    run = json.loads((tmp_path / "out" / "run.json").read_text())
    assert run["ignore"] == [str(tmp_path / "mask.png"), "0,90,100,10%"]
    assert (run["pooling"], run["temperature"]) == ("snamd-unit", 0.5)
    assert run["similarity"] == "salient"
    found = np.load(tmp_path / "out" / "maps" / "part0.npy")
    assert (found[:, :48] == 0).all()
    assert (found[144:] == 0).all()
    assert (found[:144, 48:] > 0).all()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--ignore", "0,0,120,40"), "wanted a box x,y,w,h% in percent of the picture"),
        (("--ignore", "0,0,100,100%"), "leaves out the whole picture"),
        (("--ignore", "none.png"), "none.png"),
        (("--pooling", "mean"), "pooling: found 'mean', wanted one of lnamd"),
        (("--temperature", "0.5"), "temperature: has no say with pooling lnamd"),
        (("--similarity", "salient", "--rscin"), "have no say with similarity salient"),
    ],
)
@pytest.mark.parametrize("command", ["score", "watch", "evaluate"])
def test_wrong_options_end_every_command(
    tmp_path: Path, weights: Path, command: str, options: tuple[str, ...], told: str
) -> None:
    if command == "watch" and "--rscin" in options:
        pytest.skip("a watch does not smooth scores")
    product_folder(tmp_path / "images", 2, 9)
    where = {
        "score": (tmp_path / "images",),
        "watch": (tmp_path / "images", "--bank", tmp_path / "bank", "--once"),
        "evaluate": ("--root", tmp_path / "images", "--dataset", "folder"),
    }[command]
    how = () if command == "watch" else ("--out", tmp_path / "out")
    result = musc(command, *where, *how, "--backbone", TINY, "--weights", weights, *options)
    assert isinstance(result.exception, MuscFastError), result.output
    assert told in str(result.exception)
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "bank").exists()
