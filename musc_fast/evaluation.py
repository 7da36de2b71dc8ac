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

from ._version import __version__
from .datasets.layouts import Category, sample_mask
from .feature_cache import extract_cached
from .files import replacing
from .metrics import Protocol, image_metrics, pixel_metrics
from .pipeline import MuSc
from .progress import StageProgress
from .threshold import find_threshold

METRICS = (
    "image_auroc", "image_f1_max", "image_ap",
    "pixel_auroc", "pixel_f1_max", "pixel_ap", "pixel_pro",
)  # fmt: skip

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

    A finished category lies in `out`/categories/NAME.json and is not redone while its settings,
    weights and files are the same, unless `force`. Labels and masks are used after scoring alone.
    """
    results: list[Result] = []
    for done, category in enumerate(categories):
        progress("categories", done, len(categories))
        file = out / "categories" / f"{category.name}.json"
        key = result_key(musc, category, protocol)
        result = None if force else _finished(file, key)
        if result is None:
            result = {
                "key": key,
                **evaluate_category(
                    musc, category, protocol=protocol, cache=cache, progress=progress
                ),
            }
            _write_json(file, result)
        results.append(result)
        write_tables(out, results, len(categories))
    progress("categories", len(categories), len(categories))
    return results


def evaluate_category(
    musc: MuSc,
    category: Category,
    *,
    protocol: Protocol = "musc",
    cache: Path | None = None,
    progress: StageProgress = lambda stage, done, total: None,
) -> Result:
    """Score one category and measure it: metrics, flagged images, seconds by stage."""

    def stage(name: str, done: int, total: int) -> None:
        progress(f"{category.name}: {name}", done, total)

    start = perf_counter()
    features = extract_cached(
        musc, [sample.image for sample in category.samples], cache, progress=stage
    )
    extracted = perf_counter()
    scores = musc.score_features(features, progress=stage)
    scored = perf_counter()
    maps = scores.anomaly_maps.cpu().numpy()
    raw = scores.raw_image_scores.cpu().numpy()
    result: Result = {
        "category": category.name,
        "images": len(category.samples),
        **measure(category, maps, scores.image_scores.cpu().numpy(), raw, protocol),
    }
    end = perf_counter()
    result["seconds"] = {
        "features": round(extracted - start, 3),
        "scoring": round(scored - extracted, 3),
        "metrics": round(end - scored, 3),
    }
    return result


def measure(category: Category, maps: Any, scores: Any, raw: Any, protocol: Protocol) -> Result:
    """Metrics of a scored category: maps [N, h, w], image scores and raw image scores [N]."""
    if any(sample.label is None for sample in category.samples):
        reason = "no labels are known for these images"
        return {"defective": None, "metrics": dict.fromkeys(METRICS, None), "notes": [reason]}
    labels = np.array([sample.label is True for sample in category.samples])
    image = image_metrics(labels, scores, protocol)
    plain = image_metrics(labels, raw, protocol)
    size = (maps.shape[1], maps.shape[2])
    masks = [sample_mask(sample, size) for sample in category.samples]
    pixel = pixel_metrics(masks, maps, protocol)
    values = (
        image.auroc, image.f1_max, image.ap, pixel.auroc, pixel.f1_max, pixel.ap, pixel.pro,
    )  # fmt: skip
    threshold = find_threshold(raw)
    found = int((threshold.flagged & labels).sum())
    return {
        "defective": int(labels.sum()),
        "metrics": {name: _number(v) for name, v in zip(METRICS, values, strict=True)},
        "raw_image_metrics": {name: _number(v) for name, v in asdict(plain).items()},
        "flagged": {
            "rule": threshold.rule,
            "value": threshold.value,
            "images": int(threshold.flagged.sum()),
            "defects_found": found,
            "reason": threshold.reason,
        },
        "notes": [reason for reason in (image.reason, pixel.reason) if reason],
    }


def mean_metrics(results: Sequence[Result]) -> dict[str, float | None]:
    """Mean of each metric over the categories where it is defined."""
    means = {}
    for name in METRICS:
        values = [r["metrics"][name] for r in results if r["metrics"][name] is not None]
        means[name] = float(np.mean(values)) if values else None
    return means


def write_tables(out: Path, results: Sequence[Result], total: int) -> None:
    """results.json and results.csv of the categories finished so far."""
    document = {
        "musc_fast": __version__,
        "finished": len(results),
        "of": total,
        "mean": mean_metrics(results),
        "categories": list(results),
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


def result_key(musc: MuSc, category: Category, protocol: Protocol) -> str:
    """Changes with the code's version, the settings, the weights and the files of a category."""
    files = [
        (str(path), path.stat().st_size, path.stat().st_mtime_ns)
        for sample in category.samples
        for path in (sample.image, sample.mask)
        if path is not None
    ]
    backbone = musc.backbone
    parts = [
        __version__, protocol, backbone.fingerprint, backbone.image_size, backbone.blocks,
        musc.use_cls, sorted(musc.settings.items()), files,
    ]  # fmt: skip
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]


def _finished(file: Path, key: str) -> Result | None:
    """The stored result of a category if it has this key."""
    try:
        stored: Result = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError):
        return None
    return stored if stored.get("key") == key else None


def _number(value: Any) -> Any:
    """NaN as None, which JSON can hold."""
    return None if isinstance(value, float) and math.isnan(value) else value


def _write_json(path: Path, value: Any) -> None:
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
