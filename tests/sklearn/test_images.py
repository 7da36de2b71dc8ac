"""`MuScDetector` on images: paths in a list, an array or a table, PIL images, arrays."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.model_selection import cross_val_predict
from tiny import TINY, product, product_folder, tiny_weights

from musc_fast import InputError, MuSc
from musc_fast.features.extraction import BatchFeatures, Extractor
from musc_fast.sklearn import MuScDetector


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_weights(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return product_folder(tmp_path_factory.mktemp("images"), count=8, defective=4)


SMALL = {"backbone": TINY, "offline": True, "engine": "torch", "image_size": 64}


def detector(weights: Path, **options: object) -> MuScDetector:
    return MuScDetector(weights=weights, **SMALL, **options)


def test_one_batch_has_the_scores_of_musc(weights: Path, paths: list[Path]) -> None:
    found = detector(weights, contamination=0.125)
    assert found.fit_predict(paths).tolist() == [1, 1, 1, 1, -1, 1, 1, 1]
    musc = MuSc(weights=weights, use_cls=False, **SMALL)
    wanted = musc.score(paths)
    assert np.array_equal(found.negative_scores_, -wanted.raw_image_scores.double().numpy())
    assert found.scores_.names == tuple(map(str, paths))
    assert not hasattr(found, "n_features_in_")


def test_every_form_of_images(weights: Path, paths: list[Path]) -> None:
    wanted = detector(weights).fit(paths).negative_scores_
    texts = [str(path) for path in paths]
    forms = {
        "texts": texts,
        "array": np.array(texts),
        "objects": np.array(paths, dtype=object),
        "column": np.array(texts, dtype=object)[:, None],
        "PIL": [Image.open(path) for path in paths],
        "arrays": [np.asarray(Image.open(path)) for path in paths],
        "pixels": np.stack([np.asarray(Image.open(path)) for path in paths]),
    }
    for name, images in forms.items():
        assert np.array_equal(detector(weights).fit(images).negative_scores_, wanted), name


def test_new_images_against_a_bank(weights: Path, paths: list[Path]) -> None:
    good, new = [*paths[:4], *paths[5:7]], [paths[4], paths[7]]
    bank = detector(weights, novelty=True).fit(good)
    assert bank.predict(new).tolist() == [-1, 1]
    assert bank.bank_.ids == list(map(str, good))
    again = pickle.loads(pickle.dumps(bank))
    assert again.score_samples(new).tolist() == bank.score_samples(new).tolist()
    again.bank_.save(paths[0].parent / "bank.safetensors")  # a file that `watch` takes
    with pytest.raises(InputError, match="wanted paths or images as in fit"):
        bank.predict(np.zeros((2, 4, 8), np.float32))
    with pytest.raises(
        InputError, match=r"cannot be read; remove them:\n  gone\.png: no such file"
    ):
        bank.predict(["gone.png", new[0]])


def test_patches_that_do_not_count(
    weights: Path, paths: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are left out of the scores of a batch, of the bank, and of new images."""
    whole = detector(weights, threshold=0.5).fit(paths).negative_scores_
    extract = Extractor.extract

    def masked(self: Extractor, *images: Any, **options: Any) -> BatchFeatures:
        features = extract(self, *images, **options)
        counted = torch.zeros((len(features.names), 16), dtype=torch.bool)
        counted[:, 12:] = True  # the lowest row of the grid, which no defect reaches
        return replace(features, valid=counted)

    monkeypatch.setattr(Extractor, "extract", masked)
    batch = detector(weights, threshold=0.5).fit(paths)
    assert (batch.scores_.patch_scores[:, :3] == 0).all()
    assert batch.negative_scores_[4] > whole[4]
    good, new = [*paths[:4], *paths[5:]], paths[4:5]
    bank = detector(weights, novelty=True, threshold=0.5).fit(good)
    assert bank.bank_.valid() is not None
    musc = MuSc(weights=weights, use_cls=False, **SMALL)
    wanted = musc.score(new, references=good, threshold=0.5).raw_image_scores
    assert bank.score_samples(new).tolist() == (-wanted.double()).tolist()


def test_the_same_path_twice_is_two_samples(weights: Path, paths: list[Path]) -> None:
    twice = detector(weights, novelty=True, threshold=0.5).fit([*paths[:3], paths[0]])
    assert len(set(twice.bank_.ids)) == 4


def test_cross_validation_of_paths(weights: Path, paths: list[Path]) -> None:
    found = cross_val_predict(
        detector(weights, novelty=True, threshold=0.5),
        [str(path) for path in paths],
        cv=2,
        method="decision_function",
    )
    assert found.argmin() == 4


def test_deep_images_have_the_white_of_the_bank(weights: Path, tmp_path: Path) -> None:
    paths = [tmp_path / f"{k}.png" for k in range(4)]
    for k, path in enumerate(paths):
        grey = product(k)[..., 0].astype(np.uint16) * 16  # 12 bits
        Image.fromarray(grey if k < 3 else grey // 8).save(path)
    bank = detector(weights, novelty=True, threshold=0.5).fit(paths[:3])
    assert bank.bank_.source["white"] == 4095
    alone = MuSc(weights=weights, white=4095, use_cls=False, **SMALL)
    wanted = alone.score(paths[3:], references=paths[:3]).raw_image_scores
    assert bank.score_samples(paths[3:]).tolist() == (-wanted.double()).tolist()
    assert bank.image_scores(paths[3:]).reading.white == 4095
