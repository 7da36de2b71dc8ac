"""evaluate: metrics of a scored dataset, resumption by category."""

from __future__ import annotations

import csv
import html
import json
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import SafetensorError
from tiny import DEFECTS, TINY, Counting, product, product_folder, tiny_weights
from typer.testing import CliRunner

from musc_fast import InputError, MuSc
from musc_fast.backends import BACKENDS, ENVIRONMENT_VARIABLE, resolve
from musc_fast.cli.app import app
from musc_fast.datasets.layouts import Category, load_folder, load_mvtec
from musc_fast.features import cache
from musc_fast.metrics import auroc_interval
from musc_fast.runs.evaluate import METRICS, evaluate, mean_metrics, result_key


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_weights(tmp_path_factory.mktemp("weights"))


@pytest.fixture
def musc(weights: Path) -> MuSc:
    return MuSc(TINY, weights=weights)


def dataset(root: Path, names: tuple[str, ...] = ("bolt", "nut")) -> Path:
    """MVTec layout: 5 good and 2 defective images a category."""
    for shift, name in enumerate(names):
        for label, seeds in (("good", range(5)), ("spot", range(5, 7))):
            folder = root / name / "test" / label
            folder.mkdir(parents=True)
            for seed in seeds:
                image = Image.fromarray(product(10 * shift + seed, max(0, seed - 4)))
                image.save(folder / f"{seed:03}.png")
        masks = root / name / "ground_truth" / "spot"
        masks.mkdir(parents=True)
        for seed in range(5, 7):
            mask = np.zeros((96, 120), dtype=np.uint8)
            top, left, _ = DEFECTS[seed - 4]
            mask[top : top + 24, left : left + 24] = 255
            Image.fromarray(mask).save(masks / f"{seed:03}_mask.png")
    return root


def test_metrics_tables_and_mean(musc: MuSc, tmp_path: Path) -> None:
    categories = load_mvtec(dataset(tmp_path / "data"))
    results = evaluate(musc, categories, tmp_path / "out")
    assert [result["category"] for result in results] == ["bolt", "nut"]
    for result in results:
        assert (result["images"], result["defective"]) == (7, 2)
        assert result["raw_image_metrics"]["auroc"] == 1.0
        image = result["metrics"]["image_auroc"]
        assert result["image_auroc_interval"] == list(auroc_interval(image, 2, 5))
        assert result["metrics"]["pixel_auroc"] > 0.95
        assert set(result["seconds"]) == {"features", "scoring", "metrics", "report"}
        page = (tmp_path / "out" / "reports" / f"{result['category']}.html").read_text()
        for name in ("image AUROC", "image F1-max", "image AP", "pixel AUROC", "pixel PRO"):
            assert page.count(f"<span>{name}</span>") == 1  # a tile each, none twice
    stored = json.loads((tmp_path / "out" / "results.json").read_text())
    assert stored["finished"] == stored["of"] == 2
    assert stored["mean"] == mean_metrics(results)
    with (tmp_path / "out" / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["category"] for row in rows] == ["bolt", "nut", "mean"]
    for name in METRICS:
        mean = np.mean([result["metrics"][name] for result in results])
        assert float(rows[2][name]) == pytest.approx(mean, abs=1e-6)


def test_finished_categories_are_kept(
    musc: MuSc, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    categories = load_mvtec(dataset(tmp_path / "data"))
    out = tmp_path / "out"
    counting = Counting(musc, monkeypatch)

    def interrupt(stage: str, done: int, total: int) -> None:
        if stage.startswith("nut: scoring"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(musc, categories, out, progress=interrupt)
    assert counting.images == 14
    assert json.loads((out / "results.json").read_text())["finished"] == 1
    first = evaluate(musc, categories, out)
    assert counting.images == 21  # bolt was not redone
    again = evaluate(musc, categories, out)
    assert counting.images == 21
    assert again == first
    evaluate(musc, categories, out, force=True)
    assert counting.images == 35


def test_a_change_of_settings_or_files_redoes(
    musc: MuSc, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    categories = load_mvtec(dataset(tmp_path / "data", ("bolt",)))
    counting = Counting(musc, monkeypatch)
    evaluate(musc, categories, tmp_path / "out")
    musc = MuSc(musc.backbone, degrees=(1, 3))
    evaluate(musc, categories, tmp_path / "out")
    assert counting.images == 14
    Image.fromarray(product(99)).save(categories[0].samples[0].image)
    evaluate(musc, categories, tmp_path / "out")
    assert counting.images == 21
    evaluate(musc, categories, tmp_path / "out", protocol="mvtec")
    assert counting.images == 28


def test_a_lost_report_redoes(musc: MuSc, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    categories = load_mvtec(dataset(tmp_path / "data"))
    out = tmp_path / "out"
    evaluate(musc, categories, out)
    counting = Counting(musc, monkeypatch)
    (out / "reports" / "nut.html").unlink()
    evaluate(musc, categories, out)
    assert counting.images == 7
    assert (out / "reports" / "nut.html").is_file()


@pytest.mark.parametrize("damage", [b"[]", b"null", b"{", b"\xff\xfe\x00", b""])
def test_a_damaged_result_redoes(
    musc: MuSc, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: bytes
) -> None:
    categories = load_mvtec(dataset(tmp_path / "data", ("bolt",)))
    file = tmp_path / "out" / "categories" / "bolt.json"
    file.parent.mkdir(parents=True)
    (tmp_path / "out" / "reports").mkdir()
    (tmp_path / "out" / "reports" / "bolt.html").touch()
    file.write_bytes(damage)
    counting = Counting(musc, monkeypatch)
    evaluate(musc, categories, tmp_path / "out")
    assert counting.images == 7
    assert json.loads(file.read_text())["category"] == "bolt"


def test_the_tables_keep_categories_of_earlier_calls(musc: MuSc, tmp_path: Path) -> None:
    categories = load_mvtec(dataset(tmp_path / "data"))
    out = tmp_path / "out"
    bolt = evaluate(musc, categories[:1], out)
    (out / "categories" / "rubbish.json").write_text('{"metrics": [1]}')
    nut = evaluate(musc, categories[1:], out)
    assert [result["category"] for result in nut] == ["nut"]
    stored = json.loads((out / "results.json").read_text())
    assert [result["category"] for result in stored["categories"]] == ["nut", "bolt"]
    assert stored["finished"] == stored["of"] == 2
    assert stored["mean"] == mean_metrics([*nut, *bolt])
    with (out / "results.csv").open(newline="") as file:
        assert [row["category"] for row in csv.DictReader(file)] == ["nut", "bolt", "mean"]


def test_the_result_key_has_the_device_and_the_backend(
    musc: MuSc, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (category,) = load_mvtec(dataset(tmp_path / "data", ("bolt",)))
    chosen = resolve("auto", "cpu").name
    usable = [b.name for b in BACKENDS if b.why_not(torch.device("cpu")) is None]
    keys = {}
    for name in usable:
        monkeypatch.setenv(ENVIRONMENT_VARIABLE, name)
        keys[name] = result_key(musc, category, "musc")
    assert len(set(keys.values())) == len(usable) > 1
    monkeypatch.delenv(ENVIRONMENT_VARIABLE)
    assert result_key(musc, category, "musc") == keys[chosen]
    monkeypatch.setattr("musc_fast.runs.evaluate.chosen_backend", lambda musc: chosen)
    monkeypatch.setattr(musc.backbone, "device", torch.device("cuda"))
    assert result_key(musc, category, "musc") not in keys.values()


def test_only_good_images_give_dashes_with_a_reason(weights: Path, tmp_path: Path) -> None:
    root = dataset(tmp_path / "data", ("bolt",))
    for path in [*(root / "bolt" / "test" / "spot").iterdir()]:
        path.unlink()
    line = ["evaluate", "--root", root, "--out", tmp_path / "out", "--cache", tmp_path / "cache"]
    line += ["--backbone", TINY, "--weights", weights]
    result = CliRunner().invoke(app, [str(word) for word in line])
    assert result.exit_code == 0, result.output
    assert "–" in result.output
    stored = json.loads((tmp_path / "out" / "categories" / "bolt.json").read_text())
    assert stored["metrics"]["image_auroc"] is None
    assert stored["notes"]


def test_unlabelled_images_have_no_metrics(musc: MuSc, tmp_path: Path) -> None:
    product_folder(tmp_path / "images")
    categories: list[Category] = load_folder(tmp_path / "images")
    result = evaluate(musc, categories, tmp_path / "out")[0]
    assert set(result["metrics"].values()) == {None}
    assert "no labels" in result["notes"][0]


@pytest.mark.parametrize("name", ["../outside", "/elsewhere/x", ".", "", "a/b", "a\\b", "a\x1b"])
def test_a_category_cannot_write_outside_its_folder(musc: MuSc, tmp_path: Path, name: str) -> None:
    [category] = load_folder(product_folder(tmp_path / "images")[0].parent)
    with pytest.raises(InputError, match="cannot be the name of a file"):
        evaluate(musc, [Category(name, category.samples)], tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images"]


def test_without_room_for_the_cache_the_evaluation_goes_on(
    musc: MuSc, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(cache, "save_file", full)
    [category] = load_folder(product_folder(tmp_path / "images")[0].parent)
    with pytest.warns(UserWarning, match=r"not cached: .*/cache: the disk has no room"):
        [result] = evaluate(musc, [category], tmp_path / "out", cache=tmp_path / "cache")
    assert result["images"] == 6
    assert not list((tmp_path / "cache").iterdir())


def test_a_finished_evaluation_returns_without_torch(
    weights: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    root, out = dataset(tmp_path / "data"), tmp_path / "out"
    line = ["evaluate", "--root", str(root), "--out", str(out), "--backbone", TINY]
    line += ["--weights", str(weights)]
    first = CliRunner().invoke(app, line)
    assert first.exit_code == 0, first.output
    assert "kept" not in first.output
    code = (
        "import sys; from musc_fast.cli import main\n"
        "try: main()\n"
        "except SystemExit as end: assert not end.code\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, *line], check=True)
    again = capfd.readouterr().out
    assert "kept: bolt, nut, finished earlier" in again
    assert again.splitlines()[2:] == first.stdout.splitlines()[1:]  # the same table and place
    (out / "reports" / "nut.html").unlink()
    third = CliRunner().invoke(app, line)
    assert "kept: bolt, finished" in third.output
    Image.fromarray(product(99)).save(next((root / "nut" / "test" / "good").iterdir()))
    assert "kept: bolt, finished" in CliRunner().invoke(app, line).output
    assert "kept" not in CliRunner().invoke(app, [*line, "--force"]).output


def test_the_overview_leads_to_every_report(musc: MuSc, tmp_path: Path) -> None:
    out = tmp_path / "out"
    results = evaluate(musc, load_mvtec(dataset(tmp_path / "data", ("a & b", "nut"))), out)
    page = (out / "report.html").read_text(encoding="utf-8")
    links = re.findall(r'href="(reports/[^"]+)">([^<]+)<', page)
    assert [html.unescape(name) for _, name in links] == ["a & b", "nut"]
    assert all((out / unquote(link)).is_file() for link, _ in links)
    for result in results:
        assert f"{result['metrics']['pixel_ap']:.4f}" in page
    assert page.count("<tfoot>") == 1
    assert "://" not in page
