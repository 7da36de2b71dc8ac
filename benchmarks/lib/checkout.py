"""Where the checkout lies; programs also run from a checkout that is not installed.

An installation puts the top-level folder `kernels/` into the package as `musc_fast.kernels`;
without an installation this module gives the folder that name.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared"  # real images and golden files that no commit holds
RESULTS = ROOT / "benchmarks" / "results"

if importlib.util.find_spec("musc_fast") is None:
    # Last on the path, since the folder `kernels/` must not hide the program kernels.py.
    sys.path.append(str(ROOT))
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
