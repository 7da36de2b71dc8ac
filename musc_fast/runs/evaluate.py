"""Accuracy on labelled datasets: a result a category, resumable after an interruption."""

from __future__ import annotations

import csv
import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._version import __version__
from ..backends.registry import resolve
from ..datasets.images import natural_key
from ..datasets.layouts import Category, sample_mask
from ..features.cache import extract_cached
from ..files import replacing
from ..metrics import Protocol, image_metrics, pixel_metrics
from ..musc import MuSc
from ..progress import StageProgress
from ..report.html import Evaluation, write_report
from ..report.run import ScoredBatch
from ..threshold import find_threshold
from .score import run_settings

METRICS = (
    "image_auroc",
    "image_f1_max",
    "image_ap",
    "pixel_auroc",
    "pixel_f1_max",
    "pixel_ap",
    "pixel_pro",
)

Result = dict[str, Any]


def evaluate(
    musc: MuSc,
    categories: Sequence[Category],
    out: Path,
    *,
    protocol: Protocol = "musc",
    cache: Path | None = None,
    force: bool = False,
    progress: StageProgress = lambda stage, done, total: None,
) -> list[Result]:
    """Evaluate each category as one batch; write results.json and results.csv in `out`.

    `out`/reports/NAME.html shows the images of a category with their curves and worst misses. A
    finished category lies in `out`/categories/NAME.json and is not redone while its settings,
    device type, backend, weights and files are the same and its report is there, unless `force`.
    The tables also list the categories that earlier calls finished in `out`, see `write_tables`;
    the returned list does not. Labels and masks are used after scoring alone.
    """
    results: list[Result] = []
    wanted = [category.name for category in categories]
    for done, category in enumerate(categories):
        progress("categories", done, len(categories))
        file = out / "categories" / f"{category.name}.json"
        page = out / "reports" / f"{category.name}.html"
        key = result_key(musc, category, protocol)
        result = None if force or not page.is_file() else _finished(file, key)
        if result is None:
            result = {
                "key": key,
                **evaluate_category(
                    musc,
                    category,
                    report=page,
                    protocol=protocol,
                    cache=cache,
                    progress=progress,
                ),
            }
            _write_json(file, result)
        results.append(result)
        write_tables(out, results, wanted)
    progress("categories", len(categories), len(categories))
    return results


def evaluate_category(
    musc: MuSc,
    category: Category,
    *,
    report: Path | None = None,
    protocol: Protocol = "musc",
    cache: Path | None = None,
    progress: StageProgress = lambda stage, done, total: None,
) -> Result:
    """Score one category and measure it: metrics, flagged images, seconds by stage.

    `report` is where the HTML report goes; None writes none.
    """

    def stage(name: str, done: int, total: int) -> None:
        progress(f"{category.name}: {name}", done, total)

    start = perf_counter()
    features = extract_cached(
        musc.extractor, [sample.image for sample in category.samples], cache, progress=stage
    )
    extracted = perf_counter()
    scores = musc.score_features(features, progress=stage)
    scored = perf_counter()
    raw = scores.raw_image_scores.cpu().numpy()
    run = ScoredBatch(
        paths=[sample.image for sample in category.samples],
        image_scores=scores.image_scores.cpu().numpy(),
        raw_scores=raw,
        anomaly_maps=scores.anomaly_maps.cpu().numpy(),
        settings=run_settings(musc, features),
        threshold=find_threshold(raw),
    )
    result: Result = {
        "category": category.name,
        "images": len(category.samples),
        **measure(category, run, protocol),
    }
    measured = perf_counter()
    if report is not None:
        write_category_report(report, category, run, result, stage)
    result["seconds"] = {
        "features": round(extracted - start, 3),
        "scoring": round(scored - extracted, 3),
        "metrics": round(measured - scored, 3),
        "report": round(perf_counter() - measured, 3),
    }
    return result


def measure(category: Category, run: ScoredBatch, protocol: Protocol) -> Result:
    """Metrics of a scored category, whose run has its images in the same order."""
    if not _labelled(category):
        reason = "no labels are known for these images"
        return {"defective": None, "metrics": dict.fromkeys(METRICS, None), "notes": [reason]}
    labels = _labels(category)
    image = image_metrics(labels, run.image_scores, protocol)
    plain = image_metrics(labels, run.raw_scores, protocol)
    size = (run.anomaly_maps.shape[1], run.anomaly_maps.shape[2])
    masks = [sample_mask(sample, size) for sample in category.samples]
    pixel = pixel_metrics(masks, run.anomaly_maps, protocol)
    values = (
        image.auroc,
        image.f1_max,
        image.ap,
        pixel.auroc,
        pixel.f1_max,
        pixel.ap,
        pixel.pro,
    )
    threshold = run.threshold
    return {
        "defective": int(labels.sum()),
        "metrics": {name: _number(v) for name, v in zip(METRICS, values, strict=True)},
        "raw_image_metrics": {name: _number(v) for name, v in asdict(plain).items()},
        "flagged": {
            "rule": threshold.rule,
            "value": threshold.value,
            "images": int(threshold.flagged.sum()),
            "defects_found": int((threshold.flagged & labels).sum()),
            "reason": threshold.reason,
        },
        "notes": [reason for reason in (image.reason, pixel.reason) if reason],
    }


def write_category_report(
    path: Path, category: Category, run: ScoredBatch, result: Result, progress: StageProgress
) -> None:
    """The HTML report of a category; with labels also its curves, masks and worst misses."""
    evaluation = None
    if _labelled(category):
        masks = [None if s.mask is None else sample_mask(s) for s in category.samples]
        figures = {name.replace("_", " "): value for name, value in result["metrics"].items()}
        evaluation = Evaluation(_labels(category), masks, figures)
    write_report(
        path,
        run,
        evaluation=evaluation,
        title=category.name,
        progress=lambda done, total: progress("report", done, total),
    )


def _labelled(category: Category) -> bool:
    return all(sample.label is not None for sample in category.samples)


def _labels(category: Category) -> NDArray[np.bool_]:
    return np.array([sample.label is True for sample in category.samples])


def mean_metrics(results: Sequence[Result]) -> dict[str, float | None]:
    """Mean of each metric over the categories where it is defined."""
    means = {}
    for name in METRICS:
        values = [r["metrics"][name] for r in results if r["metrics"][name] is not None]
        means[name] = float(np.mean(values)) if values else None
    return means


def write_tables(out: Path, results: Sequence[Result], wanted: Sequence[str]) -> None:
    """results.json and results.csv of the categories finished so far.

    `results` come first, in their order, then what earlier calls finished in `out`/categories of
    categories other than those `wanted` now, by name. "finished", "of" and the mean cover all that
    are listed, whatever settings they were made with: give each configuration an `out` of its own.
    """
    others = _others(out, wanted)
    total, results = len(wanted) + len(others), [*results, *others]
    document = {
        "musc_fast": __version__,
        "finished": len(results),
        "of": total,
        "mean": mean_metrics(results),
        "categories": results,
    }
    _write_json(out / "results.json", document)
    with (
        replacing(out / "results.csv") as temporary,
        temporary.open("w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.writer(file)
        writer.writerow(["category", "images", "defective", *METRICS])
        for r in results:
            cells = ["" if v is None else f"{v:.6f}" for v in r["metrics"].values()]
            writer.writerow([r["category"], r["images"], r["defective"], *cells])
        means = ["" if v is None else f"{v:.6f}" for v in mean_metrics(results).values()]
        writer.writerow(["mean", "", "", *means])


def _others(out: Path, wanted: Sequence[str]) -> list[Result]:
    """Stored results of categories that are not among `wanted`; damaged files are left out."""
    files = sorted((out / "categories").glob("*.json"), key=natural_key)
    found = (_stored(file) for file in files if file.stem not in wanted)
    return [
        result
        for result in found
        if {"category", "images", "defective", "metrics"} <= result.keys()
        and isinstance(result["metrics"], dict)
        and list(result["metrics"]) == list(METRICS)
    ]


def result_key(musc: MuSc, category: Category, protocol: Protocol) -> str:
    """Changes with the code's version, settings, device type, backend, weights and the files.

    Devices and backends differ in the last digits, so that one's results are not the other's.
    """
    files = [
        (str(path), path.stat().st_size, path.stat().st_mtime_ns)
        for sample in category.samples
        for path in (sample.image, sample.mask)
        if path is not None
    ]
    backbone = musc.backbone
    parts = [
        __version__,
        protocol,
        backbone.fingerprint,
        backbone.image_size,
        backbone.blocks,
        musc.use_cls,
        sorted(musc.settings.keywords().items()),
        backbone.device.type,
        resolve(musc.settings.backend, backbone.device).name,
        files,
    ]
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]


def _finished(file: Path, key: str) -> Result | None:
    """The stored result of a category if it has this key."""
    stored = _stored(file)
    return stored if stored.get("key") == key else None


def _stored(file: Path) -> Result:
    """The JSON object in a file; empty where there is none that can be read."""
    try:
        stored = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):  # ValueError: no JSON, or no UTF-8
        return {}
    return stored if isinstance(stored, dict) else {}


def _number(value: Any) -> Any:
    """NaN as None, which JSON can hold."""
    return None if isinstance(value, float) and math.isnan(value) else value


def _write_json(path: Path, value: Any) -> None:
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
