"""What "auto" is on which device."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from musc_fast.errors import InputError
from musc_fast.features import precision
from musc_fast.features.precision import native_bf16, resolve_precision

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(
    ("found", "native"),
    [
        ({"avx512_bf16": True, "amx_bf16": False}, True),
        ({"avx512_bf16": False, "amx_bf16": True}, True),
        ({"avx512_bf16": False, "avx2": True}, False),
        ({}, False),
    ],
)
def test_bf16_is_native_where_the_processor_has_units_for_it(
    found: dict[str, Any], native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: found, raising=False)
    assert native_bf16() is native
    monkeypatch.delattr(torch.cpu, "get_capabilities")  # an older torch
    assert native_bf16() is False


def test_auto_on_each_device(monkeypatch: pytest.MonkeyPatch) -> None:
    for native, wanted in ((True, "bf16"), (False, "fp32")):
        monkeypatch.setattr(precision, "native_bf16", lambda native=native: native)
        assert resolve_precision("auto", CPU, rotary=False) == wanted
        assert resolve_precision("fp32", CPU, rotary=False) == "fp32"
        assert resolve_precision("bf16", CPU, rotary=False) == "bf16"
    assert resolve_precision("auto", GPU, rotary=False) == "fp16"
    assert resolve_precision("auto", GPU, rotary=True) == "bf16"
    assert resolve_precision("fp32", GPU, rotary=True) == "fp32"
    with pytest.raises(InputError, match="feature_precision: found 'fp16', wanted one of auto, fp"):
        resolve_precision("fp16", GPU, rotary=False)
