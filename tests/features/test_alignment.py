"""Images that were moved are brought onto one frame before their features are taken."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from outlines import board, moved, texture
from PIL import Image
from tiny import TINY, tiny_weights

import musc_fast.registration.opencv as opencv_module
from musc_fast import MuSc
from musc_fast.errors import BackendError, InputError, MuscFastWarning
from musc_fast.features import Backbone, load_backbone
from musc_fast.features.cache import extract_cached, feature_key
from musc_fast.features.extraction import BatchFeatures, Extractor

SIZE = (96, 120)
MOVES = ((-4, (5, 3)), (0, (0, 0)), (3, (-6, 2)), (1, (4, -5)), (-2, (-3, -4)))


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    return load_backbone(TINY, weights=tiny_weights(tmp_path_factory.mktemp("weights")))


def moving(missing: int | None = None) -> list[np.ndarray]:
    """Five boards that moved; one has a part missing."""
    return [
        board(moved(turn, shift, SIZE), noise=k, missing=missing if k == 2 else None)
        for k, (turn, shift) in enumerate(MOVES)
    ]


def apart(first: Sequence[torch.Tensor], second: Sequence[torch.Tensor]) -> float:
    return float((first[0] - second[0]).norm() / second[0].norm())


def test_moved_images_have_the_features_of_images_at_rest(backbone: Backbone) -> None:
    at_rest = Extractor(backbone, 4).extract([board(noise=k) for k in range(5)])
    off = Extractor(backbone, 4).extract(moving())
    with pytest.warns(MuscFastWarning, match="of 5 images were moved onto image"):
        found = Extractor(backbone, 4, align="rigid").extract(moving())
    assert found.frames is not None
    assert found.valid is not None
    where = found.frames.moved
    assert where.sum() == 4
    assert found.valid[~torch.from_numpy(where)].all()
    assert 0.7 < found.valid.float().mean() < 1
    common = found.valid.all(dim=0)

    def spread(features: BatchFeatures) -> float:
        patches = features.tokens[0][:, backbone.prefix_tokens :][:, common]
        return float(patches.std(dim=0).mean())

    assert spread(found) < 0.6 * spread(off)
    assert spread(found) < 2 * spread(at_rest)


def test_images_at_rest_have_the_bits_of_off(backbone: Backbone) -> None:
    images = [board(noise=k, missing=4 if k == 3 else None) for k in range(5)]
    expected = Extractor(backbone, 4).extract(images)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = Extractor(backbone, 4, align="auto").extract(images)
    assert all(map(torch.equal, found.tokens, expected.tokens))
    assert found.valid is None


def test_auto_does_nothing_to_textures(backbone: Backbone) -> None:
    images = [texture(k) for k in range(4)]
    expected = Extractor(backbone, 4).extract(images)
    with pytest.warns(MuscFastWarning, match="no common outline") as said:
        found = Extractor(backbone, 4, align="auto").extract(images)
    assert len(said) == 1
    assert all(map(torch.equal, found.tokens, expected.tokens))
    assert found.frames is None


def test_a_failed_registration_leaves_the_image_and_says_so(backbone: Backbone) -> None:
    images = [*moving(), board(seed=9)]
    expected = Extractor(backbone, 4).extract(images)
    with pytest.warns(MuscFastWarning) as said:
        found = Extractor(backbone, 4, align="auto").extract(images)
    assert "image 5: left as read" in str(said[-1].message)
    assert found.frames is not None
    assert found.frames.left == ("image 5",)
    assert torch.equal(found.tokens[0][5], expected.tokens[0][5])


def test_every_form_of_image_is_aligned_alike(backbone: Backbone, tmp_path: Path) -> None:
    arrays = moving()
    deep = [array.astype(np.uint16) * 257 for array in arrays]
    stacked = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2) / 255
    larger = [np.asarray(Image.fromarray(a).resize((240, 192))) for a in arrays]
    extractor = Extractor(backbone, 4, align="rigid")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MuscFastWarning)
        expected = extractor.extract(arrays)
        of_tensor, of_deep = extractor.extract(stacked), extractor.extract(deep)
        mixed = extractor.extract([*arrays[:2], *larger[2:]])
    assert expected.frames is not None
    assert all(map(torch.equal, of_tensor.tokens, expected.tokens))
    for other in (of_deep, mixed):
        assert other.frames is not None
        difference = np.abs(other.frames.transforms - expected.frames.transforms).max()
        assert difference < 0.01
        assert apart(other.tokens, expected.tokens) < 0.1


def test_the_frame_is_of_the_references(backbone: Backbone) -> None:
    extractor = Extractor(backbone, 4, align="auto")
    references = [board(noise=20 + k) for k in range(3)]
    alignment = extractor.alignment_of(moving(), references)
    assert alignment.frame is not None
    with pytest.warns(MuscFastWarning):
        query = extractor.extract(moving(), alignment=alignment)
    good = extractor.extract(references, alignment=alignment)
    assert query.frames is not None
    assert good.frames is not None
    assert not good.frames.moved.any()
    assert query.frames.moved.sum() == 4  # the second lies as the references do


def test_the_cache_knows_where_images_lay(backbone: Backbone, tmp_path: Path) -> None:
    paths = [tmp_path / f"{k}.png" for k in range(5)]
    for path, array in zip(paths, moving(), strict=True):
        Image.fromarray(array).save(path)
    extractor, plain = Extractor(backbone, 4, align="rigid"), Extractor(backbone, 4)
    with pytest.warns(MuscFastWarning, match="were moved"):
        first = extract_cached(extractor, paths, tmp_path / "cache")
    with pytest.warns(MuscFastWarning, match="were moved"):
        second = extract_cached(extractor, paths, tmp_path / "cache")
    assert second.seconds == 0
    assert first.frames is not None
    assert second.frames is not None
    assert (second.frames.transforms == first.frames.transforms).all()
    assert second.frames.name == first.frames.name
    assert first.valid is not None
    assert second.valid is not None
    assert torch.equal(second.valid, first.valid)
    alignment = extractor.alignment_of(paths[1:])
    keys = {
        feature_key(plain, paths),
        feature_key(extractor, paths),
        feature_key(extractor, paths, None, alignment),
        feature_key(Extractor(backbone, 4, align="auto"), paths),
    }
    assert len(keys) == 4


def test_maps_lie_on_the_images_as_given(backbone: Backbone) -> None:
    musc = MuSc(backbone, align="auto")
    with pytest.warns(MuscFastWarning, match="were moved"):
        features = musc.extract(moving(missing=7))
    scores = musc.score_features(features)
    assert features.frames is not None
    assert torch.equal(scores.anomaly_maps.flatten(1).amax(dim=1), scores.raw_image_scores)
    outside = (scores.anomaly_maps == 0).flatten(1).any(dim=1).numpy()
    assert (outside == features.frames.moved).all()


def test_what_is_no_way_to_align_is_refused(backbone: Backbone) -> None:
    for wrong in ("yes", None, True):
        with pytest.raises(InputError, match=r"align: found .* wanted one of off, auto"):
            MuSc(backbone, align=wrong)  # type: ignore[arg-type]


def test_without_opencv_the_way_out_is_told(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "cv2", None)
    opencv_module.opencv.cache_clear()
    try:
        with pytest.raises(BackendError, match="pip install opencv-python-headless"):
            Extractor(backbone, 4, align="auto").extract(moving())
        assert Extractor(backbone, 4).extract(moving()).frames is None
    finally:
        opencv_module.opencv.cache_clear()
