"""The feature cache: stored features equal fresh ones, and the key changes when they would."""

from __future__ import annotations

from pathlib import Path
from typing import Any

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
