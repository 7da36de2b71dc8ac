"""A pytest plugin for `make sanitize`: musc_fast._C is the module below build/sanitize."""

from __future__ import annotations

import importlib.util
import sys
import sysconfig
from pathlib import Path

FILE = Path(__file__).parents[2] / "build" / "sanitize" / "musc_fast"
NAME = "musc_fast._C"

_spec = importlib.util.spec_from_file_location(
    NAME, FILE / f"_C{sysconfig.get_config_var('EXT_SUFFIX')}"
)
assert _spec is not None
assert _spec.loader is not None
sys.modules[NAME] = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(sys.modules[NAME])
