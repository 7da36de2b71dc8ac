"""The defaults of torch under which models are built, filled and traced."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_defaults = threading.RLock()


@contextmanager
def plain_defaults() -> Iterator[None]:
    """Within, the libraries of models make float32 tensors on the CPU.

    torch has one default dtype for the process, so one thread at a time is within.
    """
    with _defaults, torch.device("cpu"):
        before = torch.get_default_dtype()
        torch.set_default_dtype(torch.float32)
        try:
            yield
        finally:
            torch.set_default_dtype(before)
