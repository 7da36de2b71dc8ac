"""The extension module of the CUDA C++ kernels (`csrc/cuda`), for GPUs that it is compiled for."""

from __future__ import annotations

import importlib
from functools import cache
from typing import Any

import torch

from ...kernels.devices import arch_of

ARCH = 90  # the only GPU that the kernels have run on


def cuda_kernels(device: torch.device) -> Any:
    """The module, or None where it is not built or `device` is no GPU of sm_90."""
    return _module() if device.type == "cuda" and arch_of(device) == ARCH else None


@cache
def _module() -> Any:
    try:
        return importlib.import_module("musc_fast._C_cuda")
    except ImportError:
        return None


def current_stream(device: torch.device) -> int:
    """The handle of the stream that torch works on."""
    handle: int = torch.cuda.current_stream(device).cuda_stream
    return handle
