"""The tests of the C++ backend need the compiled extension; without it they are left out."""

from __future__ import annotations

import importlib
from types import ModuleType

import pytest

from lib.bench_extension import bench_extension

collect_ignore_glob: list[str] = []
try:
    importlib.import_module("musc_fast._C")
except ImportError:
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture(scope="session")
def bench() -> ModuleType:
    """The extension module _C_bench: parts of the search by themselves; built here where needed."""
    return bench_extension()
