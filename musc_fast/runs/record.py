"""What run.json and a report tell of how scores were made."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from .._version import __version__
from ..backends.registry import resolve
from ..features.extraction import BatchFeatures
from ..musc import MuSc


def chosen_backend(musc: MuSc) -> str:
    """The name of the backend that scores for `musc`; "auto" is resolved."""
    return resolve(musc.settings.backend, musc.backbone.device).name


def valid_grids(features: BatchFeatures, grid: tuple[int, int]) -> NDArray[np.bool_] | None:
    """The patches that count, [N, H, W]; None: all."""
    valid = features.valid
    return None if valid is None else valid.cpu().numpy().reshape(len(valid), *grid)


def run_settings(
    musc: MuSc,
    features: BatchFeatures,
    references: BatchFeatures | None = None,
    *,
    seconds: Mapping[str, float],
) -> dict[str, Any]:
    """Versions, settings and counts of a run, with which it can be repeated.

    features, references: of the images scored and of their references; the tokens are not read.
    seconds: what each stage took.
    """
    backbone, ignored = musc.backbone, musc.extractor.ignored
    bad = [*features.bad, *(references.bad if references else ())]
    notes = [*features.notes, *(references.notes if references else ())]
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
        **({} if ignored is None else {"ignore": list(ignored.names)}),
        "recipe": musc.recipe,
        "blocks": list(backbone.blocks),
        "device": str(backbone.device),
        "engine": backbone.engine,
        "feature_precision": backbone.precision,
        "chosen_backend": chosen_backend(musc),
        "rscin": musc.use_cls and features.cls_tokens is not None,
        **musc.settings.keywords(),
        "seconds": {stage: round(value, 3) for stage, value in seconds.items()},
    }
