"""Tiles: every picture is decoded once, cut, and its tokens lie on one grid without a seam."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tiny import TINY, tiny_weights
from torch import Tensor
from torch.nn import functional

from musc_fast import ImageError, InputError, MuscFastWarning, score_batch
from musc_fast.features import Backbone, extraction, load_backbone
from musc_fast.features.cache import extract_cached, feature_key
from musc_fast.features.extraction import BatchFeatures, Extractor
from musc_fast.features.tiling import Tiling, extract_tiled, stitched

SIDE = 96  # of a tile: 6 x 6 patches of 16 pixels, one shared with the next


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    weights = tiny_weights(tmp_path_factory.mktemp("weights"))
    how: dict[str, Any] = {"engine": "torch", "feature_precision": "fp32"}
    return load_backbone(TINY, weights=weights, image_size=SIDE, **how)


def texture(seed: int, side: int = 256) -> Image.Image:
    """Squares of 8 pixels with a little noise: every patch looks like every other."""
    rng = np.random.default_rng(seed)
    squares = np.indices((side, side)).sum(axis=0) // 8 % 2 * 80 + 80
    return Image.fromarray((squares + rng.normal(0, 6, (side, side))).clip(0, 255).astype(np.uint8))


@settings(deadline=None, max_examples=50)
@given(
    tiles=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    tile=st.tuples(st.integers(2, 20), st.integers(2, 20)),
)
def test_what_depends_on_the_place_alone_is_stitched_as_it_is(
    tiles: tuple[int, int], tile: tuple[int, int]
) -> None:
    """The mean colour of each patch, tile by tile, is that of each patch of the picture."""
    patch = 2
    tiling = Tiling(tiles, tile, patch)
    picture = torch.randn(3, *tiling.image_size, generator=torch.Generator().manual_seed(0))

    def means(some: Tensor) -> Tensor:
        return functional.avg_pool2d(some, patch).flatten(1).T

    cut = torch.stack([means(each) for each in tiling.cut(picture)])
    assert cut.shape[1] == tile[0] * tile[1]
    torch.testing.assert_close(stitched(tiling, cut), means(picture), rtol=0, atol=1e-5)


@settings(deadline=None, max_examples=50)
@given(
    tiles=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    tile=st.tuples(st.integers(2, 40), st.integers(2, 40)),
)
def test_one_tile_fades_into_the_next(tiles: tuple[int, int], tile: tuple[int, int]) -> None:
    """From one patch to the next no tile gains or loses more than its share of the overlap."""
    tiling = Tiling(tiles, tile, 1)
    for axis, shared in enumerate(tiling.overlap):
        for weights in tiling.weights:
            padded = weights[:, :, 0].movedim(axis, 0)
            steps = (padded[1:] - padded[:-1]).abs()
            assert float(steps.max()) <= 1 / shared + 1e-6
            assert float(padded.min()) > 0


def test_tokens_are_those_of_the_tiles(backbone: Backbone) -> None:
    tiling = Tiling.of(backbone, (2, 3))
    assert tiling.overlap == (1, 1)
    assert tiling.grid == (11, 16)
    picture = backbone.preprocess(texture(0), tiling.image_size)
    found = extract_tiled(backbone, tiling, picture, 4, cls=True)
    each = backbone.extract(torch.stack(tiling.cut(picture)))
    assert each.cls_tokens is not None
    assert found.cls_tokens is not None
    for layer, tokens in zip(found.tokens, each.tokens, strict=True):
        grid = layer[0, 1:].view(11, 16, -1)
        last = tokens[5, 1:].view(6, 6, -1)
        torch.testing.assert_close(grid[6:, 11:], last[1:, 1:], rtol=0, atol=1e-4)
        first, second = (tokens[k, 1:].view(6, 6, -1) for k in (0, 1))
        shared = (first[:5, 5] + second[:5, 0]) / 2
        torch.testing.assert_close(grid[:5, 5], shared, rtol=0, atol=1e-4)
        torch.testing.assert_close(layer[0, :1], tokens[:, :1].mean(dim=0), rtol=0, atol=1e-4)
    mean = functional.normalize(each.cls_tokens.mean(dim=0, keepdim=True), dim=1)
    torch.testing.assert_close(found.cls_tokens, mean, rtol=0, atol=1e-5)


def maps_of(backbone: Backbone, tiles: tuple[int, int], images: list[Any]) -> Tensor:
    extractor = Extractor(backbone, 4, cls=False, tiles=tiles)
    found = extractor.extract(images)
    scores = score_batch(
        found.tokens, grid=found.grid, prefix_tokens=1, tiles=tiles, degrees=(1, 3)
    )
    return scores.patch_scores


def test_no_seam_in_the_map_of_a_texture(backbone: Backbone) -> None:
    """The mean map of textures steps no more at the borders of tiles than elsewhere."""
    side = Tiling.of(backbone, (2, 2)).image_size[0]
    scores = maps_of(backbone, (2, 2), [texture(k, side) for k in range(6)]).mean(dim=0)
    steps = (scores[:, 1:] - scores[:, :-1]).mean(dim=0).abs()  # between columns 0 and 1, ...
    border = [4, 5]  # column 5 is shared by both tiles
    inside = [k for k in range(len(steps)) if k not in border]
    assert float(steps[border].max()) <= 1.5 * float(steps[inside].max())
    assert float(steps.max()) < 0.2 * float(scores.mean())


def test_a_small_defect_is_at_its_place(backbone: Backbone) -> None:
    images = [np.array(texture(k)) for k in range(5)]
    images[3][180:188, 60:68] = 255
    scores = maps_of(backbone, (2, 2), images)
    assert int(scores.flatten(1).amax(dim=1).argmax()) == 3
    row, column = np.unravel_index(int(scores[3].argmax()), tuple(scores.shape[1:]))
    assert abs((row + 0.5) * 256 / scores.shape[1] - 184) < 24
    assert abs((column + 0.5) * 256 / scores.shape[2] - 64) < 24


def test_each_picture_is_read_once(
    backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = []
    for k in range(3):
        paths.append(tmp_path / f"{k}.png")
        texture(k).save(paths[-1])
    read: list[Any] = []
    original = extraction.picture_of
    monkeypatch.setattr(
        extraction, "picture_of", lambda image, how: read.append(image) or original(image, how)
    )
    extractor = Extractor(backbone, 2, tiles=(3, 2))
    found = extractor.extract(paths)
    assert sorted(read) == paths
    for k in range(3):  # the features of an image do not depend on its batch
        alone = extractor.extract([paths[k]])
        for layer, one in zip(found.tokens, alone.tokens, strict=True):
            assert torch.equal(layer[k], one[0])


def test_one_tile_is_the_whole_picture(backbone: Backbone) -> None:
    images = [texture(k) for k in range(3)]
    whole = Extractor(backbone, 4).extract(images)
    one = Extractor(backbone, 4, tiles=(1, 1)).extract(images)
    assert whole.grid == one.grid == backbone.grid
    assert all(map(torch.equal, whole.tokens, one.tokens))


def test_a_picture_smaller_than_a_tile_is_named(backbone: Backbone) -> None:
    extractor = Extractor(backbone, 4, tiles=(2, 2))
    images = [texture(0), texture(1), texture(2, side=90)]
    message = "image 2: 90 x 90 pixels are less than one tile of 96 x 96; leave the tiles out"
    with pytest.raises(ImageError, match=message):
        extractor.extract(images)
    found = extractor.extract(images, skip_bad=True)
    assert found.names == ("image 0", "image 1")


def test_enlarged_pictures_are_told(backbone: Backbone) -> None:
    extractor = Extractor(backbone, 4, tiles=(2, 2))
    with pytest.warns(MuscFastWarning, match="1 of 2 images have fewer pixels than the 176 x 176"):
        found = extractor.extract([texture(0), texture(1, side=120)])
    assert len(found.notes) == 1


def test_an_input_of_one_patch_has_no_tiles(tmp_path: Path) -> None:
    small = load_backbone(TINY, weights=tiny_weights(tmp_path), image_size=(16, 48))
    with pytest.raises(InputError, match="input of the backbone is 1 x 3 patches"):
        Extractor(small, 4, tiles=(2, 1))


def test_the_cache_tells_tiles_apart(backbone: Backbone, tmp_path: Path) -> None:
    paths = [tmp_path / f"{k}.png" for k in range(2)]
    for k, path in enumerate(paths):
        texture(k).save(path)
    cut, whole = Extractor(backbone, 4, tiles=(2, 2)), Extractor(backbone, 4)
    assert feature_key(cut, paths) != feature_key(whole, paths)

    def cached(extractor: Extractor) -> BatchFeatures:
        return extract_cached(extractor, paths, tmp_path / "cache")

    first, again = cached(cut), cached(cut)
    assert again.seconds == 0
    assert again.grid == first.grid == (11, 11)
    assert all(map(torch.equal, first.tokens, again.tokens))
    assert cached(whole).grid == (6, 6)
