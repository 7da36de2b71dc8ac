"""One run: images in, a results folder out. The command and the benchmarks share it."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

from ._version import __version__
from .backends import resolve
from .errors import ImageError
from .pipeline import BatchFeatures, MuSc
from .progress import stage_bars
from .report.results import Run, staged, write_results, write_settings


def score_images(
    musc: MuSc,
    paths: Sequence[Path],
    out: Path,
    *,
    references: Sequence[Path] | None = None,
    maps: bool = True,
    skip_bad: bool = False,
    shown: bool = True,
) -> Run:
    """Score image files and write the results folder `out` (see `report.results`).

    `out` holds the complete results or what it held before. `shown` draws progress bars.
    Raises ImageError listing the unreadable images unless `skip_bad`, InputError where `out` holds
    something else than an earlier run.
    """
    with staged(out) as stage, stage_bars(shown) as report:
        query = musc.extract(paths, skip_bad=skip_bad, progress=report)
        others = (
            None
            if references is None
            else musc.extract(
                references,
                skip_bad=skip_bad,
                progress=lambda _, done, total: report("reference features", done, total),
            )
        )
        if others is None and len(query.sources) < 2:
            raise ImageError(
                f"only {len(query.sources)} of {len(paths)} images can be read; 2 are needed"
            )
        scores = musc.score_features(query, others, progress=report)
        run = Run(
            paths=[paths[source] for source in query.sources],
            image_scores=scores.image_scores.cpu().numpy(),
            raw_scores=scores.raw_image_scores.cpu().numpy(),
            anomaly_maps=scores.anomaly_maps.cpu().numpy(),
            settings=_settings(musc, query, others),
        )
        start = perf_counter()
        write_results(
            stage, run, maps=maps, progress=lambda done, total: report("pictures", done, total)
        )
        seconds = {**musc.timings, "pictures": perf_counter() - start}
        run.settings["seconds"] = {name: round(value, 3) for name, value in seconds.items()}
        write_settings(stage, run)
    return run


def _settings(musc: MuSc, query: BatchFeatures, others: BatchFeatures | None) -> dict[str, Any]:
    """What run.json tells of a run, so that it can be repeated."""
    backbone = musc.backbone
    return {
        "musc_fast": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "images": len(query.sources),
        "references": None if others is None else len(others.sources),
        "skipped": [reason for _, reason in [*query.bad, *(others.bad if others else ())]],
        "backbone": backbone.spec.name,
        "weights": backbone.source,
        "image_size": list(backbone.image_size),
        "blocks": list(backbone.blocks),
        "device": str(backbone.device),
        "chosen_backend": resolve(musc.settings["backend"], backbone.device).name,
        "rscin": musc.use_cls and query.cls_tokens is not None,
        **musc.settings,
    }
