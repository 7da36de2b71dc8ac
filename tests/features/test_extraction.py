"""Extraction: every form of image gives the same features, bad files are named, none is lost."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image
from tiny import TINY, product, product_folder, tiny_weights

from musc_fast.errors import ImageError, InputError, MuscFastWarning
from musc_fast.features import Features, load_backbone
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
    height, width = features.grid
    layers = f"{len(features.tokens)} layer{'s' * (len(features.tokens) > 1)}"
    told = f"6 images, {layers} of {height} x {width} patches"
    assert repr(features) == f"<BatchFeatures of {told}>"
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


def test_skipping_is_no_way_out_where_all_are_unreadable(
    extractor: Extractor, tmp_path: Path
) -> None:
    paths = [tmp_path / "a.png", tmp_path / "b.png"]
    for path in paths:
        path.write_bytes(b"x")
    with pytest.raises(ImageError, match=r"2 of 2 images cannot be read") as caught:
        extractor.extract(paths)
    assert "skip_bad" not in str(caught.value)


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


def twelve_bits(folder: Path, count: int = 6) -> list[Path]:
    """The pictures of `product_folder` as a camera of 12 bits writes them, in 16-bit files."""
    folder.mkdir()
    paths = [folder / f"deep{k}.tif" for k in range(count)]
    for k, path in enumerate(paths):
        values = np.rint(product(k, int(k == 4)) * (4095 / 255)).astype(np.uint16)
        tifffile.imwrite(path, values, photometric="rgb")
    return paths


def test_twelve_bits_in_16_have_the_features_of_8(extractor: Extractor, tmp_path: Path) -> None:
    expected = extractor.extract(product_folder(tmp_path / "eight"))
    paths = twelve_bits(tmp_path / "deep")
    with pytest.warns(MuscFastWarning, match="4095 is taken for white") as said:
        features = extractor.extract(paths)
    assert len(said) == 1
    assert features.white == 4095
    assert features.sizes == expected.sizes
    arrays = [tifffile.imread(path) for path in paths]
    with pytest.warns(MuscFastWarning, match="4095 is taken for white"):
        of_arrays = extractor.extract(arrays)
    for found, same, wanted in zip(features.tokens, of_arrays.tokens, expected.tokens, strict=True):
        assert torch.equal(found, same)
        assert (found - wanted).norm() < 0.03 * wanted.norm()  # 8 bits are rounded twice
        full = extractor.extract(paths, white=65535).tokens[0]
        assert (full - expected.tokens[0]).norm() > 0.1 * expected.tokens[0].norm()


def test_a_part_of_a_batch_is_read_as_the_batch(extractor: Extractor, tmp_path: Path) -> None:
    paths = twelve_bits(tmp_path / "deep")
    dark = tmp_path / "deep" / "dark.tif"
    tifffile.imwrite(dark, np.full((96, 120), 700, np.uint16))  # alone it would be one of 10 bits
    with pytest.warns(MuscFastWarning):
        white = extractor.white_of([dark], paths)
    alone = extractor.extract([dark], white=white).tokens[0]
    with pytest.warns(MuscFastWarning):
        together = extractor.extract([dark, *paths]).tokens[0][:1]
    assert torch.allclose(alone, together, atol=1e-5)


def test_what_was_decided_is_said_once(extractor: Extractor, tmp_path: Path) -> None:
    for k in range(5):
        frames = [Image.fromarray(product(k)), Image.fromarray(product(k + 1))]
        frames[0].save(tmp_path / f"{k}.tif", save_all=True, append_images=frames[1:])
    with pytest.warns(MuscFastWarning) as said:
        features = extractor.extract(tmp_path)
    assert [str(w.message) for w in said] == list(features.notes)
    assert len(features.notes) == 1
    assert features.notes[0].startswith(f"{tmp_path / '0.tif'} and 4 more: has several pages")


def test_tokens_are_written_once_into_their_place(
    extractor: Extractor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = product_folder(tmp_path, count=10)
    extract, given = extractor.backbone.extract, []

    def record(images: torch.Tensor, **keywords: Any) -> Features:
        features = extract(images, **keywords)
        given.append([tokens.data_ptr() for tokens in features.tokens])
        return features

    monkeypatch.setattr(extractor.backbone, "extract", record)
    found = extractor.extract(paths)
    assert given == [
        [tokens[first:].data_ptr() for tokens in found.tokens]
        for first in range(0, len(paths), extractor.batch_size)
    ]


def test_images_are_read_while_the_backbone_computes(
    extractor: Extractor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The backbone's first call waits until all images of the next two batches have been read."""
    paths = product_folder(tmp_path, count=14)
    extract, preprocess = extractor.backbone.extract, extractor.backbone.preprocess
    read, enough, seen = [], threading.Event(), []

    def count(image: Image.Image, size: tuple[int, int]) -> torch.Tensor:
        pixels = preprocess(image, size)
        read.append(1)
        if len(read) == 3 * extractor.batch_size:
            enough.set()
        return pixels

    def compute(images: torch.Tensor, **keywords: Any) -> Features:
        seen.append(enough.wait(timeout=60))
        return extract(images, **keywords)

    monkeypatch.setattr(extractor.backbone, "preprocess", count)
    monkeypatch.setattr(extractor.backbone, "extract", compute)
    assert len(extractor.extract(paths).names) == 14
    assert seen[0]
