"""The plain fp32 and bf16 kernels: every pair once, both directions from one tile."""

from __future__ import annotations

from types import ModuleType

import cases
import pytest
import torch

from lib.plain_search import plain_distances, plain_kinds
from musc_fast import _C
from musc_fast.backends.cpu.rounded_images import default_isa


@pytest.mark.parametrize("kind", plain_kinds())
@pytest.mark.parametrize(
    ("images", "patches", "channels"), [(2, 1, 40), (5, 150, 384), (3, 300, 64)]
)
def test_distances(kind: str, images: int, patches: int, channels: int) -> None:
    z = cases.features(images, patches, channels)
    truth = cases.distances(z)
    found = plain_distances(z, kind).double()
    finite = truth.isfinite()
    assert bool(found[~finite].isinf().all())
    tolerance = 1e-4 if kind == "fp32" else 2e-2
    assert float((found - truth)[finite].abs().max()) < tolerance


@pytest.mark.usefixtures("threads")
def test_threads_agree_to_the_bit() -> None:
    z = cases.features(6, 100, 64)
    torch.set_num_threads(1)
    expected = plain_distances(z)
    torch.set_num_threads(3)
    assert torch.equal(plain_distances(z), expected)


def test_the_limit_is_counted_in_operations(bench: ModuleType) -> None:
    isa = _C.instruction_sets()[default_isa()]
    for kind, elements in (("int8", isa.elements), ("fp32", 1)):
        one, two = (bench.peak(isa=default_isa(), kind=kind, steps=steps) for steps in (1, 2))
        assert two == 2 * one > 0
        assert one % (2 * 16 * elements) == 0
