"""The interval mean by bisection against a sort in fp64."""

from __future__ import annotations

import pytest
import torch

from musc_fast.backends.cpu import operators as native


@pytest.mark.parametrize("count", [1, 2, 5, 63, 200])
def test_equals_the_sorted_mean_for_every_interval(count: int) -> None:
    generator = torch.Generator().manual_seed(count)
    plain = torch.rand(2, 30, count, generator=generator)
    ties = torch.randint(0, 3, plain.shape, generator=generator).float()
    wide = plain.double().pow(20).float()  # 1e-30 beside 1
    step = 1 if count < 10 else 31
    for distances in (plain, ties, wide, plain - 0.5, torch.full_like(plain, 0.25)):
        ordered = distances.double().sort(-1).values
        for k_min in range(0, count, step):
            few_less = [max(k_min + 1, count - left) for left in range(5)]
            for k_max in {k_min + 1, (k_min + count) // 2 + 1, *few_less}:
                found = native.interval_mean(distances, k_min, k_max)
                expected = ordered[..., k_min:k_max].mean(-1)
                assert torch.allclose(found.double(), expected, rtol=1e-6, atol=1e-7)


def test_infinity_sorts_last() -> None:
    distances = torch.tensor([[[torch.inf, 3.0, 1.0], [2.0, torch.inf, 2.0]]])
    assert native.interval_mean(distances, 0, 2).tolist() == [[2.0, 2.0]]
    assert native.interval_mean(distances, 1, 2).tolist() == [[3.0, 2.0]]
    assert native.interval_mean(distances, 1, 3).isinf().all()


def test_ties_are_exact() -> None:
    """0.1 a million times over sums to what it should."""
    distances = torch.full((1, 1, 100_000), 0.1)
    assert native.interval_mean(distances, 0, 99_999).item() == torch.tensor(0.1).item()


@pytest.mark.usefixtures("threads")
def test_any_number_of_threads_and_strides() -> None:
    distances = torch.rand(3, 700, 11, generator=torch.Generator().manual_seed(0))
    torch.set_num_threads(1)
    expected = native.interval_mean(distances, 1, 4)
    torch.set_num_threads(3)
    assert torch.equal(native.interval_mean(distances, 1, 4), expected)
    assert torch.equal(native.interval_mean(distances.mT.contiguous().mT, 1, 4), expected)


def test_wrong_bounds_are_refused() -> None:
    with pytest.raises(ValueError, match="k_min"):
        native.interval_mean(torch.rand(1, 2, 3), 2, 2)
    with pytest.raises(ValueError, match="k_min"):
        native.interval_mean(torch.rand(1, 2, 3), 0, 4)
