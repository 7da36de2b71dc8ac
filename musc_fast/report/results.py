"""The results folder of a run: scores.csv, maps/, overlays/, run.json; complete or absent."""

from __future__ import annotations

import csv
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..datasets.images import read_image
from ..errors import InputError
from .heatmap import Scale, heat_map, panel

RUN_FILE = "run.json"


@dataclass(frozen=True)
class Run:
    """What a run found: paths [N], image and raw scores [N], anomaly maps [N, h, w], settings."""

    paths: Sequence[Path]
    image_scores: NDArray[np.float32]
    raw_scores: NDArray[np.float32]
    anomaly_maps: NDArray[np.float32]
    settings: dict[str, Any]

    @property
    def ranks(self) -> NDArray[np.int64]:
        """[N], 1 = most anomalous by image score; the raw score, then the order, breaks ties."""
        order = np.lexsort((-self.raw_scores, -self.image_scores))
        ranks = np.empty(len(order), dtype=np.int64)
        ranks[order] = np.arange(1, len(order) + 1)
        return ranks


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
    root = Path(os.path.commonpath([path.absolute().parent for path in paths]))
    relative = [path.absolute().relative_to(root) for path in paths]
    stems = [path.with_suffix("").as_posix() for path in relative]
    return [
        stem if stems.count(stem) == 1 else path.as_posix()
        for stem, path in zip(stems, relative, strict=True)
    ]


def write_results(
    stage: Path,
    run: Run,
    *,
    maps: bool = True,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Write all but run.json into an empty folder (see `staged`).

    scores.csv: path, image_score, raw_score, rank. maps/: float32 .npy (h, w) and an 8-bit heat
    map .png of the image's own size. overlays/: image, overlay and colour bar. All pictures share
    one scale.
    """
    write_scores(stage / "scores.csv", run)
    scale = Scale.of(run.anomaly_maps)
    if maps:
        names = result_names(run.paths)
        with ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as pool:
            jobs = [
                pool.submit(_write_pictures, stage, name, run, index, scale)
                for index, name in enumerate(names)
            ]
            for done, job in enumerate(jobs, 1):
                job.result()
                progress(done, len(jobs))


def write_settings(stage: Path, run: Run) -> None:
    """run.json: the run's settings, versions and timings, and the scale of its pictures."""
    scale = Scale.of(run.anomaly_maps)
    settings = {**run.settings, "map_scale": {"low": scale.low, "high": scale.high}}
    (stage / RUN_FILE).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def write_scores(path: Path, run: Run) -> None:
    """scores.csv, most anomalous first."""
    ranks = run.ranks
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "image_score", "raw_score", "rank"])
        for i in np.argsort(ranks):
            writer.writerow(
                [run.paths[i], f"{run.image_scores[i]:.7g}", f"{run.raw_scores[i]:.7g}", ranks[i]]
            )


def _write_pictures(stage: Path, name: str, run: Run, index: int, scale: Scale) -> None:
    image = read_image(run.paths[index])
    anomaly_map = run.anomaly_maps[index]
    target = stage / "maps" / name
    target.parent.mkdir(parents=True, exist_ok=True)
    np.save(target.with_name(target.name + ".npy"), anomaly_map)
    heat_map(anomaly_map, scale, (image.height, image.width)).save(
        target.with_name(target.name + ".png")
    )
    caption = (
        f"{run.paths[index].name}   rank {run.ranks[index]} of {len(run.paths)}   "
        f"score {run.image_scores[index]:.3f}"
    )
    target = stage / "overlays" / f"{name}.png"
    target.parent.mkdir(parents=True, exist_ok=True)
    panel(image, anomaly_map, scale, caption).save(target)
