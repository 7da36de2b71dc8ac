"""A data set in memory: images with what is known about them, by category."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ..errors import ImageError, InputError
from ..settings import ReadSettings
from .find_images import list_images
from .masks import shrunk, union_of
from .read_images import DEFAULTS, image_size


@dataclass(frozen=True)
class Sample:
    """One image and what is known about it.

    image: the image file.
    label: True is defective, False normal, None unknown.
    defect: kind of defect as the dataset calls it (`good`, `scratch`, ...); "" if unknown.
    mask: mask file, or folder of masks whose union counts; None for a normal or unlabelled image,
        and in a dataset that has no masks or was loaded without.
    more_masks: further mask files of the same image; the union of all counts.
    """

    image: Path
    label: bool | None
    defect: str
    mask: Path | None
    more_masks: tuple[Path, ...] = ()

    @property
    def mask_files(self) -> list[Path]:
        """All mask files; those in a folder of masks one by one."""
        if self.mask is None:
            return []
        first = list_images(self.mask) if self.mask.is_dir() else [self.mask]
        return [*first, *self.more_masks]


@dataclass(frozen=True)
class Category:
    """One product: the images that are scored as one batch."""

    name: str
    samples: tuple[Sample, ...]


def verify(categories: Iterable[Category], reading: ReadSettings = DEFAULTS) -> None:
    """Check that images and masks open and that their sizes agree.

    Only headers of files are read, so that damaged pixels are found in some formats alone.

    reading: how files are read.
    Raises ImageError that lists every image and mask at fault.
    """
    problems = []
    for category in categories:
        for sample in category.samples:
            try:
                _check_size(sample, reading)
            except ImageError as error:
                problems.append(str(error))
    if problems:
        raise ImageError("\n".join(problems))


def sample_mask(
    sample: Sample, size: tuple[int, int] | None = None, reading: ReadSettings = DEFAULTS
) -> npt.NDArray[np.bool_]:
    """Return a sample's mask, bool [h, w], all False for a normal image.

    sample: a labelled sample.
    size: (height, width) to resize to by nearest neighbour; None keeps the image's size.
    reading: how files are read.
    Raises InputError where the sample is defective or unlabelled and has no mask, ImageError where
    image or mask is unreadable, or their sizes differ (the message names both).
    """
    if sample.mask is None:
        if sample.label is not False:
            raise InputError(f"{sample.image}: no mask is known for this image")
        return np.zeros(size or image_size(sample.image, reading), dtype=np.bool_)
    _check_size(sample, reading)
    return shrunk(union_of(sample.mask_files, None, reading), size)


def _check_size(sample: Sample, reading: ReadSettings) -> None:
    """Raise ImageError unless image and masks have one size."""
    size = image_size(sample.image, reading)
    if sample.mask is not None and not sample.mask_files:
        raise ImageError(f"{sample.image}: its folder of masks {sample.mask} is empty")
    for file in sample.mask_files:
        height, width = image_size(file, reading)
        if (height, width) != size:
            raise ImageError(
                f"{file}: mask is {width} x {height}, but its image {sample.image} is "
                f"{size[1]} x {size[0]}; save both with one size"
            )


def check_folder(root: Path | str) -> Path:
    path = Path(root)
    if not path.is_dir():
        raise ImageError(f"{path}: {'is not a folder' if path.exists() else 'no such folder'}")
    return path


def select_names(known: Iterable[str], wanted: Sequence[str] | None) -> list[str]:
    """Return the names to load: `wanted`, each once, or all known names."""
    known = list(known)
    if wanted is None:
        return known
    unknown = [name for name in wanted if name not in known]
    if unknown:
        raise InputError(f"unknown category {', '.join(unknown)}; known are {', '.join(known)}")
    return list(dict.fromkeys(wanted))
