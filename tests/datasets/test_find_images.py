"""Finding image files."""

from __future__ import annotations

import json
import os
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from musc_fast.datasets.find_images import find_images
from musc_fast.errors import ImageError, MuscFastWarning


def save(path: Path, array: np.ndarray | None = None, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((4, 6, 3), 90, np.uint8) if array is None else array
    Image.fromarray(pixels).save(path, **options)
    return path


def names(paths: list[Path], root: Path) -> list[str]:
    return [path.relative_to(root).as_posix() for path in paths]


class TestFindImages:
    def test_folders_are_searched_and_natural_sorted(self, tmp_path: Path) -> None:
        for name in ["b10.png", "b2.PNG", "b01.png", "b1.png", "sub10/a.bmp", "sub9/z.jpg"]:
            save(tmp_path / name)
        (tmp_path / "notes.txt").write_text("no image")
        assert names(find_images([tmp_path]), tmp_path) == [
            "b01.png",
            "b1.png",
            "b2.PNG",
            "b10.png",
            "sub9/z.jpg",
            "sub10/a.bmp",
        ]

    def test_hidden_files_and_folders_are_skipped(self, tmp_path: Path) -> None:
        for name in ["._a.png", "a.png", ".cache/b.png", "c/.d.png"]:
            save(tmp_path / name)
        assert names(find_images([tmp_path]), tmp_path) == ["a.png"]

    def test_arguments_keep_their_order_and_repeats_count_once(self, tmp_path: Path) -> None:
        b, a = save(tmp_path / "b.png"), save(tmp_path / "a.png")
        os.symlink(a, tmp_path / "again.png")
        assert find_images([b, tmp_path, a]) == [b, a]

    def test_linked_folders_are_followed_without_looping(self, tmp_path: Path) -> None:
        save(tmp_path / "elsewhere/x.png")
        root = tmp_path / "root"
        root.mkdir()
        os.symlink(tmp_path / "elsewhere", root / "linked")
        os.symlink(root, root / "loop")
        assert names(find_images([root]), root) == ["linked/x.png"]

    def test_a_file_named_explicitly_needs_no_known_suffix(self, tmp_path: Path) -> None:
        odd = save(tmp_path / "frame.dat", format="PNG")
        assert find_images([odd]) == [odd]

    def test_missing_path_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(ImageError, match=r"nowhere: no such file or folder"):
            find_images([tmp_path / "nowhere"])

    def test_empty_folder_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "empty").mkdir()
        with pytest.raises(ImageError, match=r"empty: no images in this folder.*\.png"):
            find_images([tmp_path / "empty"])

    def test_earlier_results_are_not_images(self, tmp_path: Path) -> None:
        for name in ["a.png", "maps/b.png", "out/maps/a.png", "out/overlays/s/a.png", "out/c.png"]:
            save(tmp_path / name)
        save(tmp_path / ".out-earlier-1-abc/maps_grey/a.png")
        (tmp_path / "out/run.json").write_text(json.dumps({"musc_fast": "1"}))
        assert names(find_images([tmp_path]), tmp_path) == ["a.png", "maps/b.png", "out/c.png"]
        assert names(find_images([tmp_path / "out"]), tmp_path) == ["out/c.png"]
        (tmp_path / "out/c.png").unlink()
        with pytest.raises(ImageError, match=r"out: this folder holds results of musc_fast"):
            find_images([tmp_path / "out"])
        (tmp_path / "out/run.json").write_text(json.dumps({"sport": "jogging"}))
        assert names(find_images([tmp_path / "out"]), tmp_path / "out") == [
            "maps/a.png",
            "overlays/s/a.png",
        ]

    def test_what_is_no_regular_file_is_skipped(self, tmp_path: Path) -> None:
        save(tmp_path / "a.png")
        os.mkfifo(tmp_path / "pipe.png")
        os.mkfifo(tmp_path / "run.json")  # reading this pipe would block
        os.symlink(tmp_path / "nowhere.png", tmp_path / "lost.png")
        # A broken link is listed, so that the user hears of the lost image.
        assert names(find_images([tmp_path]), tmp_path) == ["a.png", "lost.png"]
        with pytest.raises(ImageError, match=r"pipe\.png: neither a file nor a folder"):
            find_images([tmp_path / "pipe.png"])


def test_files_not_taken_are_counted_by_kind(tmp_path: Path) -> None:
    for name in ("a.png", "b.HEIC", "deep/c.heic", "deep/d.mp4", "notes", ".hidden.txt"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    kinds = r"^4 files not taken: 2 \.heic, 1 without suffix, 1 \.mp4$"
    with pytest.warns(MuscFastWarning, match=kinds):
        assert find_images([tmp_path]) == [tmp_path / "a.png"]
    with pytest.raises(ImageError, match=r"no images .*; found 1 \.heic, 1 \.mp4\)"):
        find_images([tmp_path / "deep"])
    with warnings.catch_warnings():  # files that are named are not a folder's
        warnings.simplefilter("error")
        find_images([tmp_path / "a.png"])
