"""How much memory this process may still use."""

from __future__ import annotations

from ..scratch import free_memory

__all__ = ["free_memory"]
