"""What run.json and a report tell of how scores were made."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from typing import Any

import torch

from .._version import __version__
from ..backends.registry import resolve
from ..features.extraction import BatchFeatures
from ..musc import MuSc


def chosen_backend(musc: MuSc) -> str:
    """The name of the backend that scores for `musc`; "auto" is resolved."""
    return resolve(musc.settings.backend, musc.backbone.device).name


def run_settings(
    musc: MuSc,
    features: BatchFeatures,
    references: BatchFeatures | None = None,
    *,
    seconds: Mapping[str, float],
    place: int | None = None,
) -> dict[str, Any]:
    """Versions, settings and counts of a run, with which it can be repeated.

    features, references: of the images scored and of their references; the tokens are not read.
    seconds: what each stage took.
    place: how far from their own place patches were compared, see `BatchScores`.
    """
    backbone = musc.backbone
    bad = [*features.bad, *(references.bad if references else ())]
    notes = [*features.notes, *(references.notes if references else ())]
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
        "recipe": musc.recipe,
        "blocks": list(backbone.blocks),
        "device": str(backbone.device),
        "engine": backbone.engine,
        "feature_precision": backbone.precision,
        "chosen_backend": chosen_backend(musc),
        "rscin": musc.use_cls and features.cls_tokens is not None,
        **musc.settings.keywords(),
        "chosen_place": "off" if place is None else place,
        "seconds": {stage: round(value, 3) for stage, value in seconds.items()},
    }
