"""These tests run kernels on CPU tensors in Triton's interpreter, in a process of their own.

`tests/kernels/test_interpreter.py` starts it; anywhere else they are not collected, since the
interpreter must be chosen before Triton is imported.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch

if os.environ.get("TRITON_INTERPRET") != "1":
    collect_ignore_glob = ["test_*.py"]
else:
    torch.set_num_threads(1)  # tiny tensors: threads cost more than they bring


@pytest.fixture(autouse=True)
def _uninitialised_memory_is_nan() -> Iterator[None]:
    """`torch.empty` gives NaN (or the largest integer), so that an unwritten output shows."""
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    torch.use_deterministic_algorithms(False)
