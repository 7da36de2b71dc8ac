"""MuSc: image files to scores, with and without references; wrong arguments are named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import TINY, product, product_folder, tiny_weights

from musc_fast import BatchScores, MuSc, score_batch
from musc_fast.errors import BackendError, InputError, MuscFastWarning
from musc_fast.features import Features


@pytest.fixture(scope="module")
def musc(tmp_path_factory: pytest.TempPathFactory) -> MuSc:
    weights = tiny_weights(tmp_path_factory.mktemp("weights"))
    return MuSc(TINY, weights=weights, batch_size=4, recipe="paper")


def test_scores_find_the_defect(musc: MuSc, tmp_path: Path) -> None:
    paths = product_folder(tmp_path, count=7, defective=5)
    scores = musc.score(paths)
    assert scores.anomaly_maps.shape == (7, *musc.backbone.image_size)
    assert scores.raw_image_scores.argmax() == 5
    y, x = np.unravel_index(int(scores.anomaly_maps[5].argmax()), musc.backbone.image_size)
    assert 20 / 96 < y / 160 < 64 / 96  # the defect is at 30..54 of 96
    assert 50 / 120 < x / 160 < 94 / 120  # and 60..84 of 120


def test_the_pipeline_is_score_batch_on_the_features(musc: MuSc, tmp_path: Path) -> None:
    paths = product_folder(tmp_path)
    backbone = musc.backbone
    features = backbone.extract(
        torch.stack([backbone.preprocess(Image.open(path)) for path in paths])
    )
    wanted = score_batch(
        features.tokens,
        cls_tokens=features.cls_tokens,
        prefix_tokens=backbone.prefix_tokens,
        image_size=backbone.image_size,
    )
    found = musc.score(paths)
    # Batches of other sizes may differ in the last bits of the features.
    assert torch.allclose(found.patch_scores, wanted.patch_scores, atol=1e-5)
    assert torch.allclose(found.image_scores, wanted.image_scores, atol=1e-4)


def test_the_default_recipe_is_one_search_of_the_degrees_mean(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = product_folder(tmp_path / "images", count=7, defective=5)
    musc = MuSc(TINY, weights=tiny_weights(tmp_path))
    backbone = musc.backbone
    classes = []
    extract = backbone.extract

    def watched(images: torch.Tensor, **keywords: Any) -> Features:
        classes.append(keywords["cls"])
        return extract(images, **keywords)

    monkeypatch.setattr(backbone, "extract", watched)
    found = musc.score(paths)
    assert set(classes) == {False}  # the later blocks were not run
    pixels = torch.stack([backbone.preprocess(Image.open(path)) for path in paths])
    wanted = score_batch(
        extract(pixels, cls=False).tokens,
        prefix_tokens=backbone.prefix_tokens,
        image_size=backbone.image_size,
        degree_fusion="features",
    )
    assert torch.allclose(found.patch_scores, wanted.patch_scores, atol=1e-5)
    assert torch.equal(found.image_scores, found.raw_image_scores)
    assert found.raw_image_scores.argmax() == 5


def test_references(musc: MuSc, tmp_path: Path) -> None:
    paths = product_folder(tmp_path)
    scores = musc.score([paths[4], paths[0]], references=[*paths[1:4], paths[5]])
    assert scores.raw_image_scores[0] > scores.raw_image_scores[1]
    with pytest.raises(InputError, match="1 images are among their own references"):
        musc.score([str(paths[4]), product(0)], references=tmp_path)
    alone = musc.score([paths[4]], references=[*paths[1:4], paths[5]])
    assert torch.allclose(alone.patch_scores[0], scores.patch_scores[0], atol=1e-5)


def test_wrong_arguments(musc: MuSc) -> None:
    with pytest.raises(InputError, match="images: found none"):
        musc.score([])
    with pytest.raises(InputError, match="batch_size"):
        MuSc(TINY, batch_size=0)
    with pytest.raises(InputError, match="image_size is that of the loaded backbone"):
        MuSc(musc.backbone, image_size=96)
    for wrong in ({"degrees": (2,)}, {"precision": "x"}, {"topmin": (-1, 0)}, {"memory_limit": 0}):
        with pytest.raises(InputError, match=next(iter(wrong))):
            MuSc(musc.backbone, **wrong)  # type: ignore[arg-type]
    with pytest.raises(BackendError, match="unknown backend"):
        MuSc(musc.backbone, backend="x")
    with pytest.raises(InputError, match="at least 2 images"):
        musc.score([product(0)])


def test_progress_tells_both_stages(musc: MuSc, tmp_path: Path) -> None:
    last: dict[str, tuple[int, int]] = {}
    musc.score(
        product_folder(tmp_path),
        progress=lambda stage, done, total: last.update({stage: (done, total)}),
    )
    assert set(last) == {"features", "scoring"}
    assert all(done == total for done, total in last.values())


def test_scores_have_names_and_verdicts(musc: MuSc, tmp_path: Path) -> None:
    paths = product_folder(tmp_path, count=7, defective=5)
    scores = musc.score(paths, expected_defect_rate=1 / 7)
    assert isinstance(scores, BatchScores)
    assert scores.names == tuple(map(str, paths))
    assert scores.verdicts == tuple("flagged" if k == 5 else "clear" for k in range(7))
    assert scores.reason == scores.threshold.reason
    assert scores.raw_image_scores[5] >= scores.threshold.value
    assert repr(scores).startswith("<ImageScores of 7 images, raw scores 0.")
    assert "1 flagged, 0 look, 6 clear; highest" in repr(scores)
    assert len(repr(scores)) < 300
    assert repr(musc).startswith(f"<MuSc {TINY} at 160 x 160, recipe paper, ")
    assert repr(musc).endswith(" fp32 on cpu, backend auto>")
    with pytest.raises(InputError, match="not both"):
        musc.score(paths, threshold=0.1, expected_defect_rate=0.1)
    with pytest.raises(InputError, match=r"false_alarms: found 0, wanted a share in \(0, 0\.5\]"):
        musc.score(paths, false_alarms=0)


def test_references_decide(musc: MuSc, tmp_path: Path) -> None:
    good = product_folder(tmp_path / "good", count=20, defective=-1)
    new = [Image.fromarray(product(90 + k, int(k == 1))) for k in range(3)]
    scores = musc.score(new, references=good, false_alarms=0.2)
    assert scores.threshold.rule == "references"
    assert scores.names == ("image 0", "image 1", "image 2")
    assert scores.verdicts[1] == "flagged"
    assert scores.threshold.p_values is not None
    assert scores.threshold.p_values[1] <= 0.1
    with pytest.raises(InputError, match="rule: has no say where references decide"):
        musc.score(new, references=good, rule="mad")
    with pytest.raises(InputError, match="false_alarms: has no say where a threshold"):
        musc.score(new, references=good, threshold=0.5, false_alarms=0.2)
    alone = musc.score(new[1:2], references=good, false_alarms=0.2)
    assert alone.verdicts == ("flagged",)


def test_references_and_what_is_scored_share_a_window(musc: MuSc, tmp_path: Path) -> None:
    """What "auto" takes for the images holds for the scale of the references; it is told once."""
    good = product_folder(tmp_path / "good", count=4, defective=-1)
    near = MuSc(musc.backbone, place="auto")
    with pytest.warns(MuscFastWarning) as told:
        near.score([product(90), product(91, 1)], references=good)
    assert len([each for each in told if "place auto" in str(each.message)]) == 1


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((48, 48, 3), dtype=np.uint8),
        np.zeros((48, 48, 1), dtype=np.uint8),
        np.zeros((48, 48), dtype=np.uint8),
        torch.zeros(3, 48, 48),
    ],
)
def test_one_image_is_no_batch(musc: MuSc, image: Any) -> None:
    wanted = r"which is one image, wanted a batch; put it in a list, \[image\]"
    with pytest.raises(InputError, match=wanted):
        musc.score(image)
    with pytest.raises(InputError, match=wanted):
        musc.score([product(0), product(1)], references=image)
    with pytest.raises(InputError, match=wanted):
        next(musc.stream(image))
    grey = np.stack([product(k)[:, :, 0] for k in range(3)])  # [N, h, w] is a batch
    assert len(musc.score(grey).names) == 3
    with pytest.raises(InputError, match=r"put one image in a list: \[image\]"):
        musc.score(Image.fromarray(product(0)))  # type: ignore[arg-type]
