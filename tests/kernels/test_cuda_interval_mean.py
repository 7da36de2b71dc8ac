"""The CUDA kernel of the interval mean, run on the CPU, against a sort in fp64."""

from __future__ import annotations

import ctypes
import math
import shutil

import emulated_cuda
import pytest
import torch
from torch import Tensor

from musc_fast import reference

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="there is no g++")


@pytest.fixture(scope="module")
def kernels() -> ctypes.CDLL:
    return emulated_cuda.build()


def run(
    kernels: ctypes.CDLL,
    x: Tensor,
    k_min: int,
    k_max: int,
    *,
    squared: bool = False,
    kth: bool = False,
) -> Tensor:
    """The kernel's results for x [B, R, M]; NaN where it wrote nothing."""
    out = torch.full(x.shape[:2], math.nan)
    rows = emulated_cuda.Rows(
        x.data_ptr(), out.data_ptr(), *x.stride(), *x.shape, k_min, k_max, squared, kth
    )
    assert kernels.interval(ctypes.byref(rows)) == 0
    return out


def awkward_rows(m: int) -> Tensor:
    """[13, m]: ties, infinities, zeros of both signs, wide ranges, values of one exponent."""
    x = torch.randn(13, m, generator=torch.Generator().manual_seed(m))
    x[0] = math.inf
    x[1, m // 3 :] = math.inf
    x[2] = x[2].sign() * 10 ** (30 * x[2].clamp(-1, 1))
    x[3] = x[3].round()  # many ties
    x[4] = torch.where(x[4] < 0, -0.0, 0.0)
    x[5] = 1 + x[5] * 1e-7
    x[6] = x[6].abs() * 1e-42  # below the normal numbers
    x[7, : m // 2] = 3e38
    x[8, -1] = math.inf
    x[10] = x[10].abs()
    x[10, 1:3] = math.inf
    x[11] = torch.where(x[11] < 0, math.inf, 0.5)  # ties before the infinite
    x[9, : m // 2] = x[9, 0]
    return x


def laid_out(x: Tensor, layout: str) -> Tensor:
    """x [R, M] as [1, R, M] with rows side by side, rows on 16 bytes where M allows, or neither."""
    if layout == "rows":
        return x.T.contiguous().T[None]
    if layout == "columns":
        return torch.cat([torch.full((len(x), 1), -9e9), x], 1)[None, :, 1:]
    return x.contiguous()[None]


@pytest.mark.parametrize("m", [1, 2, 12, 65, 200, 208, 209, 500, 1664])
@pytest.mark.parametrize("layout", ["fours", "rows", "columns"])
def test_every_place_is_found(kernels: ctypes.CDLL, m: int, layout: str) -> None:
    x = awkward_rows(m)
    ranked = x.double().sort(1).values
    x = laid_out(x, layout)
    for k_max in {1, max(1, m // 3), m // 3 + 1, max(1, m - 1), m}:
        kth = run(kernels, x, k_max - 1, k_max, kth=True)[0]
        assert torch.equal(kth.double(), ranked[:, k_max - 1])
        for k_min in {0, k_max // 2}:
            wanted = ranked[:, k_min:k_max].mean(1)
            found = run(kernels, x, k_min, k_max)[0].double()
            finite = torch.isfinite(wanted) & (wanted.abs() < 1e35)
            assert torch.equal(torch.isinf(found[:2]), torch.isinf(wanted[:2]))
            largest = ranked[:, k_min:k_max].abs().amax(1)
            assert bool(((found - wanted).abs() <= 3e-7 * largest + 1e-44)[finite].all())


@pytest.mark.parametrize("m", [1, 11, 200])
@pytest.mark.parametrize("layout", ["fours", "rows", "columns"])
def test_roots(kernels: ctypes.CDLL, m: int, layout: str) -> None:
    x = torch.rand(70, m, generator=torch.Generator().manual_seed(m))
    x[1] = 0.25  # ties everywhere
    x[3] *= 1e-20
    x[4, ::3] = 0
    if m > 1:
        x[:, m // 2] = math.inf
    count = max(1, m - 1)
    for k_min, k_max in {(0, 1), (0, max(1, int(0.3 * count))), (count // 3, count)}:
        wanted = reference.interval_mean(x.double().sqrt(), k_min, k_max)
        found = run(kernels, laid_out(x, layout), k_min, k_max, squared=True)[0]
        assert (found - wanted).abs().max() <= 3e-7 * max(1.0, float(wanted.abs().max()))
        assert torch.equal(found, run(kernels, laid_out(x, layout), k_min, k_max, squared=True)[0])


@pytest.mark.parametrize("transposed", [False, True])
def test_a_batch(kernels: ctypes.CDLL, transposed: bool) -> None:
    x = torch.rand(3, 20, 21, generator=torch.Generator().manual_seed(0))
    x = x.transpose(1, 2) if transposed else x
    wanted = reference.interval_mean(x.double(), 1, 6)
    assert (run(kernels, x, 1, 6) - wanted).abs().max() < 1e-6


@pytest.mark.parametrize("layout", ["fours", "gaps", "rows", "columns"])
@pytest.mark.parametrize("m", [20, 300])
def test_many_rows(kernels: ctypes.CDLL, layout: str, m: int) -> None:
    """More rows than the blocks hold at a time, so that the next ones arrive during a search."""
    x = torch.randn(3, 150, m + 4, generator=torch.Generator().manual_seed(m))
    x[1, ::7] = math.inf
    if layout == "rows":
        x = x.transpose(1, 2).contiguous().transpose(1, 2)
    x = {"gaps": x[..., :m], "columns": x[..., 1:-1]}.get(layout, x)
    ranked = x.double().sort(2).values
    found = run(kernels, x, 2, 9)
    wanted = ranked[..., 2:9].mean(2)
    assert torch.equal(torch.isinf(found), torch.isinf(wanted))
    assert (found - wanted)[torch.isfinite(wanted)].abs().max() < 1e-6
    assert torch.equal(run(kernels, x, 8, 9, kth=True).double(), ranked[..., 8])


def test_more_columns_are_refused(kernels: ctypes.CDLL) -> None:
    for stride in (1, 2):
        rows = emulated_cuda.Rows(stride_r=stride, columns=1665, rows=1, batch=1)
        assert kernels.interval(ctypes.byref(rows)) != 0
