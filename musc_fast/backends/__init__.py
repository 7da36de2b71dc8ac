"""The backends: families of implementations of the operators, and the choice among them."""

from __future__ import annotations

from .registry import BACKENDS, ENVIRONMENT_VARIABLE, Backend, resolve

__all__ = ["BACKENDS", "ENVIRONMENT_VARIABLE", "Backend", "resolve"]
