"""The GPU of a search: which one, how much memory it may take, and what to do when that fails."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from ...errors import BackendError
from ..memory import free_memory

_SHARE = 0.9  # of the free device memory, where no limit is given


def search_device(z: Tensor) -> torch.device:
    """Where z is searched: on its own GPU, from host memory on the current GPU."""
    if z.device.type == "cpu" and torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    return z.device


def launching_on(device: torch.device) -> AbstractContextManager[Any]:
    """Makes `device` the current one, since Triton launches kernels on the current device."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def limit_of(device: torch.device, memory_limit: int | None) -> int:
    """`memory_limit`, or 90% of the free bytes of `device`."""
    if memory_limit is not None:
        return memory_limit
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int((free + cached) * _SHARE)
    return free_memory() // 2


def with_retry(run: Callable[[int], None], device: torch.device, memory_limit: int | None) -> None:
    """`run(limit)`, and once more with half the limit where the device runs out of memory.

    Another process may have taken memory of the device since the limit was found.

    Raises BackendError where the second run fails too.
    """
    limit = limit_of(device, memory_limit)
    try:
        with launching_on(device):
            return run(limit)
    except torch.OutOfMemoryError:
        pass  # the second run is outside this block, so that tensors of the first are freed
    if device.type == "cuda":
        torch.cuda.empty_cache()
    try:
        with launching_on(device):
            run(limit // 2)
    except torch.OutOfMemoryError as error:
        raise BackendError(
            f"{device} ran out of memory with a plan for {limit / 2**20:.0f} MiB and with one for "
            f"half of that: another process may be using the card. Free some of its memory, pass a "
            "smaller memory_limit, or use backend='cpu'"
        ) from error
