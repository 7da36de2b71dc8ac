"""LNAMD's CUDA kernel, run on the CPU, against the fp64 reference."""

from __future__ import annotations

import ctypes
import shutil

import emulated_cuda
import numpy as np
import pytest
import torch
from torch import Tensor

from musc_fast import reference

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="there is no g++")


@pytest.fixture(scope="module")
def kernels() -> ctypes.CDLL:
    return emulated_cuda.build()


def tokens_of(n: int, p: int, c: int) -> Tensor:
    tokens = torch.randn(n, p, c, generator=torch.Generator().manual_seed(p))
    tokens[..., c // 2] *= 100  # ViTs have a hot channel
    return tokens + 3


def run(
    kernels: ctypes.CDLL,
    x: Tensor,
    grid: tuple[int, int],
    degrees: tuple[int, ...],
    *,
    rows: int = 13,
    lag: int = 2,
) -> list[Tensor]:
    """The kernel's results for `degrees`; NaN where it wrote nothing."""
    n, p, c = x.shape
    found = {r: torch.full((n, p, c), float("nan")) for r in degrees}
    sums = np.full((n, 4, kernels.tiles(*grid, c, rows)), np.nan)
    count = np.zeros(1 + n, np.int32)
    tokens = emulated_cuda.Tokens(
        x.data_ptr(),
        x.stride(0),
        x.stride(1),
        emulated_cuda.address(sums),
        emulated_cuda.address(count),
        *(found[r].data_ptr() if r in found else None for r in (1, 3, 5)),
        *(n, *grid, c, rows, lag),
    )
    assert kernels.lnamd(ctypes.byref(tokens)) == 0
    return [found[r] for r in degrees]


@pytest.mark.parametrize(
    ("n", "grid", "c", "degrees", "rows", "lag"),
    [
        (1, (1, 1), 40, (1, 3, 5), 13, 1),
        (2, (1, 37), 40, (5, 1), 13, 2),
        (5, (5, 7), 132, (1, 3, 5), 2, 2),
        (2, (4, 3), 768, (3,), 1, 9),
        (1, (7, 9), 1024, (1, 3, 5), 4, 1),
        (1, (3, 5), 1028, (1, 3, 5), 2, 1),  # a strip of fewer columns
        (1, (2, 3), 2048, (3, 5), 2, 1),
        (2, (6, 2), 64, (1, 3), 13, 1),
        (2, (6, 6), 64, (1,), 4, 1),
        (2, (6, 6), 64, (5,), 4, 1),
    ],
)
def test_values(
    kernels: ctypes.CDLL,
    n: int,
    grid: tuple[int, int],
    c: int,
    degrees: tuple[int, ...],
    rows: int,
    lag: int,
) -> None:
    tokens = tokens_of(n, grid[0] * grid[1], c)
    wanted = reference.lnamd(tokens.double(), grid, degrees)
    found = run(kernels, tokens, grid, degrees, rows=rows, lag=lag)
    for z, truth in zip(found, wanted, strict=True):
        assert (z - truth).abs().max() < 2e-6
    for z, again in zip(
        found, run(kernels, tokens, grid, degrees, rows=rows, lag=lag), strict=True
    ):
        assert torch.equal(z, again)


def test_tokens_behind_a_class_token(kernels: ctypes.CDLL) -> None:
    tokens = tokens_of(2, 13, 40)[:, 1:]
    wanted = reference.lnamd(tokens.double(), (3, 4), [3])[0]
    assert (run(kernels, tokens, (3, 4), (3,))[0] - wanted).abs().max() < 2e-6


def test_a_constant_image_gives_zeros(kernels: ctypes.CDLL) -> None:
    tokens = torch.cat([torch.full((1, 12, 40), 0.1), tokens_of(1, 12, 40)])
    wanted = reference.lnamd(tokens.double(), (3, 4), [1, 3, 5])
    for z, truth in zip(run(kernels, tokens, (3, 4), (1, 3, 5)), wanted, strict=True):
        assert not z[0].any()
        assert (z[1] - truth[1]).abs().max() < 2e-6


def test_a_hot_token_leaves_no_trace_farther_away(kernels: ctypes.CDLL) -> None:
    tokens = tokens_of(1, 36, 40)
    tokens[0, 7] = 1e6
    wanted = reference.lnamd(tokens.double(), (12, 3), [1, 3, 5])
    for z, truth in zip(run(kernels, tokens, (12, 3), (1, 3, 5)), wanted, strict=True):
        assert (z - truth).abs().max() < 2e-5


def test_what_no_kernel_takes_is_refused(kernels: ctypes.CDLL) -> None:
    for c, rows, lag in ((42, 13, 1), (2052, 13, 1), (40, 0, 1), (40, 13, 0)):
        tokens = emulated_cuda.Tokens(channels=c, rows=rows, lag=lag, out_1=16)
        assert kernels.lnamd(ctypes.byref(tokens)) != 0
    assert kernels.lnamd(ctypes.byref(emulated_cuda.Tokens(channels=40, rows=1, lag=1))) != 0
