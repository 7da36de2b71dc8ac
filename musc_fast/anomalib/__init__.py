"""MuSc as a model of anomalib: runs in its Engine and its command, with its data and metrics.

    from musc_fast.anomalib import MuSc

    model = MuSc()  # fit takes the training images as a bank of references
    model = MuSc(zero_shot=True)  # no fit: the images of a test score each other

The public names need anomalib 2.7 (`pip install 'musc-fast[anomalib]'`) and are imported on first
use; the modules `scorer`, `judging` and `squash` do without it. docs/anomalib.md tells more.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .model import MuSc
    from .processors import MuScPostProcessor, MuScPreProcessor

_HOME = {"MuSc": "model", "MuScPostProcessor": "processors", "MuScPreProcessor": "processors"}

__all__ = ["MuSc", "MuScPostProcessor", "MuScPreProcessor"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        importlib.import_module("anomalib")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"musc_fast.anomalib.{name} needs anomalib: pip install 'musc-fast[anomalib]' ({error})"
        ) from None
    return getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)


def __dir__() -> list[str]:
    return __all__
