"""The scores of a batch as tables for scripts: scores.csv, results.json, lines of JSON.

All have the same names for the same numbers; docs/results.md lists them.
"""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from .._version import __version__
from ..errors import InputError
from ..files import nearest_folder, replacing, takes_files
from ..shown import path_cell, table_writer
from .names import result_names
from .regions import Region
from .scored_batch import ScoredBatch

SCORES_FILE, RESULTS_FILE = "scores.csv", "results.json"
COLUMNS = (
    "path",
    "image_score",
    "raw_score",
    "rank",
    "flagged",
    "verdict",
    "threshold",
    "p_value",
)

Regions = Sequence[Sequence[Region]]


def write_scores(path: Path, run: ScoredBatch) -> None:
    """scores.csv: a row an image with `COLUMNS`, most anomalous first."""
    with path.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        writer = table_writer(file)
        writer.writerow(COLUMNS)
        for row in _rows(run):
            row["path"] = path_cell(row["path"])
            row["flagged"] = int(row["flagged"])
            writer.writerow(
                [
                    "" if v is None else f"{v:.7g}" if isinstance(v, float) else v
                    for v in row.values()
                ]
            )


def write_results_json(
    path: Path, run: ScoredBatch, regions: Regions | None, *, maps: bool
) -> None:
    """results.json: the threshold, the counts of the verdicts and a record an image.

    regions: [N] lists, in the order of the images; None where none were measured.
    maps: whether the run has pictures; the records then name them.
    """
    verdicts = list(run.verdicts)
    document = {
        "musc_fast": __version__,
        "threshold": threshold_record(run),
        "flagged": verdicts.count("flagged"),
        "look": verdicts.count("look"),
        "clear": verdicts.count("clear"),
        "skipped": run.settings.get("skipped") or [],
        "copies": run.settings.get("found_copies") or [],
        "repeats": run.settings.get("found_repeats") or [],
        "images": list(records(run, regions, maps=maps)),
    }
    path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def write_json_lines(path: Path | None, objects: Iterable[Mapping[str, Any]]) -> None:
    """One JSON object a line; None writes to standard output.

    Raises InputError where the reader of standard output has gone.
    """
    lines = "".join(json.dumps(each) + "\n" for each in objects)
    if path is None:
        try:
            sys.stdout.write(lines)
            sys.stdout.flush()
        except BrokenPipeError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, sys.stdout.fileno())  # Python tries to write the rest at its end
            os.close(nowhere)
            raise InputError(
                "--json: the reader of standard output has gone; the folder of the results is "
                "complete"
            ) from None
        return
    with replacing(path) as temporary:
        temporary.write_text(lines, encoding="utf-8")


def check_json_target(path: Path, results: Path) -> None:
    """Raise InputError where a file of JSON lines cannot be written, or would go with `results`."""
    place = Path(os.path.realpath(path))
    if place.is_dir() or not takes_files(nearest_folder(place.parent)):
        raise InputError(f"--json: {path} cannot be written; name a file in a folder that can be")
    if place.is_relative_to(os.path.realpath(results)):
        raise InputError(
            f"--json: {path} lies in {results}, which the results replace; name a file elsewhere"
        )


def records(run: ScoredBatch, regions: Regions | None, *, maps: bool) -> Iterator[dict[str, Any]]:
    """A record an image, most anomalous first: `COLUMNS`, then its regions and pictures.

    regions, maps: as for `write_results_json`.
    """
    names = result_names(run.paths) if maps else []
    for row in _rows(run):
        index = row["rank"] - 1
        image = int(run.order[index])
        if regions is not None:
            row["regions"] = [asdict(region) for region in regions[image]]
        if maps:
            row["map"] = f"maps/{names[image]}.npy"
            row["overlay"] = f"overlays/{names[image]}.png"
        yield row


def threshold_record(run: ScoredBatch) -> dict[str, Any]:
    """What decided on the images of a run, as in results.json and run.json."""
    threshold = run.threshold
    return {
        "value": json_number(threshold.value),
        "pixel": json_number(run.pixel_threshold),
        "rule": threshold.rule,
        "reason": threshold.reason,
        "p_value": threshold.p_value,
        "false_alarms": threshold.false_alarms,
        "look_share": threshold.look_share,
    }


def json_number(value: float | None) -> float | str | None:
    """`value`, as text where it is infinite (a threshold that flags none), unknown to JSON."""
    return value if value is None or math.isfinite(value) else str(value)


def _rows(run: ScoredBatch) -> Iterator[dict[str, Any]]:
    """The values of `COLUMNS` by name, most anomalous image first."""
    p_values, verdicts = run.p_values, run.verdicts
    for rank, index in enumerate(run.order, 1):
        yield {
            "path": os.fspath(run.paths[index]),
            "image_score": _seven_digits(run.image_scores[index]),
            "raw_score": _seven_digits(run.raw_scores[index]),
            "rank": rank,
            "flagged": verdicts[index] == "flagged",
            "verdict": str(verdicts[index]),
            "threshold": json_number(run.threshold.value),
            "p_value": None if p_values is None else _seven_digits(p_values[index]),
        }


def _cell(value: Any) -> Any:
    """A value for a cell: nothing for None, 0 or 1 for a truth value."""
    if isinstance(value, bool):
        return int(value)
    return "" if value is None else f"{value:.7g}" if isinstance(value, float) else value


def _seven_digits(value: np.floating[Any]) -> float:
    """A float32 as the shortest usual number: 0.8823715, not 0.8823714852333069."""
    return float(f"{float(value):.7g}")
