"""LNAMD in C++ against the same steps in fp64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from musc_fast import _C
from musc_fast.backends.cpu import operators as native


def truth(tokens: Tensor, grid: tuple[int, int], degree: int) -> Tensor:
    n, p, c = tokens.shape
    maps = tokens.double().transpose(1, 2).reshape(n, c, *grid)
    maps = torch.nn.functional.layer_norm(maps, maps.shape[1:], eps=1e-5)
    maps = torch.nn.functional.avg_pool2d(maps, degree, 1, degree // 2, count_include_pad=True)
    return torch.nn.functional.normalize(maps.reshape(n, c, p).transpose(1, 2), dim=2)


@pytest.mark.parametrize("grid", [(1, 1), (5, 7), (16, 16), (37, 37), (3, 40)])
@pytest.mark.parametrize("channels", [40, 384])
def test_equals_the_definition(grid: tuple[int, int], channels: int) -> None:
    generator = torch.Generator().manual_seed(0)
    tokens = 3 * torch.randn(2, grid[0] * grid[1], channels, generator=generator) + 1
    degrees = (1, 3, 5, 9)
    for degree, found in zip(degrees, native.lnamd(tokens, grid, degrees), strict=True):
        assert float((found - truth(tokens, grid, degree)).abs().max()) < 1e-6


def test_outlier_channels_and_large_offsets() -> None:
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randn(2, 256, 384, generator=generator) + 50
    tokens[..., 7] *= 100
    for degree, found in zip((1, 5), native.lnamd(tokens, (16, 16), (1, 5)), strict=True):
        assert float((found - truth(tokens, (16, 16), degree)).abs().max()) < 1e-5


def test_constant_image_is_zero() -> None:
    for z in native.lnamd(torch.full((1, 49, 40), 3.3), (7, 7), (1, 3, 5)):
        assert bool((z == 0).all())


@pytest.mark.usefixtures("threads")
def test_threads_agree_to_the_bit_and_rows_are_unit() -> None:
    tokens = torch.randn(5, 37 * 20, 40, generator=torch.Generator().manual_seed(2))
    torch.set_num_threads(1)
    expected = native.lnamd(tokens, (37, 20), (3, 5))
    assert float((expected[0].norm(dim=2) - 1).abs().max()) < 1e-6
    for threads in (2, 3):
        torch.set_num_threads(threads)
        for a, b in zip(native.lnamd(tokens, (37, 20), (3, 5)), expected, strict=True):
            assert torch.equal(a, b)


def test_instruction_sets_agree_to_the_bit() -> None:
    tokens = torch.randn(1, 30, 50, generator=torch.Generator().manual_seed(3))
    results = []
    for isa in _C.instruction_sets():
        out = torch.full_like(tokens, torch.nan)
        _C.lnamd(
            isa=isa,
            tokens=tokens,
            images=1,
            height=5,
            width=6,
            channels=50,
            degrees=[3],
            out=[out],
            threads=1,
        )
        results.append(out)
    assert all(torch.equal(result, results[0]) for result in results)
    assert float((results[0] - truth(tokens, (5, 6), 3)).abs().max()) < 1e-6
