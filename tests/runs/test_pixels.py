"""Metrics of pixels: no truth is lost in silence, and sets without masks have metrics of images."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage
from tiny import TINY, product, tiny_weights
from typer.testing import CliRunner

from musc_fast.cli.app import app
from musc_fast.datasets.layouts import Category, Sample
from musc_fast.report.scored_batch import ScoredBatch
from musc_fast.runs.pixels import measure_pixels
from musc_fast.threshold import find_threshold


def spots(count: int, seed: int, size: int = 2000, side: int = 2) -> np.ndarray:
    """A mask with `count` squares of `side` pixels, apart from each other."""
    rng = np.random.default_rng(seed)
    mask = np.zeros((size, size), bool)
    for k in range(count):
        row, column = rng.integers(5, size // 8 - 5, 2) + np.array(divmod(k, 8)) * (size // 8)
        mask[row : row + side, column : column + side] = True
    return mask


def scored(
    tmp_path: Path, masks: list[np.ndarray], side: int = 500
) -> tuple[Category, ScoredBatch]:
    """One normal image and one a mask, with maps that rise where the masks are."""
    samples = []
    maps = [np.random.default_rng(9).random((side, side)) * 0.1]
    for k, mask in enumerate([None, *masks]):
        image = tmp_path / f"{k}.png"
        size = (40, 40) if mask is None else mask.shape
        Image.new("L", size[::-1], 90).save(image)
        file = tmp_path / f"{k}_mask.png"
        if mask is not None:
            Image.fromarray(mask).save(file)
            near = ndimage.maximum_filter(mask, 9)
            small = Image.fromarray(near.astype(np.float32)).resize((side, side))
            maps.append(np.asarray(small) + maps[0])
        samples.append(Sample(image, mask is not None, "x", None if mask is None else file))
    raw = np.array([each.max() for each in maps], dtype=np.float32)
    batch = ScoredBatch(
        [sample.image for sample in samples],
        raw,
        raw,
        np.stack(maps).astype(np.float32),
        {},
        find_threshold(raw),
    )
    return Category("c", tuple(samples)), batch


def test_tiny_regions_are_counted_by_musc_and_measured_by_mvtec(tmp_path: Path) -> None:
    masks = [spots(20, 1), spots(1, 2), spots(3, 4)]
    category, batch = scored(tmp_path, masks)
    found, notes = measure_pixels(category, batch, "musc")
    lost, blind = 0, 0
    for mask in masks:
        labels, _ = ndimage.label(mask)
        kept = np.unique(labels[2::4, 2::4])  # the pixels that nearest neighbours at 500 take
        lost += len(np.unique(labels)) - len(kept)
        blind += len(kept) == 1
    assert lost >= 10
    assert blind >= 1
    assert len(notes) == 1
    assert notes[0].startswith(f"{lost} of 24 defective regions vanish as masks are shrunk to")
    assert f"leave {blind} defective images without truth" in notes[0]
    full, notes = measure_pixels(category, batch, "mvtec")
    assert notes == []
    assert full.auroc > 0.99
    assert full.pro > 0.9
    assert full.ap != found.ap


def test_no_region_is_lost_where_masks_have_the_size_of_maps(tmp_path: Path) -> None:
    category, batch = scored(tmp_path, [spots(5, 1, size=500)])
    found, notes = measure_pixels(category, batch, "musc")
    assert notes == []
    same, _ = measure_pixels(category, batch, "mvtec")
    assert found.ap == pytest.approx(same.ap, abs=1e-3)  # the normal image counts 40 x 40 pixels


def test_empty_and_inverted_masks_are_named(tmp_path: Path) -> None:
    masks = [np.zeros((90, 90), bool), ~spots(3, 1, 90, 5), spots(3, 2, 90, 5)]
    category, batch = scored(tmp_path, masks, side=90)
    for protocol in ("musc", "mvtec"):
        _, notes = measure_pixels(category, batch, protocol)  # type: ignore[arg-type]
        assert notes == [
            f"{tmp_path / '1.png'}: its mask is empty, though it counts as defective",
            f"{tmp_path / '2.png'}: most of its mask is defective: it may be inverted",
        ]


def test_without_masks_there_are_metrics_of_images(tmp_path: Path) -> None:
    for label, seeds in (("good", range(5)), ("bad", range(5, 7))):
        folder = tmp_path / "data" / "test" / label
        folder.mkdir(parents=True)
        for seed in seeds:
            Image.fromarray(product(seed, max(0, seed - 4))).save(folder / f"{seed}.png")
    weights = tiny_weights(tmp_path)
    line = ["evaluate", "--root", tmp_path / "data", "--out", tmp_path / "out"]
    line += ["--backbone", TINY, "--weights", weights]
    result = CliRunner().invoke(app, [str(word) for word in line])
    assert result.exit_code == 0, result.output
    assert "1.0000" in result.output
    assert "–" in result.output
    assert "no masks are known" in " ".join(result.output.split())
    stored = json.loads((tmp_path / "out" / "categories" / "data.json").read_text())
    metrics = stored["metrics"]
    assert metrics["image_auroc"] == 1.0
    assert {metrics[name] for name in metrics if name.startswith("pixel")} == {None}
    assert "ROC" in (tmp_path / "out" / "reports" / "data.html").read_text()
    shutil.rmtree(tmp_path / "out")


def test_no_masks_in_python(tmp_path: Path) -> None:
    category, batch = scored(tmp_path, [spots(3, 1, 90, 5)], side=90)
    bare = Category("c", tuple(Sample(s.image, s.label, s.defect, None) for s in category.samples))
    found, notes = measure_pixels(bare, batch, "musc")
    assert all(map(math.isnan, (found.auroc, found.f1_max, found.ap, found.pro)))
    assert found.reason is not None
    assert notes == []
