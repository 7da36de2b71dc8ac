"""Writing the demo sample: layout, determinism, and the safety of the folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from musc_fast.datasets.sample.draw import SampleImage, draw_sample
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
