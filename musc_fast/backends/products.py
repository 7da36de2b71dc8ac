"""Matrix products of float32 in float32, whatever precision the process allows elsewhere."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from ..errors import BackendError
from .torch_state import outside_autocast


def ieee_products_why_not() -> str | None:
    """None where `ieee_products` works, else the reason in a few words."""
    if not hasattr(torch.backends, "fp32_precision"):
        return f"torch {torch.__version__} is older than 2.9, and exact fp32 products need it"
    return None


_lock = threading.Lock()
_inside = 0  # blocks of `ieee_products` that are running
_before: list[str] = []  # the settings before the first of them


@contextmanager
def ieee_products() -> Iterator[None]:
    """Within, torch multiplies float32 matrices in float32: no TF32, no bfloat16, no autocast.

    The settings of the process are restored when the last of several threads leaves. A setting that
    is inherited from `torch.backends.fp32_precision` stays inherited.

    Raises BackendError where torch is older than 2.9, whose settings these are.
    """
    global _inside, _before
    reason = ieee_products_why_not()
    if reason is not None:
        raise BackendError(reason)
    settings: list[Any] = [torch.backends.cuda.matmul, torch.backends.mkldnn.matmul]  # type: ignore[attr-defined]
    with _lock:
        if _inside == 0:
            _before = [setting.fp32_precision for setting in settings]
            for setting in settings:
                setting.fp32_precision = "ieee"
        _inside += 1
    try:
        with outside_autocast():
            yield
    finally:
        with _lock:
            _inside -= 1
            if _inside == 0:
                for setting, value in zip(settings, _before, strict=True):
                    setting.fp32_precision = "none"  # inherits
                    if setting.fp32_precision != value:
                        setting.fp32_precision = value
