"""New images scored against earlier ones: `ReferenceBank`."""

from __future__ import annotations

from .eviction import EVICTIONS, Eviction
from .reference_bank import ReferenceBank

__all__ = ["EVICTIONS", "Eviction", "ReferenceBank"]
