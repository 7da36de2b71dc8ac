"""Backbones: images in, patch tokens out.

Importing this package touches neither open_clip nor timm; they are imported by `load_backbone`.
"""

from __future__ import annotations

from .backbone import Backbone, Features, load_backbone
from .registry import BackboneInfo, BackboneSpec, SourceStatus, available_backbones, get_spec

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
