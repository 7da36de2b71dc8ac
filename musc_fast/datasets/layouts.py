"""Loading benchmark datasets as samples with labels and masks.

Three layouts are known:

- `mvtec`: CATEGORY/test/DEFECT/IMAGE and CATEGORY/ground_truth/DEFECT/MASK, with the normal images
  under `good` (or `ok`): MVTec AD, MPDD, KolektorSDD in that form, BTAD (`ok`/`ko`), and MVTec LOCO
  (a folder of masks for each image).
- `visa`: VisA as it is distributed, by the table split_csv/1cls.csv.
- `folder`: any folder of images, without labels.

Only test images are loaded, since the method needs no training images. Labels and masks serve
evaluation alone, never scoring. A mask is paired with an image by name (STEM_mask.png, STEM.png,
other suffixes, or a folder STEM), not by its place in a sorted list: a missing file then shifts no
other pair. Masks without an image are ignored.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ..errors import ImageError, InputError
from ..files import is_plain_name
from .find_images import find_images, list_images, natural_key
from .read_images import image_size, read_mask

NORMAL_NAMES = ("good", "ok")
_MASK_ENDINGS = ("", "_mask", "_gt", "_label")
_VISA_TABLE = Path("split_csv", "1cls.csv")
_VISA_COLUMNS = ("object", "split", "label", "image", "mask")


@dataclass(frozen=True)
class Sample:
    """One image and what is known about it.

    image: the image file.
    label: True is defective, False normal, None unknown.
    defect: kind of defect as the dataset calls it (`good`, `scratch`, ...); "" if unknown.
    mask: mask file, or folder of masks whose union counts; None for a normal or unlabelled image,
        and in a dataset that was loaded without masks.
    """

    image: Path
    label: bool | None
    defect: str
    mask: Path | None


@dataclass(frozen=True)
class Category:
    """One product: the images that are scored as one batch."""

    name: str
    samples: tuple[Sample, ...]


def load_dataset(
    layout: str,
    root: Path | str,
    categories: Sequence[str] | None = None,
    *,
    masks: bool = True,
) -> list[Category]:
    """Load a dataset by the name of its layout.

    layout: mvtec, btad (an mvtec layout), visa or folder.
    root: the dataset's folder.
    categories: names to load, in this order; None loads all.
    masks: False loads no masks.
    Raises InputError where the layout or a category is unknown (the message lists the known ones),
    ImageError as `load_mvtec`, `load_visa` and `load_folder`.
    """
    if layout in ("mvtec", "btad"):
        return load_mvtec(root, categories, masks=masks)
    if layout == "visa":
        return load_visa(root, categories, masks=masks)
    if layout == "folder":
        return _select(load_folder(root), categories)
    raise InputError(f"unknown dataset layout {layout!r}; known are mvtec, btad, visa, folder")


def load_mvtec(
    root: Path | str, categories: Sequence[str] | None = None, *, masks: bool = True
) -> list[Category]:
    """Load the test images of a dataset in the layout of MVTec AD.

    root: the dataset, in which each folder with a `test` folder is a category, or one category.
    categories: names to load, in this order; None loads all, natural sorted.
    masks: whether every defective image is paired with its mask; False leaves all masks None, for
        data without ground truth.
    Raises InputError where a category is unknown (the message lists the known ones), ImageError
    where the folder has another layout, a category has no images, or an image has no mask or
    several.
    """
    root = _check_folder(root)
    if (root / "test").is_dir():
        folders = {root.resolve().name: root}
    else:
        visible = (entry for entry in root.iterdir() if not entry.name.startswith("."))
        with_test = (entry for entry in visible if (entry / "test").is_dir())
        folders = {entry.name: entry for entry in sorted(with_test, key=natural_key)}
    if not folders:
        raise ImageError(
            f"{root}: no MVTec layout here (expected test/good, test/DEFECT and "
            "ground_truth/DEFECT in it, or in folders named by category)"
        )
    return [
        _mvtec_category(name, folders[name], masks) for name in _select_names(folders, categories)
    ]


def load_visa(
    root: Path | str, categories: Sequence[str] | None = None, *, masks: bool = True
) -> list[Category]:
    """Load the test images of VisA by its table split_csv/1cls.csv, in the order of the table.

    root: the dataset, with the table and a folder for each category.
    categories: names to load, in this order; None loads those that the table lists and whose
        folder exists.
    masks: as in `load_mvtec`.
    Raises InputError where a category is unknown, ImageError where the table cannot be used or
    names a file that is missing.
    """
    root = _check_folder(root)
    rows = _visa_rows(root)
    known = {row["object"]: None for row in rows}
    if categories is None:
        categories = [name for name in known if (root / name).is_dir()]
        if not categories:
            raise ImageError(f"{root}: none of the folders {', '.join(known)} is here")
    return [
        Category(
            name, tuple(_visa_sample(root, row, masks) for row in rows if row["object"] == name)
        )
        for name in _select_names(known, categories)
    ]


def load_folder(root: Path | str) -> list[Category]:
    """Load all images under a folder as one category named after it, without labels and masks.

    Raises ImageError where there is no such folder, or no image in it.
    """
    root = _check_folder(root)
    samples = tuple(Sample(path, None, "", None) for path in find_images([root]))
    return [Category(root.resolve().name, samples)]


def verify(categories: Iterable[Category]) -> None:
    """Check that images and masks open and that their sizes agree.

    Only headers of files are read, so that damaged pixels are found in some formats alone.

    Raises ImageError that lists every image and mask at fault.
    """
    problems = []
    for category in categories:
        for sample in category.samples:
            try:
                _check_size(sample)
            except ImageError as error:
                problems.append(str(error))
    if problems:
        raise ImageError("\n".join(problems))


def sample_mask(sample: Sample, size: tuple[int, int] | None = None) -> npt.NDArray[np.bool_]:
    """Return a sample's mask, bool [h, w], all False for a normal image.

    sample: a labelled sample.
    size: (height, width) to resize to by nearest neighbour; None keeps the image's size.
    Raises InputError where the sample is defective or unlabelled and has no mask, ImageError where
    image or mask is unreadable, or their sizes differ (the message names both).
    """
    if sample.mask is None:
        if sample.label is not False:
            raise InputError(f"{sample.image}: no mask is known for this image")
        return np.zeros(size or image_size(sample.image), dtype=np.bool_)
    _check_size(sample)
    return read_mask(sample.mask, size)


def _check_size(sample: Sample) -> None:
    """Raise ImageError unless image and masks have one size."""
    size = image_size(sample.image)
    if sample.mask is not None:
        files = list_images(sample.mask) if sample.mask.is_dir() else [sample.mask]
        if not files:
            raise ImageError(f"{sample.image}: its folder of masks {sample.mask} is empty")
        for file in files:
            height, width = image_size(file)
            if (height, width) != size:
                raise ImageError(
                    f"{file}: mask is {width} x {height}, but its image {sample.image} is "
                    f"{size[1]} x {size[0]}"
                )


def _mvtec_category(name: str, folder: Path, masks: bool) -> Category:
    samples: list[Sample] = []
    for defect in sorted((folder / "test").iterdir(), key=natural_key):
        if defect.name.startswith(".") or not defect.is_dir():
            continue
        images = list_images(defect)
        if defect.name in NORMAL_NAMES:
            samples.extend(Sample(image, False, defect.name, None) for image in images)
        elif masks:
            truth = folder / "ground_truth" / defect.name
            samples.extend(
                Sample(image, True, defect.name, mask) for image, mask in _pair_masks(images, truth)
            )
        else:
            samples.extend(Sample(image, True, defect.name, None) for image in images)
    if not samples:
        raise ImageError(
            f"{folder / 'test'}: no images in its folders (expected test/good and test/DEFECT)"
        )
    return Category(name, tuple(samples))


def _pair_masks(images: Sequence[Path], truth: Path) -> Iterable[tuple[Path, Path]]:
    """Yield each image with the mask in folder `truth` that bears its name."""
    masks: dict[str, list[Path]] = {}
    if truth.is_dir():
        folders = (entry for entry in truth.iterdir() if entry.is_dir())
        for entry in [*list_images(truth), *sorted(folders, key=natural_key)]:
            masks.setdefault(entry.name if entry.is_dir() else entry.stem, []).append(entry)
    image_of: dict[Path, Path] = {}
    for image in images:
        found = [mask for ending in _MASK_ENDINGS for mask in masks.get(image.stem + ending, [])]
        if not found:
            raise ImageError(
                f"{image}: its mask is missing (looked for {truth / image.stem}_mask.png, "
                f"{image.stem}.png, the same with another suffix, or a folder {image.stem})"
            )
        if len(found) > 1:
            raise ImageError(f"{image}: has several masks: {', '.join(map(str, found))}")
        first = image_of.setdefault(found[0], image)
        if first is not image:
            raise ImageError(f"{found[0]}: is the mask of both {first} and {image}")
        yield image, found[0]


def _visa_rows(root: Path) -> list[dict[str, str]]:
    table = root / _VISA_TABLE
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            rows = list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ImageError(
            f"{table}: cannot be read ({error}); a VisA root holds this table beside the folders "
            "of its categories"
        ) from error
    absent = [name for name in _VISA_COLUMNS if name not in (reader.fieldnames or ())]
    if absent:
        raise ImageError(f"{table}: lacks the column {', '.join(absent)}")
    for line, row in enumerate(rows, start=2):
        if any(row[name] is None for name in _VISA_COLUMNS):
            raise ImageError(f"{table}, line {line}: too few columns")
        if row["label"] not in ("normal", "anomaly"):
            raise ImageError(
                f"{table}, line {line}: label {row['label']!r} is neither normal nor anomaly"
            )
        _check_names(f"{table}, line {line}", row)
    tests = [row for row in rows if row["split"] == "test"]
    if not tests:
        raise ImageError(f"{table}: lists no image of the split `test`")
    return tests


def _check_names(where: str, row: dict[str, str]) -> None:
    """Raise ImageError where a name of the table is none, or leads out of the dataset's folder."""
    for column in ("object", "image", "mask"):
        name = row[column]
        parts = name.split("/") if column != "object" else [name]
        if name == "" and column == "mask":
            continue
        if not all(is_plain_name(part) for part in parts):
            raise ImageError(
                f"{where}: {column} {name!r} is no name within the dataset's folder (no leading /, "
                "no . or .., no \\ and no control characters)"
            )


def _visa_sample(root: Path, row: dict[str, str], masks: bool) -> Sample:
    image, label = root / row["image"], row["label"] == "anomaly"
    if not image.is_file():
        raise ImageError(f"{image}: no such file, though {root / _VISA_TABLE} lists it")
    if not label or not masks:
        return Sample(image, label, row["label"], None)
    if not row["mask"]:
        raise ImageError(f"{image}: {root / _VISA_TABLE} names no mask for it")
    mask = root / row["mask"]
    if mask.stem not in {image.stem + ending for ending in _MASK_ENDINGS}:
        raise ImageError(f"{mask}: mask does not bear the name of its image {image}")
    if not mask.is_file():
        raise ImageError(f"{image}: its mask {mask} is missing")
    return Sample(image, label, row["label"], mask)


def _check_folder(root: Path | str) -> Path:
    path = Path(root)
    if not path.is_dir():
        raise ImageError(f"{path}: {'is not a folder' if path.exists() else 'no such folder'}")
    return path


def _select_names(known: Iterable[str], wanted: Sequence[str] | None) -> list[str]:
    """Return the names to load: `wanted`, each once, or all known names."""
    known = list(known)
    if wanted is None:
        return known
    unknown = [name for name in wanted if name not in known]
    if unknown:
        raise InputError(f"unknown category {', '.join(unknown)}; known are {', '.join(known)}")
    return list(dict.fromkeys(wanted))


def _select(loaded: list[Category], wanted: Sequence[str] | None) -> list[Category]:
    by_name = {category.name: category for category in loaded}
    return [by_name[name] for name in _select_names(by_name, wanted)]
