"""The command `musc-fast`: one file a command; importing this package imports no PyTorch."""

from __future__ import annotations

from .app import main

__all__ = ["main"]
