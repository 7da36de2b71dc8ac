"""New images scored against earlier ones: `ReferenceBank`."""

from __future__ import annotations

from .reference_bank import EVICTIONS, Eviction, ReferenceBank

__all__ = ["EVICTIONS", "Eviction", "ReferenceBank"]
