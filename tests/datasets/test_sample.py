"""The demo sample: layout, determinism, masks that tell the truth, safety of the folder."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from musc_fast.datasets.sample.draw import SampleImage, draw_sample
from musc_fast.datasets.sample.part import Frame, Pose
from musc_fast.datasets.sample.photo import CYCLE, Photo, take_photo
from musc_fast.errors import ImageError, InputError

SMALL = 128


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[SampleImage]]:
    folder = tmp_path_factory.mktemp("sample")
    return folder, draw_sample(folder, count=11, defects=8, size=SMALL)


def test_layout_is_that_of_mvtec(drawn: tuple[Path, list[SampleImage]]) -> None:
    folder, images = drawn
    names = {path for path in files_of(folder) if path.endswith(".png")}
    kinds = ("scratch", "dent", "stain", "missing_hole")
    assert names == {
        *(f"test/good/{n:03d}.png" for n in range(3)),
        *(f"test/{kind}/{n:03d}.png" for kind in kinds for n in range(2)),
        *(f"ground_truth/{kind}/{n:03d}_mask.png" for kind in kinds for n in range(2)),
    }
    assert [image.label for image in images] == [0] * 3 + [1] * 8
    assert len({image.path for image in images}) == 11
    for image in images:
        if image.label == 0:
            assert image.path.parent.name == "good"
            assert image.mask is None
            assert image.defect is None
        else:
            assert image.defect == image.path.parent.name
            expected = folder / "ground_truth" / image.defect / f"{image.path.stem}_mask.png"
            assert image.mask == expected


def test_files_are_8_bit_and_of_the_size_asked_for(drawn: tuple[Path, list[SampleImage]]) -> None:
    for image in drawn[1]:
        with Image.open(image.path) as picture:
            assert (picture.mode, picture.size) == ("RGB", (SMALL, SMALL))
        if image.mask is not None:
            with Image.open(image.mask) as mask:
                assert (mask.mode, mask.size) == ("L", (SMALL, SMALL))
                values = np.asarray(mask)
            assert set(np.unique(values)) == {0, 255}


def test_same_bytes_again_and_whatever_the_counts(
    drawn: tuple[Path, list[SampleImage]], tmp_path: Path
) -> None:
    before = files_of(drawn[0])
    again = draw_sample(drawn[0], count=11, defects=8, size=SMALL)
    assert again == drawn[1]
    assert files_of(drawn[0]) == before
    draw_sample(tmp_path, count=5, defects=3, size=SMALL)
    fewer = files_of(tmp_path)
    del fewer["sample.json"]
    assert len(fewer) == 5 + 3
    assert all(before[name] == content for name, content in fewer.items())


def test_seed_changes_every_image(drawn: tuple[Path, list[SampleImage]], tmp_path: Path) -> None:
    before = files_of(drawn[0])
    draw_sample(tmp_path, count=4, defects=2, size=SMALL, seed=7)
    other = {name: content for name, content in files_of(tmp_path).items() if "test/" in name}
    assert len(other) == 4
    assert all(before[name] != content for name, content in other.items())


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
    # One place, of moderate size: 0.1 to 3 percent of the picture, and not at its border.
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
        mask = take_photo(number, defective=True, size=SMALL, seed=seed).mask
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


def test_frame_takes_part_axes_to_image_axes() -> None:
    frame = Frame(200, Pose(0.03, -0.02, 0.1, 1.1))
    x, y = frame.to_image(0.4, -0.3)
    column, row = round((x + 1) * 100 - 0.5), round((y + 1) * 100 - 0.5)
    assert frame.u[row, column] == pytest.approx(0.4, abs=0.01)
    assert frame.v[row, column] == pytest.approx(-0.3, abs=0.01)


def test_progress_counts_every_image(tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    draw_sample(
        tmp_path,
        count=3,
        defects=1,
        size=SMALL,
        progress=lambda done, count: calls.append((done, count)),
    )
    assert calls == [(1, 3), (2, 3), (3, 3)]


def test_no_defects_and_nothing_but_defects(tmp_path: Path) -> None:
    assert [i.label for i in draw_sample(tmp_path / "a", count=2, defects=0, size=SMALL)] == [0, 0]
    assert not (tmp_path / "a" / "ground_truth").exists()
    assert [i.label for i in draw_sample(tmp_path / "b", count=2, defects=2, size=SMALL)] == [1, 1]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"count": 4, "defects": 5}, "defects"),
        ({"defects": -1}, "defects"),
        ({"count": 0, "defects": 0}, "count"),
        ({"size": 127}, "size"),
        ({"size": 100_000}, "size"),
        ({"size": 256.0}, "size"),
        ({"seed": -1}, "seed"),
        ({"count": True, "defects": 0}, "count"),
    ],
)
def test_bad_arguments_are_named(tmp_path: Path, arguments: dict[str, Any], named: str) -> None:
    with pytest.raises(InputError, match=f"^{named}: found"):
        draw_sample(tmp_path / "out", **arguments)
    assert not (tmp_path / "out").exists()


def test_images_of_others_are_never_replaced(tmp_path: Path) -> None:
    own = tmp_path / "test" / "good" / "000.png"
    own.parent.mkdir(parents=True)
    own.write_bytes(b"mine")
    with pytest.raises(ImageError, match=r"000\.png: not drawn by the demo"):
        draw_sample(tmp_path, count=2, defects=1, size=SMALL)
    assert files_of(tmp_path) == {"test/good/000.png": b"mine"}


def test_drawing_fewer_removes_the_rest_and_nothing_else(tmp_path: Path) -> None:
    draw_sample(tmp_path, count=5, defects=2, size=SMALL)
    (tmp_path / "notes.txt").write_text("mine")
    draw_sample(tmp_path, count=2, defects=1, size=SMALL)
    assert set(files_of(tmp_path)) == {
        "notes.txt",
        "sample.json",
        "test/good/000.png",
        "test/scratch/000.png",
        "ground_truth/scratch/000_mask.png",
    }


def test_a_listing_cannot_name_files_outside(tmp_path: Path) -> None:
    victim = tmp_path / "victim.png"
    victim.write_bytes(b"mine")
    folder = tmp_path / "sample"
    folder.mkdir()
    listing = folder / "sample.json"
    listing.write_text(json.dumps({"files": ["../victim.png", "test/good/../../../victim.png"]}))
    draw_sample(folder, count=1, defects=0, size=SMALL)
    assert victim.read_bytes() == b"mine"
    listing.write_text("{}")
    with pytest.raises(ImageError, match=r"sample\.json"):
        draw_sample(folder, count=1, defects=0, size=SMALL)


def test_an_interrupted_drawing_is_finished_by_the_next(
    drawn: tuple[Path, list[SampleImage]], tmp_path: Path
) -> None:
    def stop(done: int, count: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        draw_sample(tmp_path, count=4, defects=3, size=SMALL, progress=stop)
    whole, part = files_of(drawn[0]), files_of(tmp_path)
    names = {"test/good/000.png", "test/scratch/000.png", "ground_truth/scratch/000_mask.png"}
    assert set(part) == {*names, "sample.json"}
    assert all(whole[name] == part[name] for name in names)
    images = draw_sample(tmp_path, count=4, defects=3, size=SMALL)
    files = files_of(tmp_path)
    assert len(files) == 4 + 3 + 1
    for image in images:
        name = image.path.relative_to(tmp_path).as_posix()
        assert files[name] == whole[name]


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ImageError, match=r"file/sample\.json: cannot be (written|read)"):
        draw_sample(tmp_path / "file", count=1, defects=0, size=SMALL)


def test_is_fast_enough_for_a_demo() -> None:
    start = perf_counter()
    take_photo(0, defective=False, size=512)
    # About 0.3 s on one core; 24 images, 6 of them rendered twice, must stay under a minute or two.
    assert perf_counter() - start < 4.0
