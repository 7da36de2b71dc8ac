"""The table of backends, and the choice among them.

A backend is a module that ends with `OPERATORS` (see `base`). `musc_fast.ops` checks arguments, so
an operator need not.
"""

from __future__ import annotations

import importlib
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import metadata

import torch

from ..errors import BackendError
from ..settings import check_backend_name
from .base import Operators
from .products import ieee_products_why_not

logger = logging.getLogger(__name__)

ENVIRONMENT_VARIABLE = "MUSC_FAST_BACKEND"


@dataclass(frozen=True)
class Backend:
    """One family of implementations.

    module: where its operators are, below `musc_fast.backends`; imported on first use.
    why_not: called with a device; None where the backend can run, else the reason in a few words.
    """

    name: str
    summary: str
    module: str
    why_not: Callable[[torch.device], str | None]

    def operators(self) -> Operators:
        """The operators, those that the backend leaves out made of the others."""
        found: Operators = importlib.import_module(f"musc_fast.backends.{self.module}").OPERATORS
        return found


def _cpu_why_not(device: torch.device) -> str | None:
    try:
        importlib.import_module("musc_fast._C")
    except ImportError as error:
        return (
            f"the C++ extension is not built ({error}); install a C++ compiler and run "
            "`MUSC_FAST_BUILD=1 pip install .` to see why"
        )
    return None if device.type == "cpu" else f"it works on CPU tensors, not on {device.type}"


def _triton_why_not(device: torch.device) -> str | None:
    try:
        version = metadata.version("triton")
    except metadata.PackageNotFoundError:
        return "triton is not installed"
    if tuple(int(part) for part in version.split(".")[:2]) < (3, 6):
        return f"triton {version} is older than 3.6"
    if not torch.cuda.is_available():
        return "torch finds no CUDA device"
    if device.type not in ("cuda", "cpu"):
        return f"it works on CUDA and CPU tensors, not on {device.type}"
    major, minor = torch.cuda.get_device_capability(device if device.type == "cuda" else None)
    if major < 8:
        return f"sm_{major}{minor} is older than sm_80; use backend='torch'"
    return None


def _torch_why_not(device: torch.device) -> str | None:
    if device.type not in ("cuda", "cpu"):
        return f"it works on CUDA and CPU tensors, not on {device.type}"
    return ieee_products_why_not()


def _reference_why_not(device: torch.device) -> str | None:
    return (
        "this device has no float64; move the tokens to the CPU" if device.type == "mps" else None
    )


# In the order in which "auto" tries them.
BACKENDS: tuple[Backend, ...] = (
    Backend("cpu", "C++ kernels, AVX-512/AVX2/portable", "cpu.operators", _cpu_why_not),
    Backend("triton", "Triton kernels, sm_80 and later", "triton.operators", _triton_why_not),
    Backend("torch", "matrix products in PyTorch", "torch_matmul", _torch_why_not),
    Backend("reference", "plain PyTorch in fp64, any device", "reference", _reference_why_not),
)


def resolve(name: str, device: torch.device | str) -> Backend:
    """The backend called `name` for tensors on `device`; "auto" takes the first usable one.

    The environment variable MUSC_FAST_BACKEND stands in for "auto". A backend that was found once
    for a name and a device is not looked for again.

    Raises BackendError with the reason where a backend asked for by name cannot run, InputError
    where the name is no string.
    """
    check_backend_name(name)
    device = torch.device(device)
    if name == "auto":
        name = os.environ.get(ENVIRONMENT_VARIABLE) or "auto"
    # "cuda" without a number, and Triton for tensors of the CPU, stand for the current GPU.
    initialized: Callable[[], bool] = torch.cuda.is_initialized
    gpu = torch.cuda.current_device() if initialized() else None
    return _first_usable(device, gpu) if name == "auto" else _named(name, device, gpu)


@cache
def _first_usable(device: torch.device, current_gpu: int | None) -> Backend:
    reasons = []
    for backend in BACKENDS:
        reason = backend.why_not(device)
        if reason is None:
            logger.info("backend %s chosen for %s", backend.name, device.type)
            return backend
        reasons.append(f"{backend.name}: {reason}")
    raise BackendError(f"no backend can run on {device}: {'; '.join(reasons)}")


@cache
def _named(name: str, device: torch.device, current_gpu: int | None) -> Backend:
    for backend in BACKENDS:
        if backend.name == name:
            reason = backend.why_not(device)
            if reason is not None:
                raise BackendError(f"backend {name!r} cannot run on {device}: {reason}")
            return backend
    known = ", ".join(["auto", *(backend.name for backend in BACKENDS)])
    raise BackendError(f"unknown backend {name!r}; choose one of {known}")
