"""Pictures of more than 8 bits a channel: the right values, and one white level a batch."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from PIL import ExifTags, Image

from musc_fast.datasets.deep import USUAL_WHITES, DeepImage
from musc_fast.datasets.read_images import image_size, read_image, read_picture, white_level
from musc_fast.errors import ImageError, InputError
from musc_fast.settings import ReadSettings

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 65536, (5, 7)).astype(np.uint16)
RGB = RNG.integers(0, 65536, (5, 7, 3)).astype(np.uint16)


def deep(path: Path) -> DeepImage:
    picture, _ = read_picture(path)
    assert isinstance(picture, DeepImage)
    assert image_size(path) == picture.size
    return picture


def png(path: Path, values: np.ndarray) -> Path:
    path.write_bytes(imagecodecs.png_encode(values))
    return path


def packed_12_bit_tiff(path: Path, values: np.ndarray) -> Path:
    """An uncompressed grey TIFF with BitsPerSample = 12, written byte by byte (TIFF 6.0)."""
    height, width = values.shape
    data = b"".join(
        bytes([a >> 4, (a & 15) << 4 | b >> 8, b & 255])
        for row in values
        for a, b in row.reshape(-1, 2).tolist()
    )
    entries = [(256, width), (257, height), (258, 12), (259, 1), (262, 1), (273, 8), (277, 1)]
    entries += [(278, height), (279, len(data))]
    directory = struct.pack("<H", len(entries)) + b"".join(
        struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries
    )
    head = struct.pack("<2sHI", b"II", 42, 8 + len(data))
    path.write_bytes(head + data + directory + struct.pack("<I", 0))
    return path


@pytest.mark.parametrize("values", [GREY, RGB], ids=["grey", "rgb"])
def test_every_file_of_16_bits_keeps_every_bit(tmp_path: Path, values: np.ndarray) -> None:
    files = {"a.png": png(tmp_path / "a.png", values)}
    colour = "rgb" if values.ndim == 3 else "minisblack"
    for name, options in {
        "plain.tif": {},
        "lzw.tif": {"compression": "lzw"},
        "deflate.tif": {"compression": "zlib", "predictor": True},
        "big.tif": {"byteorder": ">", "bigtiff": True},
    }.items():
        files[name] = tmp_path / name
        tifffile.imwrite(files[name], values, photometric=colour, **options)
    files["netpbm"] = tmp_path / ("a.ppm" if values.ndim == 3 else "a.pgm")
    mark = b"P6" if values.ndim == 3 else b"P5"
    files["netpbm"].write_bytes(mark + b"\n# made\n7 5\n65535\n" + values.astype(">u2").tobytes())
    files["jp2"] = tmp_path / "a.jp2"
    files["jp2"].write_bytes(imagecodecs.jpeg2k_encode(values, level=0, reversible=True))
    for file in files.values():
        picture = deep(file)
        np.testing.assert_array_equal(picture.values, values, err_msg=file.name)
        assert picture.white is None


def test_planar_colour_is_not_scrambled(tmp_path: Path) -> None:
    path = tmp_path / "planar.tif"
    planes = np.moveaxis(RGB, 2, 0)
    tifffile.imwrite(path, planes, photometric="rgb", planarconfig="separate")
    np.testing.assert_array_equal(deep(path).values, RGB)
    expected = np.rint(RGB / 257).astype(np.uint8)
    np.testing.assert_array_equal(np.asarray(read_image(path, white=65535)), expected)
    shallow = tmp_path / "planar8.tif"
    tifffile.imwrite(
        shallow, np.moveaxis(expected, 2, 0), photometric="rgb", planarconfig="separate"
    )
    np.testing.assert_array_equal(np.asarray(read_image(shallow)), expected)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_white_is_zero(tmp_path: Path, dtype: type) -> None:
    top = np.iinfo(dtype).max
    values = np.array([[0, top // 3, top]], dtype)
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="miniswhite")
    found = np.asarray(read_image(tmp_path / "a.tif", white=float(top)))[..., 0]
    assert found.tolist() == [[255, 170, 0]]


def test_the_header_says_white(tmp_path: Path) -> None:
    values = (GREY[:4, :6] // 16).astype(np.uint16)
    path = packed_12_bit_tiff(tmp_path / "a.tif", values)
    np.testing.assert_array_equal(deep(path).values, values)
    assert white_level([path]) == (4095, "")
    pgm = tmp_path / "a.pgm"
    pgm.write_bytes(b"P5\n7 5\n1023\n" + (GREY // 64).astype(">u2").tobytes())
    assert white_level([pgm]) == (1023, "")
    np.testing.assert_array_equal(
        np.asarray(read_image(pgm))[..., 0], np.rint(GREY // 64 / 1023 * 255)
    )
    jp2 = tmp_path / "a.jp2"
    jp2.write_bytes(
        imagecodecs.jpeg2k_encode(GREY // 16, level=0, reversible=True, bitspersample=12)
    )
    assert deep(jp2).values.max() <= 4095
    assert white_level([jp2, path]) == (4095, "")
    with pytest.raises(InputError, match=r"different levels: 1023 \(.*a\.pgm\), 4095 \(.*a\.tif"):
        white_level([path, pgm])
    bright = png(tmp_path / "bright.png", GREY)
    with pytest.raises(InputError, match=r"a\.tif states 4095, .*bright\.png holds values up to"):
        white_level([path, bright])
    assert white_level([path, bright], ReadSettings(white=65535)) == (65535, "")


@pytest.mark.parametrize("bits", [10, 12, 14, 16])
def test_the_batch_decides_where_headers_are_silent(tmp_path: Path, bits: int) -> None:
    white = 2**bits - 1
    bright = png(tmp_path / "bright.png", np.array([[white * 4 // 5, 3]], np.uint16))
    dark = png(tmp_path / "dark.png", np.array([[9, 3]], np.uint16))
    eight = tmp_path / "eight.png"
    Image.new("L", (2, 1), 77).save(eight)
    level, note = white_level([dark, eight, bright])
    assert level == white
    assert (f"{white} is taken for white" in note) == (bits < 16)
    shown = np.asarray(read_image(bright, white=level))[0, 0]
    assert shown.tolist() == [204] * 3
    assert np.asarray(read_image(eight, white=level))[0, 0].tolist() == [77] * 3
    assert white_level([eight]) == (None, "")


@given(st.lists(st.integers(0, 65535), min_size=1, max_size=9))
def test_the_level_is_the_smallest_that_holds_all(maxima: list[int]) -> None:
    images = [DeepImage(np.array([[value, 0]], np.uint16)) for value in maxima]
    level, _ = white_level(images)
    assert level == min(w for w in USUAL_WHITES if w >= max(maxima))
    for image in images:
        assert 0 <= image.unit(level).min() <= image.unit(level).max() <= 1


def test_values_above_white_are_refused_not_cut(tmp_path: Path) -> None:
    path = png(tmp_path / "a.png", np.array([[5000, 0]], np.uint16))
    with pytest.raises(ImageError, match=r"a\.png: its values, 0 to 5000, exceed .* 4095"):
        read_image(path, ReadSettings(white=4095))
    signed = tmp_path / "s.tif"
    tifffile.imwrite(signed, np.array([[-1, 5]], np.int16))
    with pytest.raises(ImageError, match=r"s\.tif: its values, -1 to 5"):
        read_image(signed)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("shape", [(4, 6), (4, 6, 3)])
def test_floats_need_a_white_level(tmp_path: Path, dtype: type, shape: tuple[int, ...]) -> None:
    values = RNG.random(shape).astype(dtype)
    path = tmp_path / "f.tif"
    tifffile.imwrite(path, values, photometric="rgb" if len(shape) == 3 else "minisblack")
    with pytest.raises(ImageError, match=r"f\.tif: its floating-point pixels .*--white"):
        read_image(path)
    found = np.asarray(read_image(path, ReadSettings(white=1.0)))
    expected = np.rint(values.astype(np.float32) * 255).reshape(4, 6, -1)
    np.testing.assert_array_equal(found, np.broadcast_to(expected, (4, 6, 3)))
    with pytest.raises(InputError, match=r"f\.tif holds floating-point numbers .*, others 16 bits"):
        white_level([path, png(tmp_path / "a.png", GREY)])


def test_other_kinds_of_deep_tiff_are_refused_by_name(tmp_path: Path) -> None:
    for name, values, options in [
        ("cmyk", np.zeros((4, 6, 4), np.uint16), {"photometric": "separated"}),
        ("cfa", np.zeros((4, 6), np.uint16), {"photometric": "cfa"}),
    ]:
        tifffile.imwrite(tmp_path / f"{name}.tif", values, **options)
        with pytest.raises(ImageError, match=rf"{name}\.tif: its pixels are .* neither grey nor"):
            read_image(tmp_path / f"{name}.tif")


def test_orientation_alpha_and_a_fourth_band(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, RGB, photometric="rgb", extratags=[(274, "H", 1, 6, True)])
    np.testing.assert_array_equal(deep(path).values, np.rot90(RGB, -1))
    assert image_size(path) == (7, 5)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    Image.fromarray(GREY).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(deep(tmp_path / "a.png").values, np.rot90(GREY, -1))

    band = np.dstack([RGB, GREY])
    tifffile.imwrite(path, band, photometric="rgb", extrasamples=["unspecified"])
    np.testing.assert_array_equal(deep(path).values, RGB)
    assert deep(path).alpha is None
    band[..., 3] = 65535
    band[:2, :, 3] = 0
    picture = deep(png(tmp_path / "alpha.png", band))
    assert (picture.unit(65535)[:2] == 1).all()
    np.testing.assert_allclose(picture.unit(65535)[2:], RGB[2:] / np.float32(65535))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_channels_besides_the_colours_are_left_out_and_said(
    tmp_path: Path, dtype: type, planar: str
) -> None:
    """Satellite and multispectral files: red, green, blue and more bands; or bands of grey."""
    path = tmp_path / "a.tif"
    bands = RNG.integers(0, np.iinfo(dtype).max, (6, 8, 5)).astype(dtype)
    for colours, photometric in ((3, "rgb"), (1, "minisblack")):
        values = bands if planar == "contig" else np.moveaxis(bands, 2, 0)
        extra = ["unspecified"] * (5 - colours)
        tifffile.imwrite(
            path, values, photometric=photometric, planarconfig=planar, extrasamples=extra
        )
        picture, notes = read_picture(path)
        assert ["besides its colours" in note for note in notes] == [True]
        found = picture.values if isinstance(picture, DeepImage) else np.asarray(picture)
        found = found.reshape(6, 8, -1)[:, :, :colours]  # RGB of 8 bits repeats the grey
        np.testing.assert_array_equal(found, bands[:, :, :colours])


def test_damaged_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, RGB, photometric="rgb")
    path.write_bytes(path.read_bytes()[:-60])
    with pytest.raises(ImageError, match=r"a\.tif: "):
        read_image(path)
    cut = png(tmp_path / "a.png", RGB)
    data = cut.read_bytes()
    assert zlib.crc32(data)
    cut.write_bytes(data[: len(data) // 2])
    with pytest.raises(ImageError, match=r"a\.png: "):
        read_image(cut)
    pgm = tmp_path / "a.pgm"
    pgm.write_bytes(b"P5\n7 5\n65535\n" + bytes(20))
    with pytest.raises(ImageError, match=r"a\.pgm: image file is truncated"):
        read_image(pgm)
