"""Settings of torch that hold for a thread or the process, left or changed for a while.

What is computed must not depend on them: autocast would turn exact products into bfloat16. What is
changed is restored when the last of several threads has left, never to a value in between.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import ParamSpec, TypeVar

import torch

_P = ParamSpec("_P")
_R = TypeVar("_R")
_KINDS = ("cpu", "cuda", "mps")

_lock = threading.Lock()
_inside = 0  # blocks of `one_thread` that are running
_outer = 0  # torch's threads before the first of them


@contextmanager
def outside_autocast() -> Iterator[None]:
    """Within, operations keep the dtypes of their operands, in this thread."""
    with ExitStack() as left:
        for kind in _KINDS:
            if torch.is_autocast_enabled(kind):
                left.enter_context(torch.autocast(kind, enabled=False))
        yield


def leaves_autocast(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """The function, run by `outside_autocast`."""

    @wraps(function)
    def call(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        with outside_autocast():
            return function(*args, **kwargs)

    return call


def steps_leave_autocast(
    function: Callable[_P, Iterator[_R]],
) -> Callable[_P, Iterator[_R]]:
    """The generator function, each step of which is run by `outside_autocast`."""

    @wraps(function)
    def steps(*args: _P.args, **kwargs: _P.kwargs) -> Iterator[_R]:
        with outside_autocast():
            found = function(*args, **kwargs)
        while True:
            with outside_autocast():
                try:
                    step = next(found)
                except StopIteration:
                    return
            yield step

    return steps


@contextmanager
def one_thread() -> Iterator[None]:
    """Within, torch works on one thread.

    torch holds the number for each thread, and one for threads to come. A thread that begins while
    another is in such a block takes over the 1, and is given the number from before the first.
    """
    global _inside, _outer
    with _lock:
        before = torch.get_num_threads()
        if _inside == 0:
            _outer = before
        elif before == 1:
            before = _outer
        _inside += 1
        torch.set_num_threads(1)
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            torch.set_num_threads(before)
