"""Extraction: every form of image gives the same features, bad files are named, none is lost."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import TINY, product, product_folder, tiny_weights

from musc_fast.errors import ImageError, InputError
from musc_fast.features import load_backbone
from musc_fast.features.extraction import Extractor


@pytest.fixture(scope="module")
def extractor(tmp_path_factory: pytest.TempPathFactory) -> Extractor:
    weights = tiny_weights(tmp_path_factory.mktemp("weights"))
    return Extractor(load_backbone(TINY, weights=weights), batch_size=4)


def test_every_form_of_image_gives_the_same_features(extractor: Extractor, tmp_path: Path) -> None:
    paths = product_folder(tmp_path)
    expected = extractor.extract(paths)
    assert expected.cls_tokens is not None
    arrays = [product(k, int(k == 4)) for k in range(6)]
    stacked = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2) / 255
    for images in (
        tmp_path,
        [str(path) for path in paths],
        arrays,
        [Image.fromarray(array) for array in arrays],
        [array / 255 for array in arrays],
        stacked,
    ):
        features = extractor.extract(images)
        assert all(map(torch.equal, features.tokens, expected.tokens))
        assert features.cls_tokens is not None
        assert torch.equal(features.cls_tokens, expected.cls_tokens)
        assert features.sizes == expected.sizes == ((96, 120),) * 6


def test_images_keep_their_order_and_names(extractor: Extractor, tmp_path: Path) -> None:
    paths = product_folder(tmp_path, count=6)
    images = [paths[5], product(0), paths[3], product(1), paths[0], product(2)]
    features = extractor.extract(images)
    names = (str(paths[5]), "image 1", str(paths[3]), "image 3", str(paths[0]), "image 5")
    assert features.names == names
    assert features.sources == tuple(range(6))
    for place, image in enumerate(images):
        alone = extractor.extract([image])
        for one, many in zip(alone.tokens, features.tokens, strict=True):
            assert torch.allclose(one[0], many[place], atol=1e-5)


def test_unreadable_images_are_all_named(extractor: Extractor, tmp_path: Path) -> None:
    paths = product_folder(tmp_path, count=9)
    paths[2].write_bytes(b"no image")
    paths[7].write_bytes(paths[6].read_bytes()[:200])
    with pytest.raises(ImageError) as caught:
        extractor.extract(paths)
    message = str(caught.value)
    assert "2 of 9 images cannot be read" in message
    assert "part2.png" in message
    assert "part7.png" in message
    assert "skip_bad" in message

    features = extractor.extract(paths, skip_bad=True)
    assert features.sources == (0, 1, 3, 4, 5, 6, 8)
    assert [Path(name).name for name, _ in features.bad] == ["part2.png", "part7.png"]
    assert features.tokens[0].shape[0] == 7
    assert features.sizes[0] == (96, 120)
    whole = extractor.extract([paths[k] for k in features.sources])
    for found, wanted in zip(features.tokens, whole.tokens, strict=True):
        assert torch.allclose(found, wanted, atol=1e-5)


def test_nothing_left_is_an_error_even_when_skipping(extractor: Extractor, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"x")
    with pytest.raises(ImageError, match=r"a\.png"):
        extractor.extract([tmp_path / "a.png"], skip_bad=True)


def test_what_is_no_image_is_refused(extractor: Extractor) -> None:
    with pytest.raises(InputError, match="images: found none"):
        extractor.extract([])
    with pytest.raises(ImageError, match=r"floats must lie in 0\.\.1"):
        extractor.extract([np.full((4, 4, 3), 7.0)] * 2)
    with pytest.raises(ImageError, match=r"found \[4, 4, 7\]"):
        extractor.extract([np.zeros((4, 4, 7), dtype=np.uint8)] * 2)
    with pytest.raises(InputError, match="found one Image"):
        extractor.extract(Image.fromarray(product(0)))  # type: ignore[arg-type]
