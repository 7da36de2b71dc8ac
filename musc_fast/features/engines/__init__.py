"""Engines: what computes the forward pass of a backbone."""

from __future__ import annotations

from .registry import ENGINES, Engine, resolve_engine

__all__ = ["ENGINES", "Engine", "resolve_engine"]
