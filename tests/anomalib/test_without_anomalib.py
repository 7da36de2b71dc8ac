"""What of the anomalib model needs no anomalib: resize, thresholds, scorer and its state."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tiny import TINY, product, product_folder, tiny_weights
from torchvision import tv_tensors
from torchvision.transforms.v2.functional import to_dtype, to_image

from musc_fast import MuSc
from musc_fast.anomalib.judging import at_least, at_sensitivity, check_threshold, flagged, shown
from musc_fast.anomalib.scorer import Scorer
from musc_fast.anomalib.squash import Squash
from musc_fast.datasets.masks import shrunk

SCORES = st.floats(0, 2, width=32)


@pytest.fixture(scope="module")
def musc(tmp_path_factory: pytest.TempPathFactory) -> MuSc:
    weights = tiny_weights(tmp_path_factory.mktemp("weights"))
    return MuSc(TINY, weights=weights, engine="torch", feature_precision="fp32")


def tensor_of(image: Image.Image) -> torch.Tensor:
    """As anomalib reads an image."""
    return to_dtype(to_image(image), torch.float32, scale=True)


def images_of(musc: MuSc, paths: list[Path]) -> torch.Tensor:
    squash = Squash(musc.backbone.image_size, musc.backbone.spec.interpolation)
    return torch.stack([squash(tensor_of(Image.open(path))) for path in paths])


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_squash_and_normalise_have_the_bits_of_preprocess(musc: MuSc, interpolation: str) -> None:
    picture = Image.fromarray(product(3, 1))
    squashed = Squash((160, 160), interpolation)(tensor_of(picture))  # type: ignore[arg-type]
    if interpolation == musc.backbone.spec.interpolation:
        assert torch.equal(musc.backbone.normalise(squashed), musc.backbone.preprocess(picture))
    filters = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
    resized = np.asarray(picture.resize((160, 160), filters[interpolation]))
    assert np.array_equal(squashed.permute(1, 2, 0), resized / np.float32(255))
    assert isinstance(squashed, tv_tensors.Image)


def test_squash_of_values_between_8_bit_levels_keeps_them() -> None:
    image = torch.full((1, 3, 40, 30), 100.4 / 255)
    assert torch.allclose(Squash((16, 16))(image), torch.tensor(100.4 / 255), atol=1e-6)


def test_squash_takes_masks_as_evaluate_does_and_is_done_once() -> None:
    mask = np.zeros((97, 121), np.uint8)
    mask[30:54, 60:61] = 1
    image = torch.rand(3, 97, 121)
    squash = Squash((64, 48))
    small, small_mask = squash(image, tv_tensors.Mask(torch.from_numpy(mask)))
    assert np.array_equal(small_mask.numpy() != 0, shrunk(mask != 0, (64, 48)))
    assert small_mask.dtype == torch.uint8
    again, again_mask = squash(small, small_mask)
    assert torch.equal(again, small)
    assert torch.equal(again_mask, small_mask)
    assert squash(image, None)[1] is None


@given(SCORES, SCORES, st.floats(2**-20, 2, width=32))
@settings(max_examples=200, deadline=None)
def test_shown_scores_keep_the_order_and_the_threshold(a: float, b: float, middle: float) -> None:
    low, high = sorted((a, b))
    found = shown(torch.tensor([low, high, middle]), torch.tensor(middle))
    assert 0 <= found[0] <= found[1] < 1
    assert found[2] == 0.5
    if high > low * 1.00001 + 1e-6:
        assert found[0] < found[1]


def test_the_highest_scores_do_not_tie() -> None:
    found = shown(torch.linspace(0.4, 2, 1000), torch.tensor(0.4))
    assert len(found.unique()) == 1000
    assert torch.equal(shown(torch.tensor([0.0, 0.3]), torch.tensor(0.0)), torch.tensor([0.5, 1.0]))


def test_a_score_at_the_threshold_is_flagged() -> None:
    scores = torch.tensor([0.1, 0.2, 0.8, 0.9])
    assert flagged(scores, torch.tensor(0.8)).tolist() == [False, False, True, True]


@given(st.floats(0, 2), SCORES)
@settings(max_examples=200, deadline=None)
def test_a_level_in_float32_flags_what_the_level_flags(level: float, score: float) -> None:
    score32 = float(np.float32(score))
    assert bool(flagged(torch.tensor(score32), at_least(level))) is (score32 >= level)


@given(SCORES, st.floats(0.05, 0.95), st.floats(2**-6, 2, width=32))
@settings(max_examples=200, deadline=None)
def test_sensitivity_moves_the_threshold_of_shown_scores(
    score: float, sensitivity: float, level: float
) -> None:
    threshold = torch.tensor(level)
    value = float(shown(torch.tensor(score), threshold))
    if abs(value - (1 - sensitivity)) > 1e-4:
        found = flagged(torch.tensor(score), at_sensitivity(threshold, sensitivity))
        assert bool(found) is (value >= 1 - sensitivity)


def test_sensitivity_at_its_ends() -> None:
    threshold = torch.tensor(0.4)
    assert at_sensitivity(threshold, 0.5) == threshold
    assert at_sensitivity(threshold, 1) == 0
    assert at_sensitivity(threshold, 0) == math.inf
    with pytest.raises(ValueError, match=r"sensitivity: found 1\.5, wanted 0 to 1"):
        at_sensitivity(threshold, 1.5)


@pytest.mark.parametrize("wrong", ["high", -1, math.nan, True, None])
def test_a_wrong_threshold_is_named(wrong: object) -> None:
    with pytest.raises(ValueError, match="threshold: found"):
        check_threshold(wrong)
    assert [check_threshold(each) for each in ("auto", "f1", 1)] == ["auto", "f1", 1.0]


def test_scores_against_the_bank_are_those_of_score(musc: MuSc, tmp_path: Path) -> None:
    train = product_folder(tmp_path / "train", 6, 99)
    test = product_folder(tmp_path / "test", 4, 2)
    scorer = Scorer(musc)
    order = [4, 0, 5, 2, 1, 3]  # as a dataloader shuffles
    for some in (order[:4], order[4:]):
        paths = [train[k] for k in some]
        scorer.collect(images_of(musc, paths), [str(path) for path in paths])
    scorer.finish(measure=False)
    found = scorer.against_bank(images_of(musc, test))
    wanted = musc.score(test, references=train)
    assert torch.allclose(found.anomaly_maps, wanted.anomaly_maps, atol=1e-6)
    assert scorer.bank is not None
    assert scorer.bank.ids == [str(path) for path in train]


def test_scores_among_themselves_are_those_of_score(musc: MuSc, tmp_path: Path) -> None:
    paths = product_folder(tmp_path, 7, 5)
    scorer = Scorer(musc)
    batches = [scorer.features(images_of(musc, some)) for some in (paths[:4], paths[4:])]
    found = scorer.among_themselves(batches)
    assert torch.allclose(found.anomaly_maps, musc.score(paths).anomaly_maps, atol=1e-6)
    with pytest.raises(ValueError, match="found 1, wanted 2 or more"):
        scorer.among_themselves([scorer.features(images_of(musc, paths[:1]))])


def test_a_bounded_bank_keeps_the_same_images_in_any_order(musc: MuSc, tmp_path: Path) -> None:
    paths = product_folder(tmp_path, 6, 99)
    kept = []
    for order in (paths, paths[::-1]):
        scorer = Scorer(musc, bank_size=3)
        for path in order:
            scorer.collect(images_of(musc, [path]), [str(path)])
        scorer.finish(measure=False)
        assert scorer.bank is not None
        kept.append(scorer.bank.ids)
    assert kept[0] == kept[1]
    assert len(kept[0]) == 3


def test_the_state_is_plain_and_brings_the_bank_back(musc: MuSc, tmp_path: Path) -> None:
    paths = product_folder(tmp_path / "images", 6, 99)
    scorer = Scorer(musc)
    scorer.collect(images_of(musc, paths), [str(path) for path in paths])
    scorer.finish(measure=True)
    torch.save(scorer.state(), tmp_path / "state.pt")
    other = Scorer(musc)
    other.load_state(torch.load(tmp_path / "state.pt", weights_only=True))
    images = images_of(musc, paths[:2])
    assert torch.equal(
        other.against_bank(images).anomaly_maps, scorer.against_bank(images).anomaly_maps
    )
    assert other.level(0.2) == scorer.level(0.2)
    paper = Scorer(MuSc(TINY, weights=tiny_weights(tmp_path), engine="torch", recipe="paper"))
    with pytest.raises(ValueError, match=r"bank of the checkpoint was made with.*blocks"):
        paper.load_state(scorer.state())


def test_wrong_images_and_an_empty_bank_are_refused(musc: MuSc) -> None:
    scorer = Scorer(musc)
    with pytest.raises(ValueError, match="the bank is empty"):
        scorer.against_bank(torch.rand(1, 3, 160, 160))
    with pytest.raises(ValueError, match="the bank has no images"):
        scorer.finish(measure=False)
    with pytest.raises(ValueError, match="leave Normalize out"):
        scorer.features(torch.randn(2, 3, 160, 160))
    with pytest.raises(ValueError, match=r"found shape \(2, 3, 96, 96\)"):
        scorer.features(torch.rand(2, 3, 96, 96))
    with pytest.raises(ValueError, match="bank_size: found 0"):
        Scorer(musc, 0)


@pytest.mark.skipif(
    importlib.util.find_spec("anomalib") is not None, reason="anomalib is installed"
)
def test_without_anomalib_the_error_names_the_extra() -> None:
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'musc-fast\[anomalib\]'"):
        from musc_fast.anomalib import MuSc as _  # noqa: F401
