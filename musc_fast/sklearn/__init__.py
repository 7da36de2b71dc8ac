"""Mutual scoring as an estimator of scikit-learn."""

from __future__ import annotations

from .detector import MuScDetector

__all__ = ["MuScDetector"]
