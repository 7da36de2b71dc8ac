"""The operators that a backend leaves out give what its own would."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from musc_fast.backends import reference as plain
from musc_fast.backends.base import Operators
from musc_fast.backends.defaults import with_defaults
from musc_fast.settings import SearchOptions

OPTIONS = SearchOptions()


@pytest.fixture
def operators() -> Operators:
    return with_defaults(
        lnamd=plain.lnamd,
        patch_to_image=plain.patch_to_image,
        interval_mean=plain.interval_mean,
        msm=plain.msm,
    )


def rows(*shape: int) -> Tensor:
    z = torch.randn(*shape, generator=torch.Generator().manual_seed(3))
    return torch.nn.functional.normalize(z, dim=2)


def test_parts_are_the_whole(operators: Operators) -> None:
    z = rows(5, 7, 6)
    whole = operators.msm(z, None, 0, 2, OPTIONS)
    parts = list(operators.msm_parts(z, None, 0, 2, [(0, 2), (2, 5)], OPTIONS))
    assert [len(part) for part in parts] == [2, 3]
    # Distances between parts pass through float32, those within `msm` do not.
    assert torch.allclose(torch.cat(parts), whole, atol=1e-6, rtol=0)
    [same] = operators.msm_parts(z, None, 0, 2, [(0, 5)], OPTIONS)
    assert torch.equal(same, whole)


def test_parts_against_references_and_lists(operators: Operators) -> None:
    z, others = rows(4, 7, 6), rows(6, 5, 6)
    whole = operators.msm(z, others, 1, 3, OPTIONS)
    parts = operators.msm_parts(z, others, 1, 3, [(0, 1), (1, 4)], OPTIONS)
    assert torch.equal(torch.cat(list(parts)), whole)
    lists = torch.tensor([[0, 2], [1, 5], [0, 1], [3, 4]])
    [found] = operators.msm_parts(z, others, 0, 2, [(0, 4)], OPTIONS, lists)
    wanted = [operators.msm(z[i : i + 1], others[lists[i]], 0, 2, OPTIONS) for i in range(4)]
    assert torch.equal(found, torch.cat(wanted))


def test_both_ways(operators: Operators) -> None:
    a, b = rows(2, 7, 6), rows(3, 5, 6)
    there, back = operators.between(a, b, OPTIONS)
    assert torch.equal(there, operators.patch_to_image(a, b, OPTIONS))
    assert torch.equal(back, operators.patch_to_image(b, a, OPTIONS))


def test_kept_references(operators: Operators) -> None:
    z, others = rows(2, 7, 6), rows(3, 7, 6)
    references = operators.keep_references(4, 7, 6, torch.device("cpu"))
    for slot in (0, 1):
        references.put(slot, others[slot])
    assert len(references) == 2
    assert torch.equal(
        references.msm(z, 0, 2, OPTIONS), operators.msm(z, others[:2], 0, 2, OPTIONS)
    )
    references.put(0, others[2])
    assert len(references) == 2
    assert torch.equal(
        references.msm(z, 0, 2, OPTIONS), operators.msm(z, others[[2, 1]], 0, 2, OPTIONS)
    )
