"""The demo sample: drawn photographs of machined parts, some defective, with masks."""

from __future__ import annotations

from .draw import DEFECT_TYPES, SampleImage, draw_sample

__all__ = ["DEFECT_TYPES", "SampleImage", "draw_sample"]
