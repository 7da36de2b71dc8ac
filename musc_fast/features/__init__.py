"""Backbones: images in, patch tokens out.

Public names are imported on first use: the table of backbones needs no torch, and open_clip and
timm are imported by `load_backbone` alone.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .backbone import Backbone, Features, load_backbone
    from .registry import BackboneInfo, SourceStatus, available_backbones, get_spec
    from .spec import BackboneSpec

_HOME = {
    "Backbone": "backbone",
    "BackboneInfo": "registry",
    "BackboneSpec": "spec",
    "Features": "backbone",
    "SourceStatus": "registry",
    "available_backbones": "registry",
    "get_spec": "registry",
    "load_backbone": "backbone",
}

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
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)


def __dir__() -> list[str]:
    return __all__
