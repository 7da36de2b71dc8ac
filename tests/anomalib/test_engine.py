"""MuSc in anomalib's own Engine, on a tiny backbone; skipped where anomalib is not installed."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("anomalib", reason="anomalib is not installed: pip install '.[anomalib]'")

from anomalib import LearningType
from anomalib.data import ImageBatch
from anomalib.metrics import AUPR, AUROC, Evaluator
from engine_data import engine_in, folder_of, parts, tiny_model

from musc_fast import MuSc as Own
from musc_fast.anomalib import MuSc, MuScPostProcessor
from musc_fast.datasets.masks import read_mask
from musc_fast.metrics import image_metrics, pixel_metrics

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return parts(tmp_path_factory.mktemp("parts"))


def metrics() -> Evaluator:
    image, pixel = ["pred_score", "gt_label"], ["anomaly_map", "gt_mask"]
    return Evaluator(
        test_metrics=[
            AUROC(fields=image, prefix="image_"),
            AUPR(fields=pixel, prefix="pixel_"),
        ]
    )


def own_figures(root: Path, model: Any, references: list[Path] | None) -> tuple[float, float]:
    """Image AUROC and pixel AP of musc_fast itself on the same images."""
    own: Own = model.model.scorer.musc
    good, bad = (sorted((root / kind).glob("*.png")) for kind in ("good", "bad"))
    scores = own.score([*good, *bad], references=references)
    labels = np.array([False] * len(good) + [True] * len(bad))
    size = own.backbone.image_size
    masks = [np.zeros(size, np.bool_) for _ in good]
    masks += [read_mask(root / "masks" / path.name, size) for path in bad]
    return (
        image_metrics(labels, scores.image_scores.numpy()).auroc,
        pixel_metrics(masks, scores.anomaly_maps.numpy(), pro=False).ap,
    )


@pytest.mark.parametrize("zero_shot", [False, True])
def test_figures_by_anomalib_are_those_of_musc_fast(
    root: Path, tmp_path: Path, zero_shot: bool
) -> None:
    model = tiny_model(root, zero_shot=zero_shot, evaluator=metrics())
    engine = engine_in(tmp_path)
    engine.fit(model, datamodule=folder_of(root))
    (found,) = engine.test(model, datamodule=folder_of(root), verbose=False)
    references = None if zero_shot else sorted((root / "train").glob("*.png"))
    auroc, ap = own_figures(root, model, references)
    assert found["image_AUROC"] == pytest.approx(auroc, abs=1e-6)
    assert found["pixel_AUPR"] == pytest.approx(ap, abs=1e-5)
    pictures = [path.name for path in tmp_path.rglob("*.png")]
    assert sorted(pictures) == sorted(p.name for k in ("good", "bad") for p in (root / k).iterdir())
    wanted = LearningType.ZERO_SHOT if zero_shot else LearningType.ONE_CLASS
    assert model.learning_type is wanted


def test_a_checkpoint_brings_the_bank_and_the_threshold_back(root: Path, tmp_path: Path) -> None:
    model = tiny_model(root, image_size=(96, 128))
    engine = engine_in(tmp_path)
    engine.fit(model, datamodule=folder_of(root))
    wanted = engine.predict(model, data_path=root / "bad")
    (checkpoint,) = tmp_path.rglob("*.ckpt")
    again = MuSc.load_from_checkpoint(checkpoint)
    assert again.model.scorer.musc.backbone.image_size == (96, 128)
    found = engine_in(tmp_path / "again").predict(again, data_path=root / "bad")
    fresh = tiny_model(root, image_size=(96, 128))
    by_path = engine_in(tmp_path / "path").predict(
        fresh, data_path=root / "bad", ckpt_path=checkpoint
    )
    for one, two, three in zip(wanted, found, by_path, strict=True):
        for other in (two, three):
            assert torch.equal(one.pred_score, other.pred_score)
            assert torch.equal(one.anomaly_map, other.anomaly_map)
            assert torch.equal(one.pred_label, other.pred_label)
    # What an exported torch model is: a pickle, and its forward pass on an image of any size.
    twin = copy.deepcopy(model)
    image = torch.rand(1, 3, 96, 120)
    assert torch.equal(twin(image).anomaly_map, model(image).anomaly_map)


def test_a_defect_at_the_threshold_of_labelled_images_is_flagged(
    root: Path, tmp_path: Path
) -> None:
    model = tiny_model(root, threshold="f1")
    engine = engine_in(tmp_path)
    engine.fit(model, datamodule=folder_of(root))
    batches = engine.predict(model, datamodule=folder_of(root))
    labels = {
        Path(p).name: bool(label)
        for b in batches
        for p, label in zip(b.image_path, b.pred_label, strict=True)
    }
    assert {name for name, label in labels.items() if label} == {f"bad{k}.png" for k in range(3)}
    scores = torch.cat([batch.pred_score for batch in batches])
    assert scores[scores >= 0.5].min() == 0.5  # the weakest defect is the threshold
    assert len(scores.unique()) == len(scores)
    assert 0 <= scores.min() <= scores.max() < 1


def test_zero_shot_labels_are_those_of_the_batch(root: Path, tmp_path: Path) -> None:
    model = tiny_model(root, zero_shot=True, threshold=0.3)
    batches = engine_in(tmp_path).predict(model, data_path=root)
    paths = [path for batch in batches for path in batch.image_path]
    own: Own = model.model.scorer.musc
    scores = own.score(paths, threshold=0.3)
    assert len(paths) == len(scores.names) > 10
    labels = [bool(label) for batch in batches for label in batch.pred_label]
    assert labels == [verdict == "flagged" for verdict in scores.verdicts]
    assert any(labels)
    assert not all(labels)


def test_smoothed_scores_are_shown_as_they_are(root: Path, tmp_path: Path) -> None:
    model = tiny_model(root, zero_shot=True, recipe="paper")
    batches = engine_in(tmp_path).predict(model, data_path=root / "bad")
    paths = [path for batch in batches for path in batch.image_path]
    wanted = model.model.scorer.musc.score(paths)
    assert not torch.equal(wanted.image_scores, wanted.raw_image_scores)
    found = torch.cat([batch.pred_score for batch in batches])
    assert torch.allclose(found, wanted.image_scores, atol=1e-4)


def test_good_validation_images_alone_flag_none_of_themselves() -> None:
    post = MuScPostProcessor("f1")
    batch = ImageBatch(
        image=torch.rand(2, 3, 8, 8),
        pred_score=torch.tensor([0.2, 0.4]),
        gt_label=torch.tensor([0, 0]),
    )
    post.on_validation_batch_end(None, None, batch)
    post.on_validation_epoch_end(None, None)
    post.post_process_batch(batch)
    assert batch.pred_label.tolist() == [False, False]
    assert post.image_threshold > 0.4


def test_raw_scores_that_metrics_misread_are_said_once(caplog: pytest.LogCaptureFixture) -> None:
    def test(processor: MuScPostProcessor, *scores: float) -> list[str]:
        caplog.clear()
        for score in scores:
            batch = ImageBatch(
                image=torch.zeros(2, 3, 8, 8),
                pred_score=torch.tensor([0.3, score]),
                anomaly_map=torch.full((2, 8, 8), 0.2),
            )
            processor.on_test_batch_end(None, None, batch)
        return [record.getMessage() for record in caplog.records]

    (message,) = test(MuScPostProcessor(0.5, enable_normalization=False), 0.9, 1.2, 1.3)
    assert "logits" in message
    assert "enable_normalization" in message
    (message,) = test(MuScPostProcessor("f1"), 1.2)  # without validation images
    assert "validation images" in message
    assert test(MuScPostProcessor(0.5), 1.2) == []


def test_bad_input_gets_a_value_error(root: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the bank is empty"):
        engine_in(tmp_path).predict(tiny_model(root), data_path=root / "bad")
    with pytest.raises(ValueError, match="threshold: found 'high'"):
        tiny_model(root, threshold="high")
    with pytest.raises(ValueError, match="no multiple of the 16-pixel patch"):
        tiny_model(root, image_size=100)
    with pytest.raises(ValueError, match=r"false_alarms: found 0\.9"):
        tiny_model(root, false_alarms=0.9)
    with pytest.raises(ValueError, match="found 1, wanted 2 or more"):
        engine_in(tmp_path / "one").predict(
            tiny_model(root, zero_shot=True), data_path=root / "bad" / "bad0.png"
        )
    with pytest.raises(NotImplementedError, match="no single network"):
        tiny_model(root).to_onnx(tmp_path)
