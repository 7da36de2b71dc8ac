"""The table of engines, and the choice among them; needs no torch."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from importlib.util import find_spec
from typing import TYPE_CHECKING

from ...errors import BackendError, InputError

if TYPE_CHECKING:
    from .base import MakeModel

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Engine:
    """One way to compute the forward pass of a backbone.

    module: where its `make_model` is, below `musc_fast.features.engines`; imported on first use.
    why_not: called with the type of a device, as "cpu"; None where the engine can run, else the
        reason in a few words.
    """

    name: str
    summary: str
    module: str
    why_not: Callable[[str], str | None]

    def make_model(self) -> MakeModel:
        """The function that makes this engine's form of a loaded backbone."""
        found: MakeModel = importlib.import_module(f".{self.module}", __package__).make_model
        return found


def _openvino_why_not(device_type: str) -> str | None:
    if find_spec("openvino") is None:
        return "the package openvino is not installed; `pip install openvino` makes CPUs faster"
    try:
        version = metadata.version("openvino")
    except metadata.PackageNotFoundError:
        return "a folder named openvino is importable, but it is no installed package"
    if int(version.split(".")[0]) < _OLDEST_OPENVINO:
        return f"openvino {version} is older than {_OLDEST_OPENVINO}"
    return None if device_type == "cpu" else f"it works on CPUs, not on {device_type}"


def _torch_why_not(device_type: str) -> str | None:
    return None


_OLDEST_OPENVINO = 2026

# In the order in which "auto" tries them.
ENGINES: tuple[Engine, ...] = (
    Engine("openvino", "OpenVINO, on CPUs", "openvino_model", _openvino_why_not),
    Engine("torch", "PyTorch, on any device", "torch_model", _torch_why_not),
)


def resolve_engine(name: str, device_type: str) -> Engine:
    """The engine called `name` for a device of a type; "auto" takes the first usable one.

    Raises BackendError with the reason where an engine asked for by name cannot run, InputError
    where no engine has the name.
    """
    for engine in ENGINES:
        if isinstance(name, str) and name in ("auto", engine.name):
            reason = engine.why_not(device_type)
            if reason is None:
                return engine
            if name != "auto":
                raise BackendError(f"engine {name!r} cannot run on {device_type}: {reason}")
    known = ", ".join(["auto", *(engine.name for engine in ENGINES)])
    raise InputError(f"engine: found {name!r}, wanted one of {known}")


@cache
def advise(device_type: str) -> None:
    """Say once that "auto" takes a slower engine than a package that is missing would give."""
    reason = _openvino_why_not(device_type)
    if reason is not None and device_type == "cpu":
        logger.warning("features are extracted with PyTorch: %s", reason)
