"""The feature cache: stored features equal fresh ones, and the key changes when they would."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from tiny import TINY, Counting, product, product_folder, tiny_weights

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


def test_the_feature_key_changes_with_what_matters(
    extractor: Extractor, weights: Path, tmp_path: Path
) -> None:
    paths = product_folder(tmp_path / "images")
    backbone = extractor.backbone
    key = feature_key(backbone, paths)
    assert key == feature_key(load_backbone(TINY, weights=weights), paths)
    assert key != feature_key(load_backbone(TINY, weights=weights, image_size=96), paths)
    assert key != feature_key(load_backbone(TINY, weights=weights, blocks=(1,)), paths)
    assert key != feature_key(backbone, paths[::-1])
    Image.fromarray(product(99)).save(paths[3])
    assert key != feature_key(backbone, paths)
