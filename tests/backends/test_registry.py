"""The choice of a backend."""

from __future__ import annotations

import pytest
import torch

from musc_fast.backends import BACKENDS, resolve
from musc_fast.backends import registry as backends
from musc_fast.errors import BackendError, InputError


def test_auto_takes_the_first_usable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(backends.ENVIRONMENT_VARIABLE, raising=False)
    device = torch.device("cpu")
    usable = [backend.name for backend in BACKENDS if backend.why_not(device) is None]
    assert resolve("auto", device).name == usable[0]
    assert "reference" in usable


def test_a_backend_is_looked_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(backends.ENVIRONMENT_VARIABLE, raising=False)
    asked: list[str] = []

    def counting(name: str, reason: str | None) -> backends.Backend:
        def why_not(device: torch.device) -> str | None:
            asked.append(name)
            return reason

        return backends.Backend(name, "", "reference", why_not)

    table = (counting("a", "it is broken"), counting("b", None), counting("c", None))
    monkeypatch.setattr(backends, "BACKENDS", table)
    for cached in (backends._first_usable, backends._named):
        cached.cache_clear()
    try:
        assert [resolve("auto", "cpu").name for _ in range(3)] == ["b"] * 3
        assert asked == ["a", "b"]  # not c, which would do as well
        assert [resolve("c", "cpu").name for _ in range(2)] == ["c"] * 2
        assert asked == ["a", "b", "c"]
        for _ in range(2):  # a refusal is looked into again
            with pytest.raises(BackendError, match="it is broken"):
                resolve("a", "cpu")
        assert asked[3:] == ["a", "a"]
    finally:
        for cached in (backends._first_usable, backends._named):
            cached.cache_clear()


def test_a_name_that_is_no_string() -> None:
    with pytest.raises(InputError, match=r"backend: found \['cpu'\]"):
        resolve(["cpu"], "cpu")  # type: ignore[arg-type]


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
