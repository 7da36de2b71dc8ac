"""Telling label pictures from photos, where data sets keep both in one folder.

A label that is scored as a photo ranks first, being unlike all photos. A picture is a label where

- it lies in a folder `ground_truth`;
- its name ends in `_mask`, `_label` or `_gt` (any case, perhaps with a number), and a photo of that
  name without the ending lies beside it, above it or in a sister folder;
- it lies in a folder `gt`, `mask`, `masks`, `label` or `labels`, a photo of its name lies in a
  sister folder, and it looks like a label;
- a photo of the same name with another suffix lies beside it, and of the two it alone looks like a
  label.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np

from ..errors import ImageError
from ..settings import ReadSettings
from .decode import decode
from .deep import DeepImage

TRUTH_FOLDERS = frozenset({"ground_truth", "groundtruth", "ground-truth"})
_LABEL_FOLDERS = frozenset({"gt", "mask", "masks", "label", "labels"})
_ENDING = re.compile(r"(.+?)[_-](mask|label|gt|ground_truth|groundtruth)_?(\d*)", re.IGNORECASE)
_TWO_VALUED = 0.9  # share of pixels near black or near the brightest level


def without_ending(stem: str) -> tuple[str, str]:
    """Return a label's stem without its ending, in lower case, and the ending, "" where none."""
    match = _ENDING.fullmatch(stem)
    return (match[1].casefold(), stem[len(match[1]) :]) if match else (stem.casefold(), "")


def split_labels(files: Sequence[Path], root: Path) -> tuple[list[Path], list[Path]]:
    """Return the photos and the labels among `files`, each in the given order.

    root: the folder that was searched; it and those above it do not count as a folder of labels.
    """
    stems: dict[Path, dict[str, list[Path]]] = {}
    for file in files:
        stems.setdefault(file.parent, {}).setdefault(file.stem.casefold(), []).append(file)
    labels = {file for file in files if _is_label(file, root, stems)}
    return [f for f in files if f not in labels], [f for f in files if f in labels]


def _is_label(file: Path, root: Path, stems: dict[Path, dict[str, list[Path]]]) -> bool:
    folders = file.relative_to(root).parts[:-1] if file.is_relative_to(root) else ()
    if any(name.casefold() in TRUTH_FOLDERS for name in folders):
        return True
    base, ending = without_ending(file.stem)
    if ending:
        near = [file.parent, file.parent.parent, *_sisters(file.parent, stems)]
        if any(base in stems.get(folder, {}) for folder in near):
            return True
    for depth, name in enumerate(folders):
        if name.casefold() in _LABEL_FOLDERS:
            top = root.joinpath(*folders[: depth + 1])
            inner = Path(*folders[depth + 1 :])
            others = [sister / inner for sister in _sisters(top, stems)]
            if any(base in stems.get(other, {}) for other in others):
                return looks_like_label(file)
    twins = [twin for twin in stems[file.parent][file.stem.casefold()] if twin.name != file.name]
    if not twins or not looks_like_label(file):
        return False
    return not any(looks_like_label(twin) for twin in twins)


def _sisters(folder: Path, stems: Iterable[Path]) -> list[Path]:
    """The other folders beside `folder` that hold files, or folders with files."""
    parent = folder.parent
    found = set()
    for other in stems:
        if other != folder and other.is_relative_to(parent) and other != parent:
            found.add(parent / other.relative_to(parent).parts[0])
    return sorted(found - {folder})


def looks_like_label(file: Path) -> bool:
    """Whether a file is grey with hardly any level between black and its brightest one."""
    try:
        status = file.stat()
        return _looks_like_label(os.fspath(file), status.st_size, status.st_mtime_ns)
    except (OSError, ImageError):
        return False  # its error is raised when it is read as a photo


@lru_cache(maxsize=100_000)
def _looks_like_label(file: str, size: int, changed: int) -> bool:
    picture, _ = decode(file, ReadSettings().max_pixels)
    if isinstance(picture, DeepImage):
        level = picture.values
        if level.ndim == 3 or level.dtype.kind == "f":
            return False
    else:
        colours = np.asarray(picture.convert("RGB"))
        if picture.mode not in {"P", "PA"} and (colours != colours[:, :, :1]).any():
            return False
        level = colours.max(axis=2)
    highest = int(level.max(initial=0))
    near = max(1, highest // 30)
    extreme = np.count_nonzero((level <= near) | (level >= highest - near))
    return bool(level.min() <= near and extreme >= _TWO_VALUED * level.size)
