"""Anomaly maps in the form that AnomalyNCD reads (Huang et al., CVPR 2025, arXiv 2410.14379).

AnomalyNCD sorts the defects that a detector found into classes. Per category it wants 8-bit grey
pictures, min-max scaled over the batch, of the maps' own size, since it binarises at that size.
maps_grey/ of a results folder has the same scale and the images' size.
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
    """Write one .png a map of a category and return their paths, in the order of the maps.

    images: [N] paths laid out as in MVTec AD, category/test/type/name.png; the map of each becomes
        folder/category/type/name.png. AnomalyNCD pairs images and maps by their order in a type's
        folder, so give all images of each type, and a map that belongs to none of them is refused.
    anomaly_maps: [N, h, w], finite. 0 and 255 are the smallest and largest value of the batch (a
        constant batch is 0); levels are rounded, where the snippet in AnomalyNCD's README cuts.

    Raises InputError.
    """
    maps = np.asarray(anomaly_maps)
    if maps.ndim != 3 or 0 in maps.shape or len(maps) != len(images):
        raise InputError(f"anomaly_maps: found {list(maps.shape)}, wanted [{len(images)}, h, w]")
    if not np.isfinite(maps).all():
        raise InputError("anomaly_maps: found NaN or Inf, wanted finite values")
    files = [_map_file(Path(folder), image) for image in images]
    _check_alone(files)
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


def _check_alone(files: list[Path]) -> None:
    """Raise InputError unless the maps have names of their own and no company in their folders."""
    ours = set(files)
    if len(ours) < len(files):
        double = next(file for file in files if files.count(file) > 1)
        raise InputError(f"images: more than one would have the map {double}; score them apart")
    for parent in {file.parent for file in files}:
        for other in parent.iterdir() if parent.is_dir() else ():
            if other not in ours:
                raise InputError(
                    f"{other} is no map of this batch, and AnomalyNCD would pair it with an image; "
                    "remove it or choose another folder"
                )
