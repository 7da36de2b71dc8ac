"""Heat maps: one scale a batch, colours that grow evenly lighter, overlays of the right size."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from musc_fast.errors import InputError
from musc_fast.report.heatmap import (
    Scale,
    colour_table,
    grey_map,
    hatch,
    heat_layer,
    heat_map,
    overlay,
    panel,
    scale_of,
)


def lightness(colours: np.ndarray) -> np.ndarray:
    """CIE L* of sRGB colours, another scale than OKLab, with which the table is made."""
    c = colours / 255
    linear = np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)
    y = linear @ [0.2126, 0.7152, 0.0722]
    return 116 * np.where(y > 0.008856, np.cbrt(y), 7.787 * y + 16 / 116) - 16


def test_colours_grow_evenly_lighter() -> None:
    steps = np.diff(lightness(colour_table())[::15])
    assert steps.min() > 0
    assert steps.max() < 2.2 * steps.mean()
    assert lightness(colour_table())[[0, -1]] @ [-1, 1] > 80


def test_one_scale_for_a_batch() -> None:
    maps = np.array([[[0.2, 0.4]], [[0.4, 0.8]]], dtype=np.float32)
    scale = Scale.of(maps)
    assert (scale.low, scale.high) == (np.float32(0.2), np.float32(0.8))
    grey = [np.asarray(grey_map(m, scale, (1, 2))) for m in maps]
    np.testing.assert_array_equal(grey, [[[0, 85]], [[85, 255]]])
    colours = np.asarray(heat_map(maps[1], scale, (1, 2)))
    np.testing.assert_array_equal(colours, colour_table()[[[85, 255]]])


def test_a_constant_batch_is_all_low() -> None:
    maps = np.full((2, 3, 3), 0.5, dtype=np.float32)
    assert not np.asarray(grey_map(maps[0], Scale.of(maps), (6, 6))).any()


def test_overlay_marks_the_high_place_and_keeps_the_image_size() -> None:
    image = Image.new("RGB", (90, 60), (40, 90, 160))
    scores = np.zeros((6, 9), dtype=np.float32)
    scores[1, 7] = 1
    mixed = np.asarray(overlay(image, scores, Scale(0, 1)), dtype=int)
    assert mixed.shape == (60, 90, 3)
    brightest = np.unravel_index(mixed.sum(axis=2).argmax(), (60, 90))
    assert 10 <= brightest[0] < 20
    assert 70 <= brightest[1] < 80
    # the untouched part still shows the image as grey levels, a little darker
    assert np.ptp(mixed[40, 20]) < 30


def test_panel_holds_image_overlay_and_bar() -> None:
    image = Image.new("RGB", (100, 200), (10, 200, 30))
    picture = panel(image, np.eye(4, dtype=np.float32), Scale(0, 1), "part 7", height=300)
    assert picture.width > 2 * 150 + 18
    pixels = np.asarray(picture)
    assert (pixels[150, 60] == (10, 200, 30)).all()  # the original is beside the overlay


@pytest.mark.parametrize("size", [(200, 5000), (5000, 200), (60, 4000), (4000, 60)])
def test_long_images_are_shown_wide_enough_to_see(size: tuple[int, int]) -> None:
    image = Image.new("RGB", size, (10, 200, 30))
    scores = np.zeros((20, 20), dtype=np.float32)
    picture = panel(image, scores, Scale(0, 1), "line")
    shown = (np.asarray(picture) == (10, 200, 30)).all(axis=2)
    rows, columns = np.flatnonzero(shown.any(axis=1)), np.flatnonzero(shown.any(axis=0))
    sides = columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1
    assert min(sides) >= min(160, 2400 * min(size) // max(size))
    assert max(sides) == 2400
    assert max(picture.size) < 2700
    assert min(picture.size) > 2 * min(sides)  # the overlay is beside or below


def test_a_scale_that_does_not_shout() -> None:
    maps = np.random.default_rng(0).random((4, 9, 9)).astype(np.float32)
    for kind in ("batch", "image"):
        loud, calm = scale_of(maps, kind), scale_of(maps, kind, calm=True)
        for index, anomaly_map in enumerate(maps):
            assert calm(index).low == loud(index).low
            levels = np.asarray(grey_map(anomaly_map, calm(index), (9, 9)))
            assert levels.max() <= 128
            assert kind == "batch" or levels.max() >= 127


def test_heat_layer_over_grey_is_the_overlay() -> None:
    image = Image.effect_mandelbrot((96, 64), (-2, -1.5, 1, 1.5), 50).convert("RGB")
    scores = np.random.default_rng(0).random((64, 96)).astype(np.float32)
    layer = heat_layer(scores, Scale(0, 1), 96)
    assert (layer.mode, layer.size) == ("RGBA", (96, 64))
    mixed = image.convert("L").convert("RGBA")
    mixed.alpha_composite(layer)
    whole = np.asarray(overlay(image, scores, Scale(0, 1)), dtype=int)
    assert np.abs(np.asarray(mixed, dtype=int)[..., :3] - whole).max() <= 2
    assert heat_layer(scores, Scale(0, 1), 48).size == (48, 32)


def test_scale_of_an_image_or_the_batch() -> None:
    maps = np.array([[[0.2, 0.4]], [[0.4, 0.8]]], dtype=np.float32)
    assert scale_of(maps, "batch")(0) == Scale.of(maps)
    assert scale_of(maps, "image")(0) == Scale.of(maps[0])
    with pytest.raises(InputError, match="map_scale: found 'none'"):
        scale_of(maps, "none")  # type: ignore[arg-type]


def test_what_is_not_scored_has_no_say_in_the_scale_and_is_hatched() -> None:
    maps = np.full((2, 4, 6), 0.3, dtype=np.float32)
    maps[1, 2, 5], maps[:, :, :2] = 0.9, 0.0
    ignored = np.zeros((4, 6), dtype=np.bool_)
    ignored[:, :2] = True
    assert Scale.of(maps[1], ignored) == Scale(pytest.approx(0.3), pytest.approx(0.9))
    batch = scale_of(maps, "batch", ignored=lambda index: ignored)(0)
    assert batch == Scale(pytest.approx(0.3), pytest.approx(0.9))
    assert scale_of(maps, "batch", ignored=lambda index: None)(0).low == 0
    assert scale_of(maps, "image", ignored=lambda index: ignored)(0).high == pytest.approx(0.3)
    picture = Image.new("RGB", (600, 400), (250, 0, 0))
    hatch(picture, None)
    assert np.unique(np.asarray(picture).reshape(-1, 3), axis=0).tolist() == [[250, 0, 0]]
    hatch(picture, ignored)
    pixels = np.asarray(picture)
    assert np.unique(pixels[:, :200].reshape(-1, 3), axis=0).tolist() == [[90] * 3, [190] * 3]
    assert (pixels[:, 200:] == (250, 0, 0)).all()
