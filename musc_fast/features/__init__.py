"""Backbones: images in, patch tokens out.

Names of `backbone`, which needs torch, are imported on first use; the table of backbones needs
none. open_clip and timm are imported by `load_backbone` alone.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from .registry import BackboneInfo, SourceStatus, available_backbones, get_spec
from .spec import BackboneSpec

if TYPE_CHECKING:
    from .backbone import Backbone, Features, load_backbone

__all__ = [
    "Backbone",
    "BackboneInfo",
    "BackboneSpec",
    "Features",
    "SourceStatus",
    "available_backbones",
    "get_spec",
    "load_backbone",
]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(importlib.import_module(".backbone", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
