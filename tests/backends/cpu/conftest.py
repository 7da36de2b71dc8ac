"""The native tests need the compiled extension; without it they are skipped with the reason."""

from __future__ import annotations

import importlib
from collections.abc import Iterator

import pytest
import torch

collect_ignore_glob: list[str] = []
try:
    importlib.import_module("musc_fast._C")
except ImportError:
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture
def threads() -> Iterator[None]:
    """Puts torch's number of threads back after the test."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)
