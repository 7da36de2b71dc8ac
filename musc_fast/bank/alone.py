"""Methods that one thread at a time runs on an object."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import wraps
from typing import Concatenate, ParamSpec, Protocol, TypeVar

_P = ParamSpec("_P")
_R = TypeVar("_R")


class Locked(Protocol):
    """An object with a lock of its own."""

    _lock: threading.RLock


_L = TypeVar("_L", bound=Locked)


def alone(method: Callable[Concatenate[_L, _P], _R]) -> Callable[Concatenate[_L, _P], _R]:
    """The method, which one thread at a time runs on an object."""

    @wraps(method)
    def call(self: _L, /, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        with self._lock:
            return method(self, *args, **kwargs)

    return call
