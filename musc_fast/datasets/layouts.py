"""Loading benchmark datasets as samples with labels and masks.

Three layouts are known:

- `mvtec`: see `mvtec`; the layout of MVTec AD and of most sets after it.
- `visa`: VisA as it is distributed, by the table split_csv/1cls.csv.
- `folder`: any folder of images, without labels.

Only test images are loaded, since the method needs no training images. Labels and masks serve
evaluation alone, never scoring.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from ..errors import ImageError, InputError
from ..files import is_plain_name
from .find_images import find_images
from .label_files import without_ending
from .mvtec import load_mvtec
from .samples import Category, Sample, check_folder, sample_mask, select_names, verify

__all__ = [
    "Category",
    "Sample",
    "load_dataset",
    "load_folder",
    "load_mvtec",
    "load_visa",
    "sample_mask",
    "verify",
]

_VISA_TABLE = Path("split_csv", "1cls.csv")
_VISA_COLUMNS = ("object", "split", "label", "image", "mask")


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
    root = check_folder(root)
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
        for name in select_names(known, categories)
    ]


def load_folder(root: Path | str) -> list[Category]:
    """Load all images under a folder as one category named after it, without labels and masks.

    Raises ImageError where there is no such folder, or no image in it.
    """
    root = check_folder(root)
    samples = tuple(Sample(path, None, "", None) for path in find_images([root]))
    return [Category(root.resolve().name, samples)]


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
    if image.stem.casefold() not in (mask.stem.casefold(), without_ending(mask.stem)[0]):
        raise ImageError(f"{mask}: mask does not bear the name of its image {image}")
    if not mask.is_file():
        raise ImageError(f"{image}: its mask {mask} is missing")
    return Sample(image, label, row["label"], mask)


def _select(loaded: list[Category], wanted: Sequence[str] | None) -> list[Category]:
    by_name = {category.name: category for category in loaded}
    return [by_name[name] for name in select_names(by_name, wanted)]
