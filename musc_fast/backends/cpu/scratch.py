"""Memory for rounded rows and scores, which one search leaves to the next.

The system clears every fresh page at its first use, which takes longer than the search's work on
the page, and scoring a batch takes a dozen searches of one shape. The process keeps at most 256
MiB, or a 32nd of the memory that was free at first where that is more. `release` gives the memory
back; a search with a `memory_limit` calls it before it begins.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

import torch
from torch import Tensor

from ..memory import LARGE, free_memory, in_large_pages

_KEPT = 256 << 20  # bytes that may be kept on any machine
_free: list[Tensor] = []  # uint8, the least recently used first
_lock = threading.Lock()


class _Owner:
    pass


def take(owner: object, size: int, dtype: torch.dtype) -> Tensor:
    """As `torch.empty`, until `owner` is deleted: nothing else may use the memory after that.

    Blocks of 4 MiB or more lie in large pages where the system has them.
    """
    wanted = size * dtype.itemsize
    block = _reused(wanted)
    if block is None:
        block = in_large_pages(torch.empty(wanted, dtype=torch.uint8, device="cpu"))
    weakref.finalize(owner, _give, block).atexit = False
    return block[:wanted].view(dtype)


@contextmanager
def lent(size: int, dtype: torch.dtype) -> Iterator[Tensor]:
    """As `take`, until the `with` block ends."""
    owner = _Owner()
    yield take(owner, size, dtype)


def release() -> None:
    """Give the memory that no search uses back to the system."""
    with _lock:
        _free.clear()


@lru_cache(maxsize=1)
def _most() -> int:
    """The most bytes that are kept."""
    return max(_KEPT, free_memory() // 32)


def _reused(wanted: int) -> Tensor | None:
    with _lock:
        fitting = [n for n, block in enumerate(_free) if wanted <= len(block) <= 2 * wanted]
        if not fitting:
            return None
        return _free.pop(min(fitting, key=lambda n: len(_free[n])))


def _give(block: Tensor) -> None:
    if len(block) < LARGE:  # smaller ones are not kept
        return
    with _lock:
        _free.append(block)
        kept = sum(len(other) for other in _free)
        while kept > _most():
            kept -= len(_free.pop(0))
