"""Import this before musc_fast: benchmarks then run from a checkout that is not installed.

`kernels/` installs as `musc_fast.kernels`; without an installation that name is given to it here.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
if importlib.util.find_spec("musc_fast") is None:
    sys.path.append(str(ROOT))  # last: its `kernels/` must not hide kernels.py beside this file
if importlib.util.find_spec("musc_fast.kernels") is None:
    _spec = importlib.util.spec_from_file_location(
        "musc_fast.kernels",
        ROOT / "kernels" / "__init__.py",
        submodule_search_locations=[str(ROOT / "kernels")],
    )
    assert _spec is not None
    assert _spec.loader is not None
    sys.modules[_spec.name] = importlib.util.module_from_spec(_spec)
    _spec.loader.exec_module(sys.modules[_spec.name])
