"""The results folder of a run: complete or absent.

scores.csv and run.json; with pictures also report.html, regions.csv, maps/, maps_grey/, overlays/.
"""

from __future__ import annotations

import csv
import json
import math
import os
import posixpath
import re
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

from .._version import __version__
from ..datasets.images import read_image
from ..errors import InputError
from ..files import PICTURE_FOLDERS, RUN_FILE, is_results_folder
from ..threshold import Threshold
from .heatmap import MapScale, Scale, grey_map, heat_map, panel, scale_of
from .html import Card, make_card, relative_names, write_report
from .regions import pixel_threshold, write_regions

_WRITTEN = frozenset({"scores.csv", RUN_FILE, "report.html", "regions.csv", *PICTURE_FOLDERS})
_ours: set[str] = set()  # the names of this process's stages under way


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


def check_target(folder: Path, inputs: Sequence[Path] = ()) -> None:
    """Raise InputError where results cannot go to `folder`, which they replace whole.

    It may be absent, empty, or hold an earlier run and nothing else. `inputs` are the images read,
    references included: none may lie in it. A mount point is refused: it cannot be replaced.
    """
    place = _real(folder)
    with _explained(folder):
        if os.path.ismount(place):
            raise InputError(
                f"{folder} is a mount point, which cannot be replaced; choose a folder in it, such "
                f"as {folder / 'results'}"
            )
        if place.exists() and not place.is_dir():
            raise InputError(f"{folder} is a file, wanted a folder for the results")
        entries = sorted(entry.name for entry in place.iterdir()) if place.is_dir() else []
        if entries and not is_results_folder(place):
            raise InputError(
                f"{folder} is not empty and holds no earlier run ({RUN_FILE} of musc_fast); choose "
                "another folder"
            )
    strangers = [name for name in entries if name not in _WRITTEN]
    if strangers:
        raise InputError(
            f"{folder} holds an earlier run, but also {strangers[0]}, which would be removed with "
            "it; move that away or choose another folder"
        )
    inside = [path for path in inputs if _real(path).is_relative_to(place)]
    if inside:
        raise InputError(
            f"{inside[0]} lies in {folder}, which the results would replace; choose another folder "
            "for the results"
        )


@contextmanager
def staged(folder: Path, inputs: Sequence[Path] = ()) -> Iterator[Path]:
    """Yield an empty folder beside `folder` that takes its place when the block succeeds.

    An earlier run in `folder` is replaced only then, and put back where that fails. What killed
    runs left is removed; an earlier run that one had set aside is put back first. A link is
    followed. Raises InputError as `check_target`, and where the folder cannot be written to.
    """
    place = _real(folder)
    check_target(folder, inputs)
    with _explained(folder):
        place.parent.mkdir(parents=True, exist_ok=True)
        _tidy(place)
        stage = Path(
            tempfile.mkdtemp(dir=place.parent, prefix=f".{place.name}-partial-{os.getpid()}-")
        )
    _ours.add(stage.name)
    try:
        yield stage
        with _explained(folder):
            stage.chmod(0o755)
            _replace(place, stage)
    finally:
        shutil.rmtree(stage, ignore_errors=True)
        _ours.discard(stage.name)


def _replace(folder: Path, stage: Path) -> None:
    """Put `stage` where `folder` is; an earlier one stays where that fails or is interrupted."""
    if not folder.exists():
        stage.rename(folder)
        return
    old = stage.with_name("-earlier-".join(stage.name.rsplit("-partial-", 1)))
    _ours.add(old.name)
    try:
        folder.rename(old)
        stage.rename(folder)
    except BaseException:
        if old.exists() and not folder.exists():
            old.rename(folder)
        raise
    finally:
        _ours.discard(old.name)
    shutil.rmtree(old, ignore_errors=True)


def _tidy(folder: Path) -> None:
    """Remove what killed runs left beside `folder`; restore what the last one had set aside."""
    pattern = re.compile(rf"\.{re.escape(folder.name)}-(partial|earlier)-(\d+)-[a-z0-9_]+")
    partial: list[Path] = []
    earlier: list[Path] = []
    for entry in folder.parent.iterdir():
        match = pattern.fullmatch(entry.name)
        if match and entry.name not in _ours and not _is_running(int(match[2])):
            (partial if match[1] == "partial" else earlier).append(entry)
    earlier.sort(key=lambda entry: entry.stat().st_mtime)
    if earlier and not folder.exists():
        earlier.pop().rename(folder)
    for leftover in [*partial, *earlier]:
        shutil.rmtree(leftover, ignore_errors=True)


def _is_running(pid: int) -> bool:
    """Whether another process, which made a partial folder, still lives.

    Our own number is that of a dead one: what we made ourselves is in `_ours`. In containers all
    runs have the same number.
    """
    if pid == os.getpid():
        return False
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except (OverflowError, OSError):
        return False
    return True


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))


@contextmanager
def _explained(folder: Path) -> Iterator[None]:
    """Turn an OSError about the results folder into an InputError."""
    try:
        yield
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        raise InputError(
            f"{folder} cannot take the results: {error.strerror or error}{where}; choose another "
            "folder"
        ) from error


def result_names(paths: Sequence[Path]) -> list[str]:
    """A distinct relative name for each image: its path below the common folder, no suffix.

    Images that differ in nothing but the suffix keep it.
    """
    whole = relative_names(paths)
    stems = [posixpath.splitext(name)[0] for name in whole]
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
        "musc_fast": __version__,  # the mark of a folder that a later run may replace
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
                    run.paths[i],
                    f"{run.image_scores[i]:.7g}",
                    f"{run.raw_scores[i]:.7g}",
                    ranks[i],
                    int(run.threshold.flagged[i]),
                ]
            )


def _write_pictures(
    stage: Path,
    name: str,
    image: Image.Image,
    anomaly_map: NDArray[np.float32],
    scale: Scale,
    caption: str,
) -> None:
    # The names come from paths: none may lead out of the folder that is to be replaced whole.
    if name.startswith("/") or ".." in PurePosixPath(f"{name}.png").parts:
        raise InputError(f"{name}: a result cannot be named so, it would leave its folder")
    size = (image.height, image.width)
    heat_map(anomaly_map, scale, size).save(_room(stage / "maps" / f"{name}.png"))
    np.save(stage / "maps" / f"{name}.npy", anomaly_map)
    grey_map(anomaly_map, scale, size).save(_room(stage / "maps_grey" / f"{name}.png"))
    panel(image, anomaly_map, scale, caption).save(_room(stage / "overlays" / f"{name}.png"))


def _room(file: Path) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    return file
