"""A procedural sample: drawn machined parts, some with defects, and their masks."""

from __future__ import annotations

from .draw import DEFECT_TYPES, SampleImage, draw_sample

__all__ = ["DEFECT_TYPES", "SampleImage", "draw_sample"]
