"""The choice of a backend."""

from __future__ import annotations

import pytest
import torch

from musc_fast.backends import BACKENDS, resolve
from musc_fast.backends import registry as backends
from musc_fast.errors import BackendError


def test_auto_takes_the_first_usable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(backends.ENVIRONMENT_VARIABLE, raising=False)
    device = torch.device("cpu")
    usable = [backend.name for backend in BACKENDS if backend.why_not(device) is None]
    assert resolve("auto", device).name == usable[0]
    assert "reference" in usable


def test_a_backend_that_cannot_run_says_why() -> None:
    with pytest.raises(BackendError, match="backend 'cpu' cannot run on cuda: "):
        resolve("cpu", "cuda")


def test_the_environment_stands_in_for_auto_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(backends.ENVIRONMENT_VARIABLE, "reference")
    assert resolve("auto", "cpu").name == "reference"
    monkeypatch.setenv(backends.ENVIRONMENT_VARIABLE, "nonsense")
    with pytest.raises(BackendError, match="nonsense"):
        resolve("auto", "cpu")
    assert resolve("reference", "cpu").name == "reference"
