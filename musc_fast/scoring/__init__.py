"""From patch tokens to anomaly maps and image scores: `score_batch`."""

from __future__ import annotations

from .batch import BatchScores, score_batch

__all__ = ["BatchScores", "score_batch"]
