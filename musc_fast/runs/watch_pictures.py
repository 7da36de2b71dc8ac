"""Pictures of the images that a watch flags."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from torch import Tensor

from ..datasets.read_images import read_image
from ..files import replacing
from ..report.heatmap import Floats, Scale, panel
from ..report.scored_batch import unscored
from ..scratch import naming_full
from ..settings import ReadSettings
from ..shown import shown
from .watch_record import Row

_LONGEST_NAME = 80  # characters of the image's own name in that of its picture


def pictures_folder(record: Path) -> Path:
    """Where the pictures lie: scores_flagged beside scores.csv."""
    return record.with_name(f"{record.stem}_flagged")


def picture_of(record: Path, row: Row) -> Path:
    """The picture of a flagged image: by its number, since cameras write under old names."""
    name = re.sub(r"[^\w.-]", "_", Path(row.path).stem, flags=re.ASCII)[:_LONGEST_NAME]
    return pictures_folder(record) / f"{int(row.number):06}_{name}.png"


def picture_scale(row: Row, anomaly_map: Floats, usual: float) -> Scale:
    """The distances of the first and the last colour in pictures of an image.

    usual: a distance that is usual in good images: it has the first colour. The last is as far
        above the threshold as the threshold is above it, so that pictures can be compared, or the
        map's highest value, so that the place of a gross defect is seen.
    """
    highest = float(np.max(anomaly_map))
    threshold = float(row.threshold) if row.threshold else highest
    return Scale(usual, max(highest, usual + 2 * (threshold - usual)))


def write_picture(
    record: Path,
    row: Row,
    anomaly_map: Tensor,
    usual: float,
    reading: ReadSettings,
    valid: Tensor | None = None,
) -> Path:
    """Write the image, the heat map over it and a colour bar as one .png; returns its path.

    anomaly_map: [h, w]. usual: as for `picture_scale`.
    valid: [H, W] bool, the patches that count, of which the others are hatched; None: all.

    Raises ImageError where the image cannot be read any more, OSError where there is no room.
    """
    found = anomaly_map.float().cpu().numpy()
    scale = picture_scale(row, found, usual)
    above = f"threshold {float(row.threshold):.3f}   " if row.threshold else ""
    caption = (
        f"{shown(Path(row.path).name)}   score {float(row.raw_score):.3f}   {above}"
        f"against {row.references}"
    )
    hidden = None if valid is None else unscored(valid.cpu().numpy(), found.shape)
    picture = panel(read_image(Path(row.path), reading), found, scale, caption, ignored=hidden)
    file = picture_of(record, row)
    with naming_full(record.parent), replacing(file) as temporary:
        picture.save(temporary, format="png", compress_level=1)
    return file
