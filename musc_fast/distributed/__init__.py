"""Mutual scoring over several processes and machines: `score_shard`."""

from __future__ import annotations

from .scoring import score_shard

__all__ = ["score_shard"]
