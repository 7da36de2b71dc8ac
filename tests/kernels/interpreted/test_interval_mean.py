"""The interval mean against a sort in fp64."""

from __future__ import annotations

import math

import pytest
import torch

from musc_fast import reference
from musc_fast.kernels.interval_mean import average_interval, select_kth


@pytest.mark.parametrize("m", [1, 11, 200])
@pytest.mark.parametrize(("transposed", "squared"), [(False, False), (True, True)])
def test_values(m: int, transposed: bool, squared: bool) -> None:
    generator = torch.Generator().manual_seed(m)
    x = torch.rand(5, m, generator=generator)
    x[1] = 0.25  # ties everywhere
    x[2, : m // 2] = x[2, 0]
    x[3] *= 1e-20
    x[4, ::3] = 0
    if m > 1:
        x[:, m // 2] = math.inf
    if transposed:
        x = x.T.contiguous().T
    count = m - 1 if m > 1 else 1
    roots = x.double().sqrt() if squared else x.double()
    for k_min, k_max in {(0, 1), (0, max(1, int(0.3 * count))), (count // 3, count)}:
        wanted = reference.interval_mean(roots, k_min, k_max)
        found = average_interval(x[None], k_min, k_max, squared=squared)[0]
        assert (found - wanted).abs().max() <= 3e-7 * max(1.0, float(wanted.abs().max()))
        assert torch.equal(select_kth(x[None], k_max)[0], x.sort(1).values[:, k_max - 1])


def test_many_columns_are_read_in_parts() -> None:
    x = torch.randn(1, 9000)  # negative values too
    x[0, 100:200] = -0.5
    wanted = reference.interval_mean(x.double(), 50, 4500)
    assert (average_interval(x[None], 50, 4500)[0] - wanted).abs().max() < 1e-6
    assert torch.equal(select_kth(x[None], 8999)[0], x.sort(1).values[:, 8998])


def test_a_batch_of_columns() -> None:
    x = torch.rand(3, 20, 7)  # [B, M, R]
    wanted = reference.interval_mean(x.transpose(1, 2).double(), 1, 6)
    assert (average_interval(x.transpose(1, 2), 1, 6) - wanted).abs().max() < 1e-6


def awkward_rows(m: int) -> torch.Tensor:
    """[8, m]: ties, infinities, zeros of both signs, wide ranges, values of one exponent."""
    generator = torch.Generator().manual_seed(m)
    x = torch.randn(8, m, generator=generator)
    x[0] = math.inf
    x[1, m // 3 :] = math.inf
    x[2] = x[2].sign() * 10 ** (30 * x[2].clamp(-1, 1))
    x[3] = x[3].round()  # many ties
    x[4] = torch.where(x[4] < 0, -0.0, 0.0)
    x[5] = 1 + x[5] * 1e-7
    x[6] = x[6].abs() * 1e-42  # below the normal numbers
    x[7, : m // 2] = 3e38
    return x


@pytest.mark.parametrize("m", [12, 37])  # rows on 16 bytes, and not
@pytest.mark.parametrize("transposed", [False, True])
def test_every_place_is_found(m: int, transposed: bool) -> None:
    x = awkward_rows(m)
    ranked = x.double().sort(1).values
    if transposed:
        x = x.T.contiguous().T
    for k_max in {1, m // 3, m - 1, m}:
        assert torch.equal(select_kth(x[None], k_max)[0].double(), ranked[:, k_max - 1])
        for k_min in {0, k_max - 1} if k_max == m else {k_max // 2}:
            wanted = ranked[:, k_min:k_max].mean(1)
            found = average_interval(x[None], k_min, k_max)[0].double()
            finite = torch.isfinite(wanted) & (wanted.abs() < 1e35)
            assert torch.equal(torch.isinf(found[:2]), torch.isinf(wanted[:2]))
            largest = ranked[:, k_min:k_max].abs().amax(1)
            assert bool(((found - wanted).abs() <= 3e-7 * largest + 1e-44)[finite].all())


def test_rows_that_begin_anywhere() -> None:
    whole = torch.rand(2, 4, 41, generator=torch.Generator().manual_seed(0))
    for x in (whole[:, :, 1:], whole[:, :, :40], whole[:, 1:, 4:40], whole[:, :, ::2]):
        wanted = reference.interval_mean(x.double(), 2, 11)
        found = average_interval(x, 2, 11)
        assert (found - wanted).abs().max() < 1e-6
        assert (found - average_interval(x.contiguous(), 2, 11)).abs().max() < 1e-6
