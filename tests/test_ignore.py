"""What is left out of every picture: not scored, no reference, hatched, in no pixel metric."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import TINY, product, product_folder, tiny_weights

from musc_fast import BankError, ImageError, InputError, MuSc, ReferenceBank
from musc_fast.bank.stream import source_of
from musc_fast.datasets.layouts import Category, Sample
from musc_fast.errors import MuscFastWarning
from musc_fast.features.cache import feature_key
from musc_fast.runs.evaluate import evaluate_category, result_key
from musc_fast.runs.score import ScoreJob
from musc_fast.runs.watch import WatchSettings, watching
from musc_fast.runs.watch_record import read_record

DEFECT = "40,20,40,50%"  # whole patches that hold the defect of `product`


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_weights(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def musc(weights: Path) -> MuSc:
    return MuSc(TINY, weights=weights, ignore=DEFECT)


def hatched(file: Path) -> np.ndarray:
    """Where a picture has the greys of the hatch, [h, w]."""
    picture = np.asarray(Image.open(file).convert("RGB")).astype(int)
    return (np.ptp(picture, axis=2) == 0) & np.isin(picture[:, :, 0], (90, 190))


def test_a_defect_in_an_ignored_place_is_not_seen(
    musc: MuSc, weights: Path, tmp_path: Path
) -> None:
    paths = product_folder(tmp_path, count=7, defective=5)
    plain = MuSc(TINY, weights=weights).score(paths)
    found = musc.score(paths)
    assert int(plain.raw_image_scores.argmax()) == 5
    ignored = musc.extractor.ignored
    assert ignored is not None
    counts = torch.from_numpy(ignored.patches(musc.backbone.grid))
    assert 0 < int(counts.sum()) < counts.numel()
    assert bool((found.patch_scores[:, ~counts] == 0).all())
    assert bool((found.patch_scores[:, counts] > 0).all())
    lead = plain.raw_image_scores[5] / plain.raw_image_scores[:5].max()
    assert float(found.raw_image_scores[5] / found.raw_image_scores[:5].max()) < float(lead)


def test_a_scoring_job_hatches_and_records_it(musc: MuSc, tmp_path: Path) -> None:
    product_folder(tmp_path / "images")
    batch = ScoreJob([tmp_path / "images"], tmp_path / "out").run(musc, progress=False)
    assert batch is not None
    settings = json.loads((tmp_path / "out" / "run.json").read_text())
    assert settings["ignore"] == [DEFECT]
    assert settings["map_scale"]["low"] > 0  # what is not scored has no say in the colours
    shown = hatched(tmp_path / "out" / "maps" / "part0.png")
    where = np.asarray(musc.extractor.ignored.pixels(shown.shape))  # type: ignore[union-attr]
    assert shown[where].all()
    assert shown.mean() < where.mean() + 0.1
    assert hatched(tmp_path / "out" / "overlays" / "part0.png").mean() > 0.03
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert page.count('class="ignored"') >= 6
    assert 'id="hatch"' in page
    assert "was left out" in page
    if batch.settings["watch"]:
        assert f"--ignore {DEFECT}" in batch.settings["watch"]["command"]


def test_a_report_without_ignored_regions_says_nothing_of_them(
    weights: Path, tmp_path: Path
) -> None:
    product_folder(tmp_path / "images")
    ScoreJob([tmp_path / "images"], tmp_path / "out").run(
        MuSc(TINY, weights=weights), progress=False
    )
    assert "ignore" not in json.loads((tmp_path / "out" / "run.json").read_text())
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert 'class="ignored"' not in page
    assert "hatched" not in page


def test_no_pixel_metric_counts_what_is_left_out(musc: MuSc, weights: Path, tmp_path: Path) -> None:
    paths = product_folder(tmp_path / "images", 5, 3)
    mask = np.zeros((96, 120), dtype=np.uint8)
    mask[30:54, 60:84] = 255  # within what is ignored
    mask[80:90, 4:14] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    samples = [
        Sample(path, k == 3, "", tmp_path / "mask.png" if k == 3 else None)
        for k, path in enumerate(paths)
    ]
    category = Category("part", tuple(samples))
    plain = MuSc(TINY, weights=weights)
    found = evaluate_category(musc, category)
    mask[30:54, 60:84] = 0
    Image.fromarray(mask).save(tmp_path / "mask.png")
    again = evaluate_category(musc, category)
    assert found["metrics"] == again["metrics"]
    assert found["metrics"]["pixel_auroc"] is not None
    mask[:] = 0
    mask[30:54, 60:84] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    unseen = evaluate_category(musc, category)
    assert unseen["metrics"]["pixel_auroc"] is None
    assert any("its whole defect is left out" in note for note in unseen["notes"])
    assert result_key(musc, category, "musc") != result_key(plain, category, "musc")
    assert feature_key(musc.extractor, paths) != feature_key(plain.extractor, paths)


def test_a_watch_keeps_it_with_the_bank(musc: MuSc, weights: Path, tmp_path: Path) -> None:
    folder, bank = tmp_path / "images", tmp_path / "bank"
    product_folder(folder, count=5, defective=9)
    settings = WatchSettings(start=4)
    with watching(musc, folder, bank, tmp_path / "scores.csv", settings) as watched:
        rows = list(watched.score(watched.look(settled=True)))
        assert len(rows) == 5
        valid = watched.bank.valid()
    assert valid is not None
    assert not bool(valid.all())
    stored = ReferenceBank.load(bank, source=source_of(musc.extractor, musc.settings))
    assert torch.equal(stored.valid(), valid)
    plain = MuSc(TINY, weights=weights)
    with (
        pytest.raises(BankError, match=r"ignore: the bank has '.*', now None"),
        watching(plain, folder, bank, tmp_path / "scores.csv", settings),
    ):
        pass
    # A defect in the ignored place is like any good image; the picture of a flagged one is hatched.
    Image.fromarray(product(7, 1)).save(folder / "later.png")
    low = WatchSettings(start=4, threshold=1e-6, keep_flagged=True)
    with watching(musc, folder, bank, tmp_path / "scores.csv", low) as watched:
        [row] = watched.score(watched.look(settled=True))
    assert row.flagged == "1"
    [picture] = (tmp_path / "scores_flagged").glob("*later.png")
    assert hatched(picture).mean() > 0.03
    assert len(read_record(tmp_path / "scores.csv")) == 6


def test_a_stream_ignores_too(musc: MuSc, tmp_path: Path) -> None:
    scores = list(musc.stream(product_folder(tmp_path, count=4, defective=9), start=3))
    assert all(float(each.anomaly_map.min()) == 0 for each in scores)


def test_wrong_regions_are_told_before_a_model_is_loaded(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"ignore: .*leaves out the whole picture"):
        MuSc(TINY, ignore="0,0,100,100%", weights=tmp_path / "none")
    with pytest.raises(ImageError, match=r"none\.png"):
        MuSc(TINY, ignore=tmp_path / "none.png", weights=tmp_path / "none")


def test_places_and_ignored_regions_are_told_before_a_model_is_loaded(
    weights: Path, tmp_path: Path
) -> None:
    """A search near the own place cannot leave patches out; a bank might meet such images late."""
    refused = "place: with ignored areas or aligned pictures"
    with pytest.raises(InputError, match=refused):
        MuSc(TINY, ignore=DEFECT, place=1, weights=tmp_path / "none")
    with pytest.raises(InputError, match=refused):
        MuSc(TINY, align="rigid", place=1, weights=weights).new_bank()
    musc = MuSc(TINY, ignore=DEFECT, place="auto", weights=weights)
    with pytest.warns(MuscFastWarning, match="place auto: compared with whole images, for ignored"):
        assert musc.score(product_folder(tmp_path)).place is None


def test_a_mask_of_other_proportions_names_the_picture(weights: Path, tmp_path: Path) -> None:
    paths = product_folder(tmp_path)
    Image.new("L", (96, 96)).save(tmp_path / "mask.png")
    mask = np.zeros((96, 96), dtype=np.bool_)
    mask[:20, :20] = True
    musc = MuSc(TINY, weights=weights, ignore=mask)
    with pytest.raises(ImageError, match=r"part0\.png: the picture is 120 x 96, the mask"):
        musc.score(paths)
