"""Labels beside photos, as data sets keep them: left out of a batch, and said to be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from musc_fast.datasets.find_images import find_images
from musc_fast.datasets.label_files import looks_like_label, split_labels, without_ending
from musc_fast.errors import ImageError, MuscFastWarning


def photo(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    Image.fromarray(rng.integers(60, 190, (40, 50), dtype=np.uint8)).save(path)
    return path


def label(path: Path, *, soft: bool = False, level: int = 255) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.zeros((40, 50), np.uint8)
    pixels[5:15, 9:30] = level
    picture = Image.fromarray(pixels)
    (picture.filter(ImageFilter.GaussianBlur(0.7)) if soft else picture).save(path)
    return path


def found(root: Path) -> list[str]:
    with pytest.warns(MuscFastWarning, match="left out as labels") as said:
        files = find_images([root])
    assert len(said) == 1
    return [file.relative_to(root).as_posix() for file in files]


@pytest.mark.parametrize(
    ("photos", "labels"),
    [
        (
            ["kos01/Part0.jpg", "kos01/Part1.jpg"],
            ["kos01/Part0_label.bmp", "kos01/Part1_label.bmp"],
        ),
        (["train/10301.png", "train/10302.png"], ["train/10301_GT.png", "train/10302_GT.png"]),
        (["exp1_num_4.jpg", "exp1_num_5.jpg"], ["exp1_num_4.png", "exp1_num_5.png"]),
        (["test/a/000.png"], ["ground_truth/a/000_mask.png", "Ground_Truth/a/000.png"]),
        (["test/hole/rgb/000.png"], ["test/hole/gt/000.png"]),
        (["Images/Normal/0.JPG", "Images/Anomaly/1.JPG"], ["Masks/Anomaly/1.png"]),
        (["Class1/Train/0576.PNG"], ["Class1/Train/Label/0576_label.PNG"]),
        (["Defect_images/0001_002_00.png"], ["Mask_images/0001_002_00_mask1.png"]),
        (["NG/S1/x_NG_C1_2.jpg", "OK/S2/y_OK_C1_3.jpg"], ["NG/S1/x_NG_C1_2.png"]),
    ],
)
def test_labels_of_public_sets(tmp_path: Path, photos: list[str], labels: list[str]) -> None:
    for k, name in enumerate(photos):
        photo(tmp_path / name, k)
    for name in labels:
        label(tmp_path / name)
    assert sorted(found(tmp_path)) == sorted(photos)


def test_what_only_looks_like_a_label_stays(tmp_path: Path) -> None:
    """Photos whose names or folders resemble those of labels."""
    kept = [
        photo(tmp_path / "a/part_label.png"),  # no part.png
        photo(tmp_path / "labels/front.png"),  # photos of labels
        photo(tmp_path / "boxes/front.png"),
        photo(tmp_path / "b/x.jpg"),
        photo(tmp_path / "b/x.png", 1),  # the same name, two photos
        label(tmp_path / "c/lone.png"),  # a dark picture without a photo
    ]
    assert sorted(find_images([tmp_path])) == sorted(kept)


def test_named_files_are_always_taken(tmp_path: Path) -> None:
    image, mask = photo(tmp_path / "a.png"), label(tmp_path / "a_mask.png")
    assert find_images([image, mask]) == [image, mask]
    assert find_images([tmp_path, mask]) == [image, mask]
    truth = label(tmp_path / "ground_truth" / "b.png")
    assert find_images([truth.parent]) == [truth]


def test_labels_alone_are_an_error(tmp_path: Path) -> None:
    label(tmp_path / "data" / "ground_truth" / "b.png")
    with pytest.raises(ImageError, match=r"data: holds labels alone \(b\.png"):
        find_images([tmp_path / "data"])


def test_soft_and_dim_labels_look_like_labels(tmp_path: Path) -> None:
    assert looks_like_label(label(tmp_path / "soft.png", soft=True))
    assert looks_like_label(label(tmp_path / "dim.png", level=1))
    assert looks_like_label(label(tmp_path / "lossy.jpg"))
    empty = tmp_path / "empty.png"
    Image.new("L", (9, 9)).save(empty)
    assert looks_like_label(empty)
    assert not looks_like_label(photo(tmp_path / "photo.png"))
    assert not looks_like_label(tmp_path / "missing.png")
    bright = tmp_path / "plain.png"
    Image.new("L", (9, 9), 100).save(bright)
    assert not looks_like_label(bright)


def test_endings() -> None:
    assert without_ending("Part5_label") == ("part5", "_label")
    assert without_ending("000_MASK2") == ("000", "_MASK2")
    assert without_ending("a-gt") == ("a", "-gt")
    assert without_ending("mask") == ("mask", "")
    assert without_ending("unmask") == ("unmask", "")


def test_the_order_is_kept(tmp_path: Path) -> None:
    files = [photo(tmp_path / "b.png"), label(tmp_path / "b_mask.png"), photo(tmp_path / "a.png")]
    assert split_labels(files, tmp_path) == ([files[0], files[2]], [files[1]])
