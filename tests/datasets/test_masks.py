"""Ground-truth masks: every kind of label that data sets hold is read as defect and background."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter

from musc_fast.datasets.masks import read_mask
from musc_fast.errors import ImageError


def save(path: Path, array: np.ndarray, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)
    return path


class TestReadMask:
    def test_above_half_of_white(self, tmp_path: Path) -> None:
        grey = np.array([[0, 127, 128, 255]], np.uint8)
        path = save(tmp_path / "m.png", grey)
        assert read_mask(path).tolist() == [[False, False, True, True]]
        wide = save(tmp_path / "w.png", grey.astype(np.uint16) * 257)
        assert read_mask(wide).tolist() == [[False, False, True, True]]

    @pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
    def test_defect_classes_on_black(self, tmp_path: Path, dtype: type) -> None:
        path = save(tmp_path / "m.png", np.array([[0, 1, 0, 3]], dtype))
        assert read_mask(path).tolist() == [[False, True, False, True]]

    def test_palette_colours_other_than_black(self, tmp_path: Path) -> None:
        image = Image.new("P", (3, 1))
        image.putpalette([0, 0, 0, 128, 0, 0, 255, 255, 255])
        image.putdata([0, 1, 2])
        image.save(tmp_path / "m.png")
        assert read_mask(tmp_path / "m.png").tolist() == [[False, True, True]]

    def test_all_black_is_empty(self, tmp_path: Path) -> None:
        mask = read_mask(save(tmp_path / "m.png", np.zeros((3, 5), np.uint8)))
        assert mask.shape == (3, 5)
        assert mask.dtype == np.bool_
        assert not mask.any()

    def test_resize_is_pillows_nearest_neighbour_then_threshold(self, tmp_path: Path) -> None:
        grey = np.random.default_rng(2).integers(0, 256, (37, 53), dtype=np.uint8)
        path = save(tmp_path / "m.png", grey)
        for size in [(28, 42), (74, 53), (50, 20)]:
            resized = Image.fromarray(grey).resize(size[::-1], Image.Resampling.NEAREST)
            mask = read_mask(path, size)
            assert mask.shape == size
            np.testing.assert_array_equal(mask, np.asarray(resized) > 127)

    def test_folder_is_the_union(self, tmp_path: Path) -> None:
        folder = tmp_path / "000"
        save(folder / "000.png", np.array([[255, 0, 0]], np.uint8))
        save(folder / "001.png", np.array([[0, 0, 2]], np.uint8))
        assert read_mask(folder).tolist() == [[True, False, True]]
        save(folder / "002.png", np.zeros((2, 2), np.uint8))
        with pytest.raises(ImageError, match=r"002\.png: mask is 2 x 2, but .*000\.png"):
            read_mask(folder)

    def test_errors_name_the_file(self, tmp_path: Path) -> None:
        (tmp_path / "empty").mkdir()
        with pytest.raises(ImageError, match="empty: no masks"):
            read_mask(tmp_path / "empty")
        with pytest.raises(ImageError, match=r"m\.png: no such file"):
            read_mask(tmp_path / "m.png")


def classes(*levels: int, dtype: type = np.uint8) -> np.ndarray:
    """A picture [50, 60] with a rectangle of 100 pixels of each level on black."""
    picture = np.zeros((50, 60), dtype)
    for k, level in enumerate(levels):
        picture[5 + 12 * k : 15 + 12 * k, 20:30] = level
    return picture


class TestClasses:
    def test_colours(self, tmp_path: Path) -> None:
        pixels = np.zeros((50, 60, 3), np.uint8)
        pixels[5:15, 20:30] = (255, 0, 0)
        pixels[17:27, 20:30] = (0, 255, 0)
        pixels[29:39, 20:30] = (0, 0, 128)
        assert read_mask(save(tmp_path / "m.png", pixels)).sum() == 300

    @pytest.mark.parametrize("levels", [(64, 192), (64, 192, 255), (1, 2), (255, 254), (1, 255)])
    def test_levels(self, tmp_path: Path, levels: tuple[int, ...]) -> None:
        mask = read_mask(save(tmp_path / "m.png", classes(*levels)))
        np.testing.assert_array_equal(mask, classes(*levels) > 0)

    def test_numbers_up_to_200(self, tmp_path: Path) -> None:
        pixels = np.zeros((41, 41), np.uint8)
        pixels[1::2, 1::2].flat[:200] = np.arange(1, 201)
        assert read_mask(save(tmp_path / "a.png", pixels)).sum() == 200
        row = np.zeros((3, 210), np.uint8)
        row[1, :200] = np.arange(1, 201)
        assert read_mask(save(tmp_path / "b.png", row)).sum() == 200

    def test_numbers_in_16_bits_and_a_palette_of_black(self, tmp_path: Path) -> None:
        mask = read_mask(save(tmp_path / "a.png", classes(300, 40000, dtype=np.uint16)))
        assert mask.sum() == 200
        palette = Image.fromarray(classes(1, 2)).convert("P")
        palette.putpalette([0] * 768)
        palette.save(tmp_path / "b.png")
        assert read_mask(tmp_path / "b.png").sum() == 200

    @pytest.mark.parametrize("defect", [(255, 255, 255, 255), (255, 0, 0, 255), (0, 0, 0, 255)])
    def test_transparent_white_is_background(self, tmp_path: Path, defect: tuple[int, ...]) -> None:
        pixels = np.full((50, 60, 4), (255, 255, 255, 0), np.uint8)
        pixels[5:15, 20:30] = defect
        assert read_mask(save(tmp_path / "m.png", pixels)).sum() == 100

    def test_alpha_alone(self, tmp_path: Path) -> None:
        pixels = np.zeros((50, 60, 4), np.uint8)
        pixels[5:15, 20:30, 3] = 255
        assert read_mask(save(tmp_path / "m.png", pixels)).sum() == 100


def drawn(scale: int = 1) -> Image.Image:
    picture = Image.new("L", (400 * scale, 300 * scale))
    draw = ImageDraw.Draw(picture)
    for x, y, w, h in ((20, 30, 90, 50), (200, 40, 30, 120), (150, 220, 120, 40), (320, 250, 9, 9)):
        draw.ellipse([scale * v for v in (x, y, x + w, y + h)], fill=255)
    draw.line([scale * v for v in (10, 10, 380, 270)], fill=255, width=2 * scale)
    return picture


def soft_edges() -> dict[str, Image.Image]:
    hard = drawn()
    found = {
        "anti-aliased": drawn(4).resize((400, 300), Image.Resampling.LANCZOS),
        "box": drawn(4).resize((400, 300), Image.Resampling.BOX),
        "brush": hard.filter(ImageFilter.GaussianBlur(3)),
    }
    for quality in (60, 75, 90, 95):
        data = io.BytesIO()
        hard.save(data, "JPEG", quality=quality)
        found[f"JPEG {quality}"] = Image.open(data).copy()
    return found


@pytest.mark.parametrize("kind", soft_edges())
def test_soft_edges_are_cut_at_half(tmp_path: Path, kind: str) -> None:
    picture = soft_edges()[kind]
    picture.save(tmp_path / "m.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "m.png"), np.asarray(picture) > 127)
