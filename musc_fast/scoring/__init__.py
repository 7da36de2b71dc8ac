"""From patch tokens to anomaly maps and image scores: `score_batch`."""

from __future__ import annotations

from .batch import score_batch
from .scores import BatchScores

__all__ = ["BatchScores", "score_batch"]
