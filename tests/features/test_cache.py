"""The feature cache: stored features equal fresh ones, and the key changes when they would."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tiny import TINY, Counting, product, product_folder, tiny_weights

from musc_fast.errors import ImageError, MuscFastWarning
from musc_fast.features import load_backbone
from musc_fast.features.cache import _load, extract_cached, feature_key
from musc_fast.features.extraction import Extractor


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_weights(tmp_path_factory.mktemp("weights"))


@pytest.fixture
def extractor(weights: Path) -> Extractor:
    return Extractor(load_backbone(TINY, weights=weights), batch_size=4)


def test_cached_features_are_the_features(
    extractor: Extractor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = product_folder(tmp_path / "images")
    counting = Counting(extractor, monkeypatch)
    fresh = extract_cached(extractor, paths, tmp_path / "cache")
    stored = extract_cached(extractor, paths, tmp_path / "cache")
    assert counting.images == 6
    assert all(torch.equal(a, b) for a, b in zip(fresh.tokens, stored.tokens, strict=True))
    assert fresh.cls_tokens is not None
    assert stored.cls_tokens is not None
    assert torch.equal(fresh.cls_tokens, stored.cls_tokens)
    assert (stored.names, stored.sources, stored.sizes) == (fresh.names, fresh.sources, fresh.sizes)

    file = next((tmp_path / "cache").iterdir())
    # Every machine has the device "meta", which differs from the file's.
    moved = _load(file, stored.names, torch.device("meta"))
    assert moved.cls_tokens is not None
    assert {t.device.type for t in (*moved.tokens, moved.cls_tokens)} == {"meta"}
    assert {t.device for t in stored.tokens} == {extractor.backbone.device}

    file.write_bytes(file.read_bytes()[:1000])
    extract_cached(extractor, paths, tmp_path / "cache")  # the damaged file is replaced
    assert counting.images == 12


def test_patches_that_do_not_count_are_cached(
    extractor: Extractor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = product_folder(tmp_path / "images", 2)
    fresh = extractor.extract(paths)
    valid = torch.rand(fresh.tokens[0].shape[:2]) < 0.5
    monkeypatch.setattr(extractor, "extract", lambda *_, **__: replace(fresh, valid=valid))
    extract_cached(extractor, paths, tmp_path / "cache")
    stored = extract_cached(extractor, paths, tmp_path / "cache").valid
    assert stored is not None
    assert torch.equal(stored, valid)


def test_the_feature_key_changes_with_what_matters(
    extractor: Extractor, weights: Path, tmp_path: Path
) -> None:
    paths = product_folder(tmp_path / "images")

    def key_of(cls: bool = True, **arguments: Any) -> str:
        backbone = load_backbone(TINY, weights=weights, engine="torch", **arguments)
        return feature_key(Extractor(backbone, 4, cls=cls), paths)

    key = key_of()
    assert key == key_of()
    assert key != key_of(image_size=96)
    assert key != key_of(blocks=(1,))
    assert key != key_of(cls=False)
    assert key != key_of(feature_precision="bf16")
    plain = Extractor(load_backbone(TINY, weights=weights, engine="torch"), 4)
    assert key == feature_key(plain, paths)
    assert key != feature_key(plain, paths, white=4095.0)
    other = load_backbone(TINY, weights=weights, engine="torch")
    other.engine = "another"
    assert key != feature_key(Extractor(other, 4), paths)
    assert key != feature_key(Extractor(other, 4), paths[::-1])
    before = key_of()
    Image.fromarray(product(99)).save(paths[3])
    assert before != key_of()


def test_images_that_cannot_be_read_are_named_or_skipped_and_not_cached(
    extractor: Extractor, tmp_path: Path
) -> None:
    paths = product_folder(tmp_path / "images", count=3)
    paths[1].write_bytes(b"no image")
    gone = tmp_path / "images" / "gone.png"
    cache = tmp_path / "cache"
    for given, name in ((paths, "part1"), ([*paths[::2], gone], "gone")):
        with pytest.raises(ImageError, match=name):
            extract_cached(extractor, given, cache)
        features = extract_cached(extractor, given, cache, skip_bad=True)
        assert len(features.sources) == 2
        assert len(features.bad) == 1
    assert not cache.exists()


def test_what_the_reading_decided_is_said_from_the_cache_too(
    extractor: Extractor, tmp_path: Path
) -> None:
    path = tmp_path / "clear.png"
    image = Image.fromarray(product(1)).convert("RGBA")
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    image.save(path)
    for _ in range(2):
        with pytest.warns(MuscFastWarning, match=r"clear\.png"):
            features = extract_cached(extractor, [path], tmp_path / "cache")
        assert features.notes
    assert len(list((tmp_path / "cache").iterdir())) == 1
