"""One run: images in, a results folder out. The command and the benchmarks share it."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch

from .._version import __version__
from ..backends.registry import resolve
from ..distributed.launch import launched, score_over_ranks
from ..errors import ImageError, InputError
from ..features.extraction import BatchFeatures, check_apart
from ..musc import MuSc
from ..progress import StageProgress, stage_bars
from ..report.folder import staged
from ..report.heatmap import MapScale, scale_of
from ..report.results import write_results, write_settings
from ..report.run import ScoredBatch
from ..scoring.scores import BatchScores
from ..threshold import find_threshold


def score_images(
    musc: MuSc,
    paths: Sequence[Path],
    out: Path,
    *,
    references: Sequence[Path] | None = None,
    maps: bool = True,
    map_scale: MapScale = "batch",
    threshold: float | None = None,
    expected_defect_rate: float | None = None,
    skip_bad: bool = False,
    shown: bool = True,
) -> ScoredBatch:
    """Score image files and write the results folder `out` (see `report.results`).

    `out` holds the complete results or what it held before. `shown` draws progress bars. Images
    are flagged by the rule of `find_threshold` on the raw scores; `threshold` flags raw scores from
    there on instead, `expected_defect_rate` that share of the batch. map_scale "image" gives each
    picture a scale of its own.
    Under torchrun this is for rank 0; the others call `score_over_ranks` meanwhile.
    Raises ImageError listing the unreadable images unless `skip_bad`, InputError where an option is
    out of range or `out` holds something else than an earlier run.
    """
    flag = partial(find_threshold, value=threshold, expected_defect_rate=expected_defect_rate)
    # A wrong option fails before the work, not after it.
    flag(np.zeros(1))
    scale_of(np.zeros((1, 1, 1)), map_scale)
    if references is None and len(paths) < 2:
        raise InputError(
            "one image has no others to be scored against; give at least two, or references"
        )
    check_apart(paths, references or ())
    with staged(out, [*paths, *(references or ())]) as stage, stage_bars(shown) as report:
        query, others, scores = _scored(musc, paths, references, skip_bad, report)
        raw_scores = scores.raw_image_scores.cpu().numpy()
        run = ScoredBatch(
            paths=[paths[source] for source in query.sources],
            image_scores=scores.image_scores.cpu().numpy(),
            raw_scores=raw_scores,
            anomaly_maps=scores.anomaly_maps.cpu().numpy(),
            settings=run_settings(musc, query, others),
            threshold=flag(raw_scores),
        )
        start = perf_counter()
        write_results(
            stage,
            run,
            maps=maps,
            map_scale=map_scale,
            progress=lambda done, total: report("pictures", done, total),
        )
        run.settings["seconds"]["pictures"] = round(perf_counter() - start, 3)
        write_settings(stage, run, map_scale)
    return run


def _scored(
    musc: MuSc,
    paths: Sequence[Path],
    references: Sequence[Path] | None,
    skip_bad: bool,
    report: StageProgress,
) -> tuple[BatchFeatures, BatchFeatures | None, BatchScores]:
    """Features and scores, in this process or, on rank 0 of several, with the others."""
    if launched()[1] > 1:
        found = score_over_ranks(musc, paths, references, skip_bad=skip_bad, progress=report)
        assert found is not None  # this is rank 0
        return found
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
    return query, others, musc.score_features(query, others, progress=report)


def run_settings(
    musc: MuSc, query: BatchFeatures, others: BatchFeatures | None = None
) -> dict[str, Any]:
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
        "chosen_backend": resolve(musc.settings.backend, backbone.device).name,
        "rscin": musc.use_cls and query.cls_tokens is not None,
        **musc.settings.keywords(),
        "seconds": {name: round(value, 3) for name, value in musc.timings.items()},
    }
