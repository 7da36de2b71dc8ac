"""Accuracy on labelled datasets: one result a category, kept for a run that is started again."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._version import __version__
from ..datasets.find_images import natural_key
from ..datasets.layouts import Category, sample_mask
from ..errors import InputError
from ..features.cache import extract_cached
from ..files import is_plain_name, replacing
from ..metrics import Protocol, auroc_interval, image_metrics
from ..musc import MuSc
from ..progress import StageProgress
from ..report.html import Evaluation, write_report
from ..report.names import metric_title
from ..report.overview import write_overview
from ..report.scored_batch import ScoredBatch
from ..shown import table_writer, text_cell
from ..threshold import find_threshold
from .finished import (
    METRICS,
    Result,
    category_files,
    mean_metrics,
    read_object,
    write_object,
)
from .pixels import measure_pixels
from .record import chosen_backend, how_seen, run_settings


def evaluate(
    musc: MuSc,
    categories: Sequence[Category],
    out: Path,
    *,
    protocol: Protocol = "musc",
    cache: Path | None = None,
    force: bool = False,
    on_kept: Callable[[str], None] = lambda name: None,
    progress: StageProgress = lambda stage, done, total: None,
) -> list[Result]:
    """Evaluate each category as one batch; write report.html, results.json and .csv in `out`.

    musc: a size or tiles that are "auto" are fitted to each category.
    categories: the images with their labels and masks, which are used after scoring alone.
    out: a folder. `out`/reports/NAME.html shows the images of a category with their curves and
        worst misses, `out`/categories/NAME.json has its result.
    protocol: how PRO is measured, see `metrics`.
    cache: a folder for features, see `extract_cached`; None keeps none.
    force: evaluate every category. Otherwise a category is not redone while its settings, device
        type, backend, weights and files are the same and its report is there.
    on_kept: called with the name of each category that is not redone.
    progress: called with (stage, done, total).

    Raises InputError where a category's name cannot be that of a file. Returns the results of
    `categories`. The tables also list the categories that earlier calls
    evaluated in `out`, see `write_tables`.
    """
    results: list[Result] = []
    wanted = [category.name for category in categories]
    for name in wanted:  # it becomes a file name below `out`
        if not is_plain_name(name):
            raise InputError(f"categories: {name!r} cannot be the name of a file")
    for done, category in enumerate(categories):
        progress("categories", done, len(categories))
        file, page = category_files(out, category.name)
        suited = musc.fitted([sample.image for sample in category.samples])
        key = result_key(suited, category, protocol)
        result = None if force or not page.is_file() else _stored_result(file, key)
        if result is None:
            result = {
                "key": key,
                **evaluate_category(
                    suited,
                    category,
                    report=page,
                    protocol=protocol,
                    cache=cache,
                    progress=progress,
                ),
            }
            write_object(file, result)
        else:
            on_kept(category.name)
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

    report: the file of the HTML report; None writes none.
    protocol, cache, progress: as for `evaluate`.
    """

    def on_progress(stage: str, done: int, total: int) -> None:
        progress(f"{category.name}: {stage}", done, total)

    start = perf_counter()
    musc = musc.fitted([sample.image for sample in category.samples])
    features = extract_cached(
        musc.extractor, [sample.image for sample in category.samples], cache, progress=on_progress
    )
    extracted = perf_counter()
    scores = musc.score_features(features, progress=on_progress)
    scored = perf_counter()
    raw_scores = scores.raw_image_scores.cpu().numpy()
    batch = ScoredBatch(
        paths=[sample.image for sample in category.samples],
        image_scores=scores.image_scores.cpu().numpy(),
        raw_scores=raw_scores,
        anomaly_maps=scores.anomaly_maps.cpu().numpy(),
        settings=run_settings(musc, features, scores=scores, seconds=musc.timings),
        threshold=find_threshold(raw_scores, patch_scores=scores.patch_scores.cpu().numpy()),
        **how_seen(musc, features),
    )
    result: Result = {
        "category": category.name,
        "images": len(category.samples),
        "image_size": list(musc.backbone.image_size),
        "tiles": batch.settings["tiles"],
        **measure(category, batch, protocol),
    }
    measured = perf_counter()
    if report is not None:
        write_category_report(report, category, batch, result, on_progress)
    result["seconds"] = {
        "features": round(extracted - start, 3),
        "scoring": round(scored - extracted, 3),
        "metrics": round(measured - scored, 3),
        "report": round(perf_counter() - measured, 3),
    }
    return result


def measure(category: Category, batch: ScoredBatch, protocol: Protocol) -> Result:
    """Metrics of a scored category; `batch` has the images in the category's order."""
    if not _labelled(category):
        reason = "no labels are known for these images"
        return {"defective": None, "metrics": dict.fromkeys(METRICS, None), "notes": [reason]}
    labels = _labels(category)
    image = image_metrics(labels, batch.image_scores, protocol)
    raw = image_metrics(labels, batch.raw_scores, protocol)
    pixel, notes = measure_pixels(category, batch, protocol)
    values = (
        image.auroc,
        image.f1_max,
        image.ap,
        pixel.auroc,
        pixel.f1_max,
        pixel.ap,
        pixel.pro,
    )
    defective = int(labels.sum())
    interval = auroc_interval(image.auroc, defective, len(labels) - defective)
    threshold = batch.threshold
    return {
        "defective": defective,
        "metrics": {name: _number(v) for name, v in zip(METRICS, values, strict=True)},
        "image_auroc_interval": [_number(v) for v in interval],  # of 95%
        "raw_image_metrics": {name: _number(v) for name, v in asdict(raw).items()},
        "flagged": {
            "rule": threshold.rule,
            "value": threshold.value,
            "images": int(threshold.flagged.sum()),
            "defects_found": int((threshold.flagged & labels).sum()),
            "reason": threshold.reason,
        },
        "notes": [reason for reason in (image.reason, pixel.reason, *notes) if reason],
    }


def write_category_report(
    path: Path, category: Category, batch: ScoredBatch, result: Result, progress: StageProgress
) -> None:
    """Write the HTML report of a category; with labels also its curves, masks and worst misses."""
    evaluation = None
    if _labelled(category):
        masks = [
            None if s.mask is None else sample_mask(s, None, batch.reading)
            for s in category.samples
        ]
        figures = {metric_title(name): value for name, value in result["metrics"].items()}
        evaluation = Evaluation(_labels(category), masks, figures)
    write_report(
        path,
        batch,
        evaluation=evaluation,
        title=category.name,
        progress=lambda done, total: progress("report", done, total),
    )


def _labelled(category: Category) -> bool:
    return all(sample.label is not None for sample in category.samples)


def _labels(category: Category) -> NDArray[np.bool_]:
    return np.array([sample.label is True for sample in category.samples])


def write_tables(out: Path, results: Sequence[Result], wanted: Sequence[str]) -> None:
    """Write report.html, results.json and results.csv of the categories evaluated so far.

    results: of this call; they are listed first, in their order.
    wanted: the names of all categories of this call. Stored results of further categories in
        `out`/categories are listed after `results`, by name.

    "finished", "of" and the mean cover all categories that are listed, whatever settings they were
    made with: give each configuration an `out` of its own.
    """
    earlier = _earlier_results(out, wanted)
    total, results = len(wanted) + len(earlier), [*results, *earlier]
    document = {
        "musc_fast": __version__,
        "finished": len(results),
        "of": total,
        "mean": mean_metrics(results),
        "categories": results,
    }
    write_object(out / "results.json", document)
    with (
        replacing(out / "results.csv") as temporary,
        temporary.open("w", newline="", encoding="utf-8") as file,
    ):
        writer = table_writer(file)
        writer.writerow(["category", "images", "defective", *METRICS])
        for result in results:
            cells = _csv_cells(result["metrics"])
            name = text_cell(result["category"])
            writer.writerow([name, result["images"], result["defective"], *cells])
        writer.writerow(["mean", "", "", *_csv_cells(mean_metrics(results))])
    write_overview(out / "report.html", results, mean_metrics(results))


def _csv_cells(metrics: dict[str, float | None]) -> list[str]:
    return ["" if value is None else f"{value:.6f}" for value in metrics.values()]


def _earlier_results(out: Path, wanted: Sequence[str]) -> list[Result]:
    """Stored results of categories that are not among `wanted`; damaged files are left out."""
    files = sorted((out / "categories").glob("*.json"), key=natural_key)
    stored = (read_object(file) for file in files if file.stem not in wanted)
    return [
        result
        for result in stored
        if {"category", "images", "defective", "metrics"} <= result.keys()
        and isinstance(result["metrics"], dict)
        and list(result["metrics"]) == list(METRICS)
    ]


def result_key(musc: MuSc, category: Category, protocol: Protocol) -> str:
    """A hash of all that decides a category's result.

    It covers the version, the settings, the weights, the files, and the device type, engine,
    precision and backend, since those differ in the last digits.
    """
    files = [
        (str(path), path.stat().st_size, path.stat().st_mtime_ns)
        for sample in category.samples
        for path in (sample.image, *sample.mask_files)
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
        backbone.engine,
        backbone.precision,
        chosen_backend(musc),
        musc.extractor.reading,
        musc.extractor.align,
        files,
        *(() if musc.extractor.ignored is None else (musc.extractor.ignored.key,)),
    ]
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]


def _stored_result(file: Path, key: str) -> Result | None:
    """The stored result of a category; None where it has another key."""
    result = read_object(file)
    return result if result.get("key") == key else None


def _number(value: Any) -> Any:
    """The value; None for NaN, which JSON lacks."""
    return None if isinstance(value, float) and math.isnan(value) else value
