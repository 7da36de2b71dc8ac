"""Photographs of the demo sample: masks that match the defects, parts that are alike."""

from __future__ import annotations

import functools
from time import perf_counter

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from musc_fast.datasets.sample.photo import CYCLE, Photo, take_photo


@functools.cache
def damaged_and_sound(number: int) -> tuple[Photo, Photo]:
    damaged = take_photo(number, defective=True, size=256)
    return damaged, take_photo(number, defective=True, size=256, repaired=True)


@pytest.mark.parametrize("number", range(len(CYCLE)), ids=["-".join(kind) for kind in CYCLE])
def test_mask_is_where_the_defect_changes_the_picture(number: int) -> None:
    size = 256
    damaged, sound = damaged_and_sound(number)
    assert damaged.mask is not None
    assert sound.mask is not None
    np.testing.assert_array_equal(damaged.mask, sound.mask)
    change = np.abs(damaged.pixels.astype(int) - sound.pixels.astype(int)).max(axis=2)
    far = ndimage.distance_transform_edt(~damaged.mask) >= 3.0
    assert change[far].max() == 0
    assert np.mean(change[damaged.mask] > 0) > 0.75
    assert change[damaged.mask].mean() > 8
    # The defect lies in one place, covers 0.1 to 3 percent of the picture and touches no border.
    assert 0.001 < damaged.mask.mean() < 0.03
    rows, columns = np.nonzero(damaged.mask)
    assert max(np.ptp(rows), np.ptp(columns)) < 0.4 * size
    assert min(rows.min(), columns.min()) > 0
    assert max(rows.max(), columns.max()) < size - 1


@pytest.mark.parametrize("number", [3, 7])
def test_missing_hole_is_missing_where_the_mask_says(number: int) -> None:
    damaged, sound = damaged_and_sound(number)
    assert damaged.mask is not None
    # A hole shows the dark mat; where it was not drilled there is bright metal.
    assert sound.pixels[damaged.mask].min() < 40
    assert damaged.pixels[damaged.mask].min() > 100


@pytest.mark.parametrize("seed", [1, 2])
def test_every_seed_gives_masks(seed: int) -> None:
    for number in range(6):
        mask = take_photo(number, defective=True, size=128, seed=seed).mask
        assert mask is not None
        assert mask.sum() >= 12


def test_good_parts_are_alike_but_not_the_same() -> None:
    photos = [take_photo(n, defective=False, size=256).pixels.astype(float) for n in range(4)]
    for photo in photos:
        assert photo[:12, :12].mean() < 70  # the mat
        assert 110 < photo[70:180, 48:66].mean() < 210  # the plate's face
        assert photo[122:134, 122:134].mean() < 60  # the bore
        assert np.mean(photo >= 255) < 0.01  # next to nothing is blown out
    correlations = np.corrcoef([photo.ravel() for photo in photos])
    off_diagonal = correlations[~np.eye(4, dtype=bool)]
    assert off_diagonal.min() > 0.85
    assert off_diagonal.max() < 0.9999


def test_the_scene_is_the_same_at_every_size() -> None:
    small = take_photo(0, defective=False, size=128).pixels
    large = Image.fromarray(take_photo(0, defective=False, size=256).pixels)
    reduced = np.asarray(large.resize((128, 128), Image.Resampling.BOX), float)
    assert np.corrcoef(small.ravel(), reduced.ravel())[0, 1] > 0.97


def test_is_fast_enough_for_a_demo() -> None:
    start = perf_counter()
    take_photo(0, defective=False, size=512)
    # It takes about 0.3 s on one core; the demo renders 30 (24 images, 6 of them twice).
    assert perf_counter() - start < 4.0
