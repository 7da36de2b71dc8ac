"""Matrix products of float32 in float32, whatever precision the process allows elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from ..errors import BackendError


def ieee_products_why_not() -> str | None:
    """None where `ieee_products` works, else the reason in a few words."""
    if not hasattr(torch.backends, "fp32_precision"):
        return f"torch {torch.__version__} is older than 2.9, and exact fp32 products need it"
    return None


@contextmanager
def ieee_products() -> Iterator[None]:
    """Within, torch multiplies float32 matrices in float32: no TF32, no bfloat16.

    The settings of the process are restored afterwards. A setting that is inherited from
    `torch.backends.fp32_precision` stays inherited.

    Raises BackendError where torch is older than 2.9, whose settings these are.
    """
    reason = ieee_products_why_not()
    if reason is not None:
        raise BackendError(reason)
    settings: list[Any] = [torch.backends.cuda.matmul, torch.backends.mkldnn.matmul]  # type: ignore[attr-defined]
    before = [setting.fp32_precision for setting in settings]
    try:
        for setting in settings:
            setting.fp32_precision = "ieee"
        yield
    finally:
        for setting, value in zip(settings, before, strict=True):
            setting.fp32_precision = "none"  # inherits
            if setting.fp32_precision != value:
                setting.fp32_precision = value
