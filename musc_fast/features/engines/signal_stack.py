"""A thread's alternate signal stack, kept from OpenVINO.

OpenVINO's CPU plugin gives the thread that compiles a model an alternate stack for signal handlers
(for the large registers of AMX, on processors without it too), and frees its memory with the
plugin. Where threads share a plugin, one is left with a stack that is gone, and the next signal
that Python handles there, Ctrl-C or SIGTERM, ends the process (findings/openvino_signal_stack.sh).
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_DISABLED = 2  # SS_DISABLE of Linux


class SignalStack(ctypes.Structure):
    """Linux's stack_t. flags 2 (SS_DISABLE): there is none."""

    _fields_ = (("sp", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


def current_signal_stack() -> SignalStack:
    """The alternate signal stack of this thread; Linux only."""
    found = SignalStack()
    ctypes.CDLL(None).sigaltstack(None, ctypes.byref(found))
    return found


@contextmanager
def kept_signal_stack() -> Iterator[None]:
    """Leave this thread with the alternate signal stack that it has; without one, with none."""
    if sys.platform != "linux":
        yield
        return
    before = current_signal_stack()
    try:
        yield
    finally:
        restore = ctypes.CDLL(None).sigaltstack
        if restore(ctypes.byref(before), None) != 0:
            # It is too small for the registers that this process may use by now.
            restore(ctypes.byref(SignalStack(None, _DISABLED, 0)), None)
