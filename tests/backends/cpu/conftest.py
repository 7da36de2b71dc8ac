"""The tests of the C++ backend need the compiled extension; without it they are left out."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from types import ModuleType

import pytest
import torch

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


@pytest.fixture
def threads() -> Iterator[None]:
    """Restores torch's number of threads after the test."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)
