"""The results folder of a run: complete or absent.

scores.csv and run.json; with pictures also report.html, regions.csv, maps/, maps_grey/, overlays/.
"""

from __future__ import annotations

import csv
import json
import math
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..datasets.images import read_image
from ..errors import InputError
from ..threshold import Threshold
from .heatmap import MapScale, Scale, grey_map, heat_map, panel, scale_of
from .html import Card, make_card, relative_names, write_report
from .regions import pixel_threshold, write_regions

RUN_FILE = "run.json"


@dataclass(frozen=True)
class Run:
    """What a run found.

    paths [N], image and raw scores [N], anomaly maps [N, h, w], settings, and the threshold on the
    raw scores with the images it flags.
    """

    paths: Sequence[Path]
    image_scores: NDArray[np.float32]
    raw_scores: NDArray[np.float32]
    anomaly_maps: NDArray[np.float32]
    settings: dict[str, Any]
    threshold: Threshold

    @property
    def ranks(self) -> NDArray[np.int64]:
        """[N], 1 = most anomalous by image score; the raw score, then the order, breaks ties."""
        order = np.lexsort((-self.raw_scores, -self.image_scores))
        ranks = np.empty(len(order), dtype=np.int64)
        ranks[order] = np.arange(1, len(order) + 1)
        return ranks

    @cached_property
    def pixel_threshold(self) -> float | None:
        """The level from which on (>=) pixels belong to a region; None: no image is flagged."""
        return pixel_threshold(self.threshold, self.raw_scores)


def check_target(folder: Path) -> None:
    """Raise InputError where `folder` holds something that is not an earlier run."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file, wanted a folder for the results")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / RUN_FILE).is_file():
        raise InputError(
            f"{folder} is not empty and holds no earlier run ({RUN_FILE}); choose another folder"
        )


@contextmanager
def staged(folder: Path) -> Iterator[Path]:
    """Yield an empty folder beside `folder` that takes its place when the block succeeds.

    An earlier run in `folder` is replaced only then. Leftovers of killed runs are removed.
    """
    check_target(folder)
    folder = folder.absolute()
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = f".{folder.name}-partial-"
    for leftover in folder.parent.glob(f"{partial}*"):
        if not _is_running(leftover.name.removeprefix(partial).split("-")[0]):
            shutil.rmtree(leftover, ignore_errors=True)
    stage = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f"{partial}{os.getpid()}-"))
    try:
        yield stage
        stage.chmod(0o755)
        if folder.exists():
            old = stage.with_name(stage.name + "-old")
            folder.rename(old)
            stage.rename(folder)
            shutil.rmtree(old)
        else:
            stage.rename(folder)
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def _is_running(pid: str) -> bool:
    """Whether the process that made a partial folder still lives."""
    try:
        os.kill(int(pid), 0)
    except PermissionError:
        return True
    except (ValueError, OSError):
        return False
    return True


def result_names(paths: Sequence[Path]) -> list[str]:
    """A distinct relative name for each image: its path below the common folder, no suffix.

    Images that differ in nothing but the suffix keep it.
    """
    whole = relative_names(paths)
    stems = [str(PurePosixPath(name).with_suffix("")) for name in whole]
    taken = Counter([*stems, *whole])
    return [
        stem if taken[stem] == 1 or stem == name else name
        for stem, name in zip(stems, whole, strict=True)
    ]


def write_results(
    stage: Path,
    run: Run,
    *,
    maps: bool = True,
    map_scale: MapScale = "batch",
    title: str | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Write all but run.json into an empty folder (see `staged`).

    scores.csv: path, image_score, raw_score, rank, flagged (0 or 1). The rest is left out without
    `maps`. report.html: see `html`. regions.csv: see `regions`. maps/: float32 .npy (h, w) and a
    coloured .png; maps_grey/: 8-bit grey .png, 0 and 255 the ends of the scale; overlays/: image,
    overlay and colour bar. The maps' pictures have the image's own size. All pictures share one
    scale, or have one each with map_scale="image".
    """
    scales = scale_of(run.anomaly_maps, map_scale)
    write_scores(stage / "scores.csv", run)
    if not maps:
        return
    names, ranks = result_names(run.paths), run.ranks

    def one(index: int) -> Card:
        image = read_image(run.paths[index])
        caption = (
            f"{run.paths[index].name}   rank {ranks[index]} of {len(run.paths)}   "
            f"score {run.image_scores[index]:.3f}"
        )
        _write_pictures(stage, names[index], image, run.anomaly_maps[index], scales(index), caption)
        return make_card(run, index, image, scales(index))

    cards = []
    with ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as pool:
        for done, card in enumerate(pool.map(one, range(len(names))), 1):
            cards.append(card)
            progress(done, len(names))
    write_regions(stage / "regions.csv", run.paths, [card.regions for card in cards])
    write_report(stage / "report.html", run, cards=cards, map_scale=map_scale, title=title)


def write_settings(stage: Path, run: Run, map_scale: MapScale = "batch") -> None:
    """run.json: settings, versions, timings, the threshold and the scale of the pictures.

    map_scale.low and .high are the batch's, whatever the pictures have.
    """
    scale, threshold = Scale.of(run.anomaly_maps), run.threshold
    settings = {
        **run.settings,
        "threshold": {
            "value": _json_number(threshold.value),
            "pixel": _json_number(run.pixel_threshold),
            "rule": threshold.rule,
            "flagged": int(threshold.flagged.sum()),
            "reason": threshold.reason,
            "p_value": threshold.p_value,
        },
        "map_scale": {"of": map_scale, "low": scale.low, "high": scale.high},
    }
    (stage / RUN_FILE).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def _json_number(value: float | None) -> float | str | None:
    """JSON has no infinity, which is a threshold that flags none."""
    return value if value is None or math.isfinite(value) else str(value)


def write_scores(path: Path, run: Run) -> None:
    """scores.csv, most anomalous first."""
    ranks = run.ranks
    with path.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "image_score", "raw_score", "rank", "flagged"])
        for i in np.argsort(ranks):
            writer.writerow(
                [
                    run.paths[i], f"{run.image_scores[i]:.7g}", f"{run.raw_scores[i]:.7g}",
                    ranks[i], int(run.threshold.flagged[i]),
                ]
            )  # fmt: skip


def _write_pictures(
    stage: Path,
    name: str,
    image: Image.Image,
    anomaly_map: NDArray[np.float32],
    scale: Scale,
    caption: str,
) -> None:
    size = (image.height, image.width)
    heat_map(anomaly_map, scale, size).save(_room(stage / "maps" / f"{name}.png"))
    np.save(stage / "maps" / f"{name}.npy", anomaly_map)
    grey_map(anomaly_map, scale, size).save(_room(stage / "maps_grey" / f"{name}.png"))
    panel(image, anomaly_map, scale, caption).save(_room(stage / "overlays" / f"{name}.png"))


def _room(file: Path) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    return file
