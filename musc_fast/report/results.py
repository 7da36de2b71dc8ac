"""The files of a results folder (see `folder` for the folder itself).

scores.csv, results.json and run.json; with pictures also report.html, regions.csv, maps/,
maps_grey/ and overlays/.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .._version import __version__
from ..datasets.read_images import image_size, read_image
from ..errors import InputError
from ..files import RUN_FILE
from ..shown import shown
from .cards import Card, make_card, make_cards
from .heatmap import MapScale, Scale, coloured, grey_map, hatch, panel
from .html import write_report
from .names import result_names
from .regions import write_regions
from .scored_batch import ScoredBatch
from .tables import (
    RESULTS_FILE,
    SCORES_FILE,
    threshold_record,
    write_results_json,
    write_scores,
)


def write_results(
    stage: Path,
    run: ScoredBatch,
    *,
    maps: bool = True,
    map_scale: MapScale = "batch",
    title: str | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Write the results of a batch, except run.json, into an empty folder.

    - scores.csv, results.json: see `tables`
    - report.html: see `html`
    - regions.csv: see `regions`
    - maps/: a float32 .npy [h, w] and a coloured .png an image
    - maps_grey/: an 8-bit grey .png an image; 0 and 255 are the ends of the scale
    - overlays/: a .png an image with the image, its overlay and the colour bar

    What is not scored is hatched in maps/ and overlays/, and 0 in the .npy and the grey pictures.
    The pictures in maps/ and maps_grey/ have the image's own size.

    stage: the folder, as `folder.staged` yields it.
    maps: False writes scores.csv and results.json alone.
    map_scale: "batch" gives all pictures one scale, "image" each picture its own.
    title: heading of the report; None takes the last two parts of the images' common folder.
    progress: called after each image with the number of images done and their total.

    Raises ImageError where an image cannot be read any more, InputError where `map_scale` is
    unknown or a result would lie outside `stage`.
    """
    scales = run.scales(map_scale)
    write_scores(stage / SCORES_FILE, run)
    if not maps:
        write_results_json(stage / RESULTS_FILE, run, None, maps=False)
        return
    names, ranks = result_names(run.paths), run.ranks

    def picture_and_card(index: int) -> Card:
        image = read_image(run.paths[index], run.reading)
        caption = (
            f"{shown(run.paths[index].name)}   rank {ranks[index]} of {len(run.paths)}   "
            f"score {run.image_scores[index]:.3f}"
        )
        _write_pictures(
            stage,
            names[index],
            image,
            run.anomaly_maps[index],
            scales(index),
            caption,
            run.ignored(index),
        )
        return make_card(run, index, image, scales(index))

    pixels = [math.prod(image_size(path)) for path in run.paths]
    cards = make_cards(picture_and_card, len(names), progress, pixels)
    regions = [card.regions for card in cards]
    write_regions(stage / "regions.csv", run.paths, regions)
    write_results_json(stage / RESULTS_FILE, run, regions, maps=True)
    write_report(stage / "report.html", run, cards=cards, map_scale=map_scale, title=title)


def write_settings(stage: Path, run: ScoredBatch, map_scale: MapScale = "batch") -> None:
    """run.json: settings, versions, timings, the threshold and the scale of the pictures.

    map_scale: as given to `write_results`; the entries "low" and "high" are the batch's either way.
    """
    scale = run.scales("batch")(0)
    settings = {
        "musc_fast": __version__,  # the mark of a folder that a later run may replace
        **run.settings,
        "threshold": {**threshold_record(run), "flagged": int(run.threshold.flagged.sum())},
        "map_scale": {"of": map_scale, "low": scale.low, "high": scale.high},
    }
    (stage / RUN_FILE).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def _write_pictures(
    stage: Path,
    name: str,
    image: Image.Image,
    anomaly_map: NDArray[np.float32],
    scale: Scale,
    caption: str,
    ignored: NDArray[np.bool_] | None,
) -> None:
    # `name` comes from the path of an image; the files must not lie outside `stage`.
    if name.startswith("/") or ".." in PurePosixPath(f"{name}.png").parts:
        raise InputError(f"{name}: a result cannot be named so, it would leave its folder")
    levels = grey_map(anomaly_map, scale, (image.height, image.width))
    coloured_map = coloured(levels).convert("RGB")
    hatch(coloured_map, ignored)
    _save(coloured_map, stage / "maps" / f"{name}.png")
    np.save(stage / "maps" / f"{name}.npy", anomaly_map)
    _save(levels, stage / "maps_grey" / f"{name}.png")
    shown_beside = panel(image, anomaly_map, scale, caption, ignored=ignored)
    _save(shown_beside, stage / "overlays" / f"{name}.png")


def _save(picture: Image.Image, file: Path) -> None:
    """Write a .png; stronger compression takes ten times as long and saves a tenth."""
    picture.save(_with_parent(file), compress_level=1)


def _with_parent(file: Path) -> Path:
    """`file`, whose folder is made where it is missing."""
    file.parent.mkdir(parents=True, exist_ok=True)
    return file
