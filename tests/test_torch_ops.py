"""The registered operators: schema, fake kernels, and one graph under torch.compile."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from musc_fast import reference
from musc_fast import torch_ops as library
from musc_fast.errors import InputError

Z = torch.nn.functional.normalize(torch.randn(4, 6, 40), dim=2)
D = torch.rand(4, 6, 3)
CALLS: list[tuple[Any, tuple[Any, ...]]] = [
    (library.lnamd, (Z, [2, 3], [1, 3], "reference")),
    (library.patch_to_image, (Z, None, "exact", "reference")),
    (library.patch_to_image, (Z, Z[:2].clone(), "exact", "reference")),
    (library.interval_mean, (D, 0, 2, "reference")),
    (library.msm, (Z, None, 0, 1, "exact", "reference")),
    (library.patch_to_image, (Z, None, "exact", "torch", 1 << 24)),
    (library.msm, (Z, None, 0, 1, "exact", "torch", 1 << 24)),
]


@pytest.mark.parametrize(("operator", "arguments"), CALLS)
def test_opcheck(operator: Any, arguments: tuple[Any, ...]) -> None:
    torch.library.opcheck(operator, arguments)


def test_the_memory_limit_reaches_the_backend() -> None:
    call = torch.ops.musc_fast.msm
    assert torch.equal(
        call(Z, None, 0, 1, "exact", "torch", 1 << 24), call(Z, None, 0, 1, "exact", "torch")
    )
    with pytest.raises(InputError, match="memory_limit"):
        call(Z, None, 0, 1, "exact", "torch", memory_limit=1)


def test_a_compiled_function_is_one_graph() -> None:
    def scores(tokens: Tensor) -> Tensor:
        (z,) = torch.ops.musc_fast.lnamd(2 * tokens, [2, 3], [3], "reference")
        found: Tensor = torch.ops.musc_fast.msm(z, None, 0, 2, "exact", "reference")
        return found + 1

    wanted = reference.msm(reference.lnamd(2 * Z.double(), (2, 3), [3])[0], None, 0, 2) + 1
    compiled = torch.compile(scores, fullgraph=True, backend="eager")
    assert (compiled(Z) - wanted).abs().max() < 1e-5
