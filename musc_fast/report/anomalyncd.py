"""Anomaly maps in the form that AnomalyNCD reads (Huang et al., CVPR 2025, arXiv 2410.14379).

AnomalyNCD sorts the defects that a detector found into classes. For each category AnomalyNCD reads
8-bit grey pictures that are min-max scaled over the batch and have the size of the anomaly maps, at
which AnomalyNCD binarises. The pictures in maps_grey/ of a results folder have the same scale, but
the images' size.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..errors import InputError
from ..files import replacing
from .heatmap import Floats, Scale, grey_map


def write_anomalyncd_maps(
    folder: str | os.PathLike[str],
    images: Sequence[str | os.PathLike[str]],
    anomaly_maps: Floats,
) -> list[Path]:
    """Write the maps of a category as .png files and return their paths, in the order of the maps.

    folder: root of the maps, made where it is missing.
    images: [N] paths laid out as in MVTec AD, category/test/type/name.png; the map of each becomes
        folder/category/type/name.png. AnomalyNCD pairs images and maps by their order in a type's
        folder, so give all images of each type.
    anomaly_maps: [N, h, w], finite. 0 and 255 are the smallest and largest value of the batch (a
        constant batch is 0); levels are rounded, where the snippet in AnomalyNCD's README cuts.

    Raises InputError where shapes or values are not as above, a path does not have its three
    folders, two images would have one map, or a type's folder holds a file that is no map of the
    batch.
    """
    maps = np.asarray(anomaly_maps)
    if maps.ndim != 3 or 0 in maps.shape or len(maps) != len(images):
        raise InputError(f"anomaly_maps: found {list(maps.shape)}, wanted [{len(images)}, h, w]")
    if not np.isfinite(maps).all():
        raise InputError("anomaly_maps: found NaN or Inf, wanted finite values")
    files = [_map_file(Path(folder), image) for image in images]
    _check_only_maps(files)
    scale = Scale.of(maps)
    for file, anomaly_map in zip(files, maps, strict=True):
        with replacing(file) as temporary:
            grey_map(anomaly_map, scale, anomaly_map.shape).save(temporary)
    return files


def _map_file(folder: Path, image: str | os.PathLike[str]) -> Path:
    path = Path(os.path.abspath(image))
    category = path.parent.parent.parent.name
    if not category:
        raise InputError(f"{os.fspath(image)}: wanted a path such as category/test/type/name.png")
    return folder / category / path.parent.name / f"{path.stem}.png"


def _check_only_maps(files: list[Path]) -> None:
    """Raise InputError unless `files` are distinct and their folders hold no other file."""
    distinct = set(files)
    if len(distinct) < len(files):
        repeated = next(file for file in files if files.count(file) > 1)
        raise InputError(f"images: more than one would have the map {repeated}; score them apart")
    for parent in {file.parent for file in files}:
        for other in parent.iterdir() if parent.is_dir() else ():
            if other not in distinct:
                raise InputError(
                    f"{other} is no map of this batch, and AnomalyNCD would pair it with an image; "
                    "remove it or choose another folder"
                )
