"""In which precision a backbone computes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from ..errors import InputError

FEATURE_PRECISIONS = ("auto", "fp32", "bf16")


def native_bf16() -> bool:
    """Whether this processor has units that multiply bf16 (AVX-512 BF16, AMX).

    Elsewhere bf16 is emulated and slower than fp32. A torch too old to tell, and other processors,
    where it was not measured, count as without.
    """
    ask: Callable[[], dict[str, Any]] = getattr(torch.cpu, "get_capabilities", dict)
    found = ask()
    return bool(found.get("avx512_bf16") or found.get("amx_bf16"))


def resolve_precision(asked: str, device: torch.device, *, rotary: bool) -> str:
    """ "fp32", "bf16" or "fp16": what "auto" is on a device, or what was asked for.

    On a CPU "auto" is bf16 where the processor multiplies it, else fp32. On a GPU it is fp16, as in
    the official code, or bf16 for rotary models such as DINOv3, whose activations exceed fp16.

    Raises InputError where `asked` is not one of FEATURE_PRECISIONS.
    """
    if not isinstance(asked, str) or asked not in FEATURE_PRECISIONS:
        raise InputError(
            f"feature_precision: found {asked!r}, wanted one of {', '.join(FEATURE_PRECISIONS)}"
        )
    if asked != "auto":
        return asked
    if device.type == "cpu":
        return "bf16" if native_bf16() else "fp32"
    return "bf16" if rotary else "fp16"
