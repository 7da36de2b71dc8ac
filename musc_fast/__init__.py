"""musc_fast: zero-shot anomaly detection for batches of product images (MuSc, ICLR 2024).

    from musc_fast import MuSc, score_batch

The public names are imported on first use; importing the package loads no kernel and no model.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from ._version import __version__

if TYPE_CHECKING:
    from .bank.reference_bank import ReferenceBank
    from .errors import (
        BackendError,
        BankError,
        ImageError,
        InputError,
        MuscFastError,
        MuscFastWarning,
        WeightsError,
    )
    from .image_scores import ImageScores, judge_batch
    from .musc import MuSc
    from .scoring.batch import score_batch
    from .scoring.scores import BatchScores
    from .threshold import Threshold, find_threshold, judge_by_references

_HOME = {
    "BackendError": "errors",
    "BankError": "errors",
    "BatchScores": "scoring.scores",
    "ImageError": "errors",
    "ImageScores": "image_scores",
    "InputError": "errors",
    "MuSc": "musc",
    "MuscFastError": "errors",
    "MuscFastWarning": "errors",
    "ReferenceBank": "bank",
    "Threshold": "threshold",
    "WeightsError": "errors",
    "find_threshold": "threshold",
    "judge_batch": "image_scores",
    "judge_by_references": "threshold",
    "score_batch": "scoring",
}

__all__ = [
    "BackendError",
    "BankError",
    "BatchScores",
    "ImageError",
    "ImageScores",
    "InputError",
    "MuSc",
    "MuscFastError",
    "MuscFastWarning",
    "ReferenceBank",
    "Threshold",
    "WeightsError",
    "__version__",
    "find_threshold",
    "judge_batch",
    "judge_by_references",
    "score_batch",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)


def __dir__() -> list[str]:
    return __all__
