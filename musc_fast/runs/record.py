"""What run.json and a report tell of how scores were made."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from .._version import __version__
from ..backends.registry import resolve
from ..features.extraction import BatchFeatures
from ..musc import MuSc
from ..registration import own_grid
from ..scoring.findings import record, sentences
from ..scoring.scores import BatchScores


def chosen_backend(musc: MuSc) -> str:
    """The name of the backend that scores for `musc`; "auto" is resolved."""
    return resolve(musc.settings.backend, musc.backbone.device).name


def how_seen(musc: MuSc, features: BatchFeatures) -> dict[str, Any]:
    """The arguments `reading`, `valid` and `left_out` of a ScoredBatch of these features."""
    extractor, valid = musc.extractor, features.valid
    grid = features.grid
    return {
        "reading": replace(extractor.reading, white=features.white),
        "valid": (
            None
            if valid is None
            else own_grid(valid.reshape(-1, *grid), features.frames).cpu().numpy()
        ),
        "left_out": extractor.ignored,
    }


def run_settings(
    musc: MuSc,
    features: BatchFeatures,
    references: BatchFeatures | None = None,
    *,
    scores: BatchScores,
    seconds: Mapping[str, float],
) -> dict[str, Any]:
    """Versions, settings and counts of a run, with which it can be repeated.

    features, references: of the images scored and of their references; the tokens are not read.
    scores: with the copies and repeats that were found, and how far patches were compared.
    seconds: what each stage took.
    """
    backbone, ignored = musc.backbone, musc.extractor.ignored
    tiling = features.tiling
    scoring = musc.settings.keywords()
    scoring["tiles"] = None if tiling.is_whole else list(tiling.tiles)
    scoring["tile_margin"] = None if tiling.is_whole else musc.settings.tile_margin
    names = features.names, () if references is None else references.names
    bad = [*features.bad, *(references.bad if references else ())]
    notes = [*musc.notes, *features.notes, *(references.notes if references else ())]
    place = scores.place
    if place is not None:
        notes.append(
            "Each patch was compared with the patches of the other images at its own place"
            + (f" and at most {place} from it." if place else " alone.")
        )
    return {
        "musc_fast": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "images": len(features.sources),
        "references": None if references is None else len(references.sources),
        "skipped": [reason for _, reason in bad],
        "notes": notes,
        "white": features.white,
        "max_pixels": musc.extractor.reading.max_pixels,
        "backbone": backbone.spec.name,
        "weights": backbone.source,
        "image_size": list(backbone.image_size),
        "map_size": list(features.image_size),
        "align": musc.extractor.align,
        "align_frame": None if features.frames is None else features.frames.name,
        "align_moved": 0 if features.frames is None else int(features.frames.moved.sum()),
        **({} if ignored is None else {"ignore": list(ignored.names)}),
        "recipe": musc.recipe,
        "blocks": list(backbone.blocks),
        "device": str(backbone.device),
        "engine": backbone.engine,
        "feature_precision": backbone.precision,
        "chosen_backend": chosen_backend(musc),
        "rscin": musc.use_cls and features.cls_tokens is not None,
        **scoring,
        "findings": list(sentences(scores, *names)),
        **record(scores, *names),
        "chosen_place": "off" if place is None else place,
        "seconds": {stage: round(value, 3) for stage, value in seconds.items()},
    }
