"""A size and tiles that are "auto": decided by the pictures, kept by a bank, told in results."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import TINY, tiny_weights
from typer.testing import CliRunner
from watched import aged, rows, run

from musc_fast import BankError, InputError, MuSc, MuscFastWarning, ReferenceBank, score_batch
from musc_fast.cli.app import app
from musc_fast.datasets.layouts import load_mvtec
from musc_fast.runs.evaluate import evaluate
from musc_fast.runs.score import ScoreJob
from musc_fast.runs.watch import WatchSettings

LONG, SQUARE = (96, 240), (192, 192)  # of pictures; the default input is 160 x 160
LONG_SIZE = (96, 256)  # of the backbone for long ones: 6 x 16 of 100 patches
HOW: dict[str, Any] = {  # torch: OpenVINO would convert a model for every size
    "recipe": "paper",
    "degrees": (1,),
    "use_cls": False,
    "engine": "torch",
    "feature_precision": "fp32",
}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_weights(tmp_path_factory.mktemp("weights"))


@pytest.fixture
def musc(weights: Path) -> MuSc:
    return MuSc(TINY, weights=weights, image_size="auto", **HOW)


def pictures(folder: Path, shape: tuple[int, int], count: int = 5, bad: int = 3) -> list[Path]:
    """Stripes with noise; the one at index `bad` has a bright square."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for k in range(count):
        rng = np.random.default_rng(k)
        stripes = np.broadcast_to(90 + 60 * (np.arange(shape[1]) // 12 % 2), shape)
        values = stripes + rng.normal(0, 3, shape)
        if k == bad:
            values[40:60, 60:80] = 250
        paths.append(folder / f"part{k}.png")
        Image.fromarray(values.clip(0, 255).astype(np.uint8)).save(paths[-1])
    return aged(paths)


def test_auto_is_the_size_it_names(musc: MuSc, weights: Path, tmp_path: Path) -> None:
    paths = pictures(tmp_path, LONG)
    with pytest.warns(MuscFastWarning, match="backbone sees 256 x 96 in place of 160 x 160"):
        found = musc.score(paths)
    assert found.anomaly_maps.shape == (5, *LONG_SIZE)
    plain = MuSc(TINY, weights=weights, image_size=LONG_SIZE, **HOW).score(paths)
    assert torch.equal(found.anomaly_maps, plain.anomaly_maps)
    assert musc.timings["scoring"] > 0
    assert "at auto" in repr(musc)


def test_square_pictures_keep_the_default(musc: MuSc, tmp_path: Path) -> None:
    fitted = musc.fitted(pictures(tmp_path, SQUARE))
    assert fitted.backbone is musc.backbone
    assert fitted.notes == ()
    assert fitted.fitted([tmp_path]) is fitted


def test_a_batch_of_another_shape_is_fitted_anew(musc: MuSc, tmp_path: Path) -> None:
    long, square = pictures(tmp_path / "a", LONG), pictures(tmp_path / "b", SQUARE)
    with pytest.warns(MuscFastWarning):
        first, again = musc.fitted(long), musc.fitted(long)
    assert first.backbone is again.backbone
    assert first.backbone.image_size == LONG_SIZE
    assert musc.fitted(square).backbone.image_size == (160, 160)
    assert first.backbone.fingerprint == musc.backbone.fingerprint


def test_tiles_score_as_their_tokens_do(weights: Path, tmp_path: Path) -> None:
    paths = pictures(tmp_path, (320, 320))
    musc = MuSc(TINY, weights=weights, image_size=96, tiles=(2, 2), tile_margin=1, **HOW)
    found = musc.score(paths)
    features = musc.extract(paths)
    plain = score_batch(
        features.tokens,
        grid=(11, 11),
        prefix_tokens=1,
        image_size=176,
        degrees=(1,),
        tiles=(2, 2),
        tile_margin=1,
    )
    assert torch.equal(found.anomaly_maps, plain.anomaly_maps)
    assert int(found.image_scores.argmax()) == 3
    assert "96 x 96 in 2 x 2 tiles" in repr(musc)
    whole = MuSc(TINY, weights=weights, image_size=96, **HOW)
    with pytest.raises(InputError, match=r"references: found \(96, 96\) in \(1, 1\) tiles"):
        musc.score_features(features, whole.extract(paths))


def test_wrong_combinations_are_named(musc: MuSc, weights: Path) -> None:
    with pytest.raises(InputError, match="image_size: found 'large', wanted two numbers or \"aut"):
        MuSc(TINY, weights=weights, image_size="large")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="tiles: found '2x2', wanted"):
        MuSc(TINY, weights=weights, tiles="2x2")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="tile_margin: has no say without tiles"):
        MuSc(TINY, weights=weights, tile_margin=2)
    with pytest.raises(InputError, match=r"call fitted\(images\).new_bank"):
        musc.new_bank()
    with pytest.raises(InputError, match=r"call fitted\(images\).extract"):
        musc.extract([np.zeros((20, 20), np.uint8)] * 2)


def test_a_stream_takes_the_size_of_its_start_and_of_its_bank(musc: MuSc, tmp_path: Path) -> None:
    paths = pictures(tmp_path, LONG, count=6)
    with pytest.warns(MuscFastWarning, match="256 x 96"):
        found = list(musc.stream(iter(paths), start=3))
    assert {tuple(each.anomaly_map.shape) for each in found} == {LONG_SIZE}
    assert len(found) == 6
    with pytest.warns(MuscFastWarning):
        bank = musc.fitted(paths).new_bank()
    list(musc.stream(paths[:3], bank=bank, start=3))
    later = list(musc.stream(pictures(tmp_path / "b", SQUARE)[:1], bank=bank))
    assert later[0].anomaly_map.shape == LONG_SIZE


def test_evaluate_fits_every_category(musc: MuSc, tmp_path: Path) -> None:
    for name, shape in (("long", LONG), ("square", SQUARE)):
        pictures(tmp_path / "data" / name / "test" / "good", shape, bad=-1)
        pictures(tmp_path / "data" / name / "test" / "spot", shape, count=1, bad=0)
        mask = np.zeros(shape, np.uint8)
        mask[40:60, 60:80] = 255
        folder = tmp_path / "data" / name / "ground_truth" / "spot"
        folder.mkdir(parents=True)
        Image.fromarray(mask).save(folder / "part0_mask.png")
    categories, kept = load_mvtec(tmp_path / "data"), list[str]()
    with pytest.warns(MuscFastWarning, match="256 x 96"):
        results = evaluate(musc, categories, tmp_path / "out")
    assert [result["image_size"] for result in results] == [list(LONG_SIZE), [160, 160]]
    assert [result["metrics"]["image_auroc"] for result in results] == [1.0, 1.0]
    with pytest.warns(MuscFastWarning):
        evaluate(musc, categories, tmp_path / "out", on_kept=kept.append)
    assert kept == ["long", "square"]


def test_a_watch_takes_the_size_of_the_first_images(musc: MuSc, tmp_path: Path) -> None:
    folder, bank = tmp_path / "images", tmp_path / "bank"
    folder.mkdir()
    settings = WatchSettings(start=3)
    assert run(musc, folder, bank, settings, last=False) == []  # nothing there: nothing decided
    pictures(folder, LONG, count=4)
    with pytest.warns(MuscFastWarning, match="256 x 96"):
        assert len(run(musc, folder, bank, settings)) >= 4
    assert ReferenceBank.load(bank).source["size"] == list(LONG_SIZE)
    Image.new("L", SQUARE).save(folder / "square.png")
    assert run(musc, folder, bank, settings)[0] == "square.png"  # at the size of the bank
    assert len({row["path"] for row in rows(tmp_path / "scores.csv")}) == 5


def test_a_watch_without_its_bank_is_fitted_by_the_record(musc: MuSc, tmp_path: Path) -> None:
    folder, bank = tmp_path / "images", tmp_path / "bank"
    pictures(folder, LONG, count=4, bad=-1)
    with pytest.warns(MuscFastWarning):
        run(musc, folder, bank, WatchSettings(start=4))
    before = ReferenceBank.load(bank)
    bank.unlink()
    with pytest.warns(MuscFastWarning, match="256 x 96"):
        assert run(musc, folder, bank, WatchSettings(start=4)) == []
    again = ReferenceBank.load(bank)
    assert again.settings() == before.settings()
    assert again.ids == before.ids


def test_a_bank_of_other_tiles_is_refused(weights: Path, tmp_path: Path) -> None:
    folder, bank = tmp_path / "images", tmp_path / "bank"
    pictures(folder, (192, 192), count=4)
    settings = WatchSettings(start=3)
    cut = MuSc(TINY, weights=weights, image_size=96, tiles=(2, 2), **HOW)
    run(cut, folder, bank, settings)
    assert ReferenceBank.load(bank).source["tiles"] == [2, 2]
    whole = MuSc(TINY, weights=weights, image_size=96, **HOW)
    with pytest.raises(BankError, match=r"tiles: the bank has \[2, 2\], now None"):
        run(whole, folder, bank, settings)
    asking = MuSc(TINY, weights=weights, image_size="auto", tiles="auto", **HOW)
    assert run(asking, folder, bank, settings) == []  # it takes what the bank has


def test_score_tells_what_it_took(weights: Path, tmp_path: Path) -> None:
    pictures(tmp_path / "images", (240, 600))
    words = ["score", tmp_path / "images", "--out", tmp_path / "out", "--backbone", TINY]
    words += [
        "--weights",
        weights,
        "--engine",
        "torch",
        "--no-maps",
    ]
    with pytest.warns(MuscFastWarning, match="the tiles keep the shape"):
        done = CliRunner().invoke(app, [*map(str, words), "--tiles", "2x3", "--tile-margin", "1"])
    assert done.exit_code == 0, done.output
    told = json.loads((tmp_path / "out" / "run.json").read_text())
    assert (told["tiles"], told["tile_margin"]) == ([2, 3], 1)
    assert (told["image_size"], told["map_size"]) == ([128, 192], [240, 544])
    assert "--tiles 2,3 --tile-margin 1" in told["watch"]["command"]
    with pytest.warns(MuscFastWarning, match="backbone sees 256 x 96"):
        done = CliRunner().invoke(app, list(map(str, words)))
    assert done.exit_code == 0, done.output
    told = json.loads((tmp_path / "out" / "run.json").read_text())
    assert told["image_size"] == told["map_size"] == list(LONG_SIZE)
    assert any("256 x 96" in note for note in told["notes"])
    done = CliRunner().invoke(app, [*map(str, words), "--tiles", "two"])
    assert done.exit_code != 0
    assert "--tiles: found 'two', wanted auto or ROWSxCOLUMNS" in str(done.exception)


def test_a_job_in_python_is_fitted(musc: MuSc, tmp_path: Path) -> None:
    job = ScoreJob(pictures(tmp_path / "images", LONG), tmp_path / "out", maps=False)
    with pytest.warns(MuscFastWarning, match="256 x 96"):
        batch = job.run(musc, progress=False)
    assert batch is not None
    assert batch.anomaly_maps.shape == (5, *LONG_SIZE)
