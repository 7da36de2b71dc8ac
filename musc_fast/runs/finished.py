"""What an evaluation has left on the disk, read without PyTorch, which takes seconds to load.

An evaluation that is asked for again can so be answered at once. The proper key of a category's
result covers the weights (see `evaluate.result_key`); the key here, of the command line, covers
the versions, files and machine that decide which weights and devices those words mean.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from .._version import __version__
from ..files import replacing

METRICS = (
    "image_auroc",
    "image_f1_max",
    "image_ap",
    "pixel_auroc",
    "pixel_f1_max",
    "pixel_ap",
    "pixel_pro",
)
_FILE = ".finished.json"  # in the folder of the results
_PACKAGES = ("torch", "openvino", "timm", "open_clip_torch", "numpy", "scikit-learn")
_VARIABLES = ("MUSC_FAST_BACKEND", "CUDA_VISIBLE_DEVICES", "HF_HOME", "XDG_CACHE_HOME")

Result = dict[str, Any]


def mean_metrics(results: Sequence[Result]) -> dict[str, float | None]:
    """Mean of each metric over the categories where it is defined."""
    means = {}
    for name in METRICS:
        values = [r["metrics"][name] for r in results if r["metrics"][name] is not None]
        means[name] = float(np.mean(values)) if values else None
    return means


def line_of(result: Result) -> dict[str, Any]:
    """The object of a category as a line of JSON: the columns of results.csv, then what is flagged.

    `flagged` and `notes` are as in results.json; `flagged` is null where there are no labels.
    """
    counts = {name: result[name] for name in ("category", "images", "defective")}
    found = {name: result.get(name) for name in ("flagged", "notes")}
    return {**counts, **result["metrics"], **found}


def category_files(out: Path, name: str) -> tuple[Path, Path]:
    """The result and the report of a category."""
    return out / "categories" / f"{name}.json", out / "reports" / f"{name}.html"


def read_object(file: Path) -> Result:
    """The JSON object in a file; empty where the file is missing, damaged or has no object."""
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):  # ValueError: no JSON, or no UTF-8
        return {}
    return value if isinstance(value, dict) else {}


def write_object(path: Path, value: Any) -> None:
    """Write a JSON file, complete or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def command_key(arguments: Mapping[str, Any], files: Iterable[Path]) -> str:
    """A hash of a command line, of its files' sizes and times, of versions and machine.

    arguments: by name; the value None where an option is not given.
    files: that the command reads. Raises OSError where one is missing.
    """
    digest = hashlib.sha256()

    def add(*parts: object) -> None:
        digest.update(repr(parts).encode("utf-8", "surrogateescape"))

    add(__version__, platform.python_version(), platform.node(), platform.processor())
    add(os.path.exists("/proc/driver/nvidia/version"), os.cpu_count())
    add(*((name, os.environ.get(name)) for name in _VARIABLES))
    for package in _PACKAGES:
        try:
            add(package, metadata.version(package))
        except metadata.PackageNotFoundError:
            add(package)
    add(*sorted((name, str(value)) for name, value in arguments.items()))
    for file in files:
        status = file.stat()
        add(str(file), status.st_size, status.st_mtime_ns)
    return digest.hexdigest()[:32]


def write_finished(out: Path, key: str, results: Sequence[Result], title: str) -> None:
    """Note in `out` that the command of this key has finished, with the keys of its results."""
    keys = {result["category"]: result["key"] for result in results}
    write_object(out / _FILE, {"command": key, "title": title, "categories": keys})


def read_finished(out: Path, key: str) -> tuple[list[Result], str] | None:
    """The results and the title of the command of this key; None where anything is missing."""
    noted = read_object(out / _FILE)
    keys = noted.get("categories")
    if noted.get("command") != key or not isinstance(keys, dict):
        return None
    if not all((out / name).is_file() for name in ("report.html", "results.csv", "results.json")):
        return None
    results = []
    for name, result_key in keys.items():
        file, page = category_files(out, name)
        result = read_object(file)
        if result.get("key") != result_key or not page.is_file():
            return None
        results.append(result)
    return results, str(noted.get("title"))
