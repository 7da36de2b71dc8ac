from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image

from musc_fast.datasets.read_images import image_size, read_image, read_picture, to_rgb
from musc_fast.errors import ImageError
from musc_fast.settings import ReadSettings


def save(path: Path, array: np.ndarray | None = None, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((4, 6, 3), 90, np.uint8) if array is None else array
    Image.fromarray(pixels).save(path, **options)
    return path


def names(paths: list[Path], root: Path) -> list[str]:
    return [path.relative_to(root).as_posix() for path in paths]


class TestReadImage:
    def test_rgb_is_unchanged(self, tmp_path: Path) -> None:
        pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
        image = read_image(save(tmp_path / "a.png", pixels))
        assert image.mode == "RGB"
        np.testing.assert_array_equal(np.asarray(image), pixels)

    @pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
    def test_exif_orientation_is_applied(self, tmp_path: Path, suffix: str) -> None:
        pixels = np.zeros((24, 40, 3), np.uint8)
        pixels[:12, :20] = 255  # top left corner is white
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = 6  # shown turned clockwise: white moves to top right
        path = save(tmp_path / f"a.{suffix}", pixels, exif=exif)
        shown = np.asarray(read_image(path)).mean(axis=-1) > 128
        assert shown.shape == (40, 24) == image_size(path)
        expected = np.zeros((40, 24), bool)
        expected[:20, 12:] = True
        assert (shown == expected).mean() > 0.95  # JPEG and WebP blur the edge

    @pytest.mark.parametrize("orientation", range(1, 9))
    @pytest.mark.parametrize("compression", [None, "tiff_lzw"])
    def test_grey_tiffs_are_upright(
        self, tmp_path: Path, orientation: int, compression: str | None
    ) -> None:
        pixels = np.arange(6 * 10, dtype=np.uint8).reshape(6, 10)
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = orientation
        path = save(tmp_path / "a.tif", pixels, exif=exif, compression=compression)
        upright = {
            1: pixels,
            2: pixels[:, ::-1],
            3: pixels[::-1, ::-1],
            4: pixels[::-1],
            5: pixels.T,
            6: pixels[::-1].T,
            7: pixels[::-1, ::-1].T,
            8: pixels.T[::-1],
        }[orientation]
        np.testing.assert_array_equal(np.asarray(read_image(path))[:, :, 0], upright)
        assert image_size(path) == upright.shape

    @pytest.mark.parametrize("suffix", ["png", "tif"])
    def test_16_bit_grey_is_scaled_not_clipped(self, tmp_path: Path, suffix: str) -> None:
        grey = np.array([[0, 128, 129, 257], [32767, 32768, 65278, 65535]], np.uint16)
        image = read_image(save(tmp_path / f"a.{suffix}", grey))
        expected = np.round(grey / 257).astype(np.uint8)
        np.testing.assert_array_equal(np.asarray(image), np.stack([expected] * 3, axis=-1))

    def test_palette_grey_bilevel(self, tmp_path: Path) -> None:
        pixels = np.zeros((4, 4, 3), np.uint8)
        pixels[:2] = (200, 10, 30)
        palette = tmp_path / "p.png"
        Image.fromarray(pixels).convert("P", palette=Image.Palette.ADAPTIVE).save(palette)
        np.testing.assert_array_equal(np.asarray(read_image(palette)), pixels)
        grey = np.arange(16, dtype=np.uint8).reshape(4, 4)
        np.testing.assert_array_equal(
            np.asarray(read_image(save(tmp_path / "l.png", grey)))[..., 2], grey
        )
        bilevel = save(tmp_path / "1.png", grey > 7)
        assert np.unique(np.asarray(read_image(bilevel))).tolist() == [0, 255]

    @pytest.mark.parametrize("mode", ["RGBA", "LA", "La", "RGBa", "P"])
    def test_transparent_pixels_are_laid_on_white(self, mode: str) -> None:
        image = Image.new("RGBA", (2, 1), (40, 40, 40, 255))
        image.putpixel((1, 0), (40, 40, 40, 0))
        if mode == "P":
            converted = image.quantize()
            converted.info["transparency"] = bytes(
                {True: 0, False: 255}[converted.getpixel((1, 0)) == index] for index in range(256)
            )
        else:
            path = {"La": ["LA", "La"], "LA": ["LA"], "RGBa": ["RGBa"], "RGBA": []}[mode]
            converted = image
            for step in path:
                converted = converted.convert(step)
        assert converted.mode == mode
        assert np.asarray(to_rgb(converted)).tolist() == [[[40] * 3, [255] * 3]]

    def test_cmyk(self, tmp_path: Path) -> None:
        path = tmp_path / "a.tif"
        Image.new("CMYK", (2, 2), (0, 255, 255, 0)).save(path)
        assert np.asarray(read_image(path))[0, 0].tolist() == [255, 0, 0]

    def test_first_frame_of_several(self, tmp_path: Path) -> None:
        path = tmp_path / "a.tif"
        frames = [Image.new("RGB", (2, 2), colour) for colour in ("red", "blue")]
        frames[0].save(path, save_all=True, append_images=frames[1:])
        assert np.asarray(read_image(path))[0, 0].tolist() == [255, 0, 0]

    def test_pixels_without_a_white_level_are_refused(self, tmp_path: Path) -> None:
        floats = save(tmp_path / "f.tif", np.ones((2, 2), np.float32))
        with pytest.raises(ImageError, match=r"f\.tif: its floating-point pixels"):
            read_image(floats)
        wide = save(tmp_path / "i.tif", np.full((2, 2), 70000, np.int32))
        with pytest.raises(ImageError, match=r"i\.tif: its integer .*70000, which exceed 16"):
            read_image(wide)

    @pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "tif", "webp"])
    def test_truncated_file_is_named(self, tmp_path: Path, suffix: str) -> None:
        noise = np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        path = save(tmp_path / f"cut.{suffix}", noise)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        with pytest.raises(ImageError, match=rf"cut\.{suffix}: "):
            read_image(path)

    def test_bad_files_are_named_with_the_reason(self, tmp_path: Path) -> None:
        (tmp_path / "text.png").write_text("hello")
        (tmp_path / "empty.jpg").touch()
        for name in ("text.png", "empty.jpg"):
            with pytest.raises(ImageError, match=rf"{name}: not an image"):
                read_image(tmp_path / name)
        with pytest.raises(ImageError, match=r"gone\.png: no such file"):
            read_image(tmp_path / "gone.png")
        with pytest.raises(ImageError, match=rf"{tmp_path.name}: cannot be read \(Is a directory"):
            read_image(tmp_path)

    def test_pictures_above_the_limit_are_allowed_by_an_option(self, tmp_path: Path) -> None:
        line = tmp_path / "line.png"
        Image.new("1", (20_000, 10_000)).save(line)  # 200 megapixels, small as a file
        with pytest.raises(ImageError, match=r"line\.png: has 200 megapixels, .*max-pixels"):
            read_picture(line)
        with pytest.raises(ImageError, match=r"200 megapixels"):
            image_size(line)
        assert image_size(line, ReadSettings(max_pixels=200_000_000)) == (10_000, 20_000)
        Image.new("1", (9_500, 9_500)).save(line)  # where Pillow alone would warn
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert image_size(line) == (9_500, 9_500)
            assert read_picture(line, ReadSettings(max_pixels=10**8))[1] == ()

    def test_alpha_that_is_no_transparency_is_left_out_and_said(self, tmp_path: Path) -> None:
        rng = np.random.default_rng(3)
        pixels = rng.integers(0, 200, (20, 30, 4), dtype=np.uint8)
        for name, alpha in (("empty", 0), ("infrared", rng.integers(1, 200, (20, 30)))):
            pixels[..., 3] = alpha
            image, notes = read_picture(save(tmp_path / f"{name}.png", pixels))
            np.testing.assert_array_equal(np.asarray(image), pixels[..., :3])
            assert len(notes) == 1
        soft = pixels.copy()
        soft[..., 3] = 255
        soft[:4, :, 3] = 0
        soft[4, :, 3] = 100  # a soft edge is transparency
        image, notes = read_picture(save(tmp_path / "cut.png", soft))
        assert notes == ()
        assert (np.asarray(image)[:4] == 255).all()
        np.testing.assert_array_equal(np.asarray(image)[5:], soft[5:, :, :3])

    @pytest.mark.parametrize("name", ["a.tif", "a.gif", "a.png"])
    def test_pages_left_out_are_said(self, tmp_path: Path, name: str) -> None:
        frames = [Image.new("RGB", (2, 2), colour) for colour in ("red", "blue")]
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
        image, notes = read_picture(tmp_path / name)
        assert np.asarray(image)[0, 0].tolist() == [255, 0, 0]
        assert ["several pages" in note for note in notes] == [True]
