"""Float32 products in float32, and the settings of the process before and after."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from musc_fast.backends import registry
from musc_fast.backends.products import ieee_products
from musc_fast.backends.torch_state import one_thread
from musc_fast.errors import BackendError
from musc_fast.neighbors import batched_zero_shot

SETTINGS: list[Any] = [torch.backends.cuda.matmul, torch.backends.mkldnn.matmul]  # type: ignore[attr-defined]
GENERIC: Any = torch.backends


def values() -> list[str]:
    return [setting.fp32_precision for setting in SETTINGS]


@pytest.fixture(autouse=True)
def _settings_of_the_process() -> Iterator[None]:
    before = GENERIC.fp32_precision
    yield
    for setting in SETTINGS:
        setting.fp32_precision = "none"
    GENERIC.fp32_precision = before


def test_settings_come_back_after_an_error_too() -> None:
    for setting in SETTINGS:
        setting.fp32_precision = "tf32"

    def fail() -> None:
        with ieee_products():
            assert values() == ["ieee", "ieee"]
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert values() == ["tf32", "tf32"]


def test_an_inherited_setting_stays_inherited() -> None:
    for setting in SETTINGS:
        setting.fp32_precision = "none"
    GENERIC.fp32_precision = "tf32"
    with ieee_products():
        assert values() == ["ieee", "ieee"]
    assert values() == ["tf32", "tf32"]
    GENERIC.fp32_precision = "ieee"
    assert values() == ["ieee", "ieee"]


def test_an_older_torch_is_refused_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(type(torch.backends), "fp32_precision")
    registry._named.cache_clear()
    with pytest.raises(BackendError, match=r"older than 2\.9, and exact fp32 products need it"):
        batched_zero_shot(torch.randn(2, 3, 4))
    with pytest.raises(BackendError, match=r"'torch' cannot run on cpu: .* older than 2\.9"):
        registry.resolve("torch", "cpu")


def test_settings_are_those_of_before_however_threads_overlap() -> None:
    for setting in SETTINGS:
        setting.fp32_precision = "tf32"
    first_left, second_in = threading.Event(), threading.Event()
    within: list[list[str]] = []

    def overlap() -> None:
        with ieee_products():
            second_in.set()
            assert first_left.wait(60)
            within.append(values())

    with ieee_products():
        thread = threading.Thread(target=overlap)
        thread.start()
        assert second_in.wait(60)
    within.append(values())  # the second thread still multiplies
    first_left.set()
    thread.join()
    assert within == [["ieee", "ieee"], ["ieee", "ieee"]]
    assert values() == ["tf32", "tf32"]


@pytest.mark.usefixtures("threads")
def test_number_of_threads_is_that_of_before_however_threads_overlap() -> None:
    torch.set_num_threads(3)
    ended: list[int] = []

    def born_within() -> None:
        with one_thread():
            pass
        ended.append(torch.get_num_threads())

    with one_thread():
        assert torch.get_num_threads() == 1
        thread = threading.Thread(target=born_within)
        thread.start()
        thread.join()
    assert torch.get_num_threads() == 3
    later = threading.Thread(target=lambda: ended.append(torch.get_num_threads()))
    later.start()
    later.join()
    assert ended == [3, 3]


def test_products_leave_autocast() -> None:
    x = torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
    wanted = x @ x
    with torch.autocast("cpu", dtype=torch.bfloat16), ieee_products():
        assert torch.equal(x @ x, wanted)
