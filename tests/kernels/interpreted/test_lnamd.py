"""LNAMD against the fp64 reference."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from musc_fast import reference
from musc_fast.kernels.lnamd import aggregate_neighbourhoods


def tokens_of(n: int, p: int, c: int) -> Tensor:
    tokens = torch.randn(n, p, c, generator=torch.Generator().manual_seed(p))
    tokens[..., c // 2] *= 100  # ViTs have a hot channel
    return tokens + 3


@pytest.mark.parametrize(
    ("n", "grid", "c", "degrees"),
    [
        (1, (1, 1), 40, [1, 3, 5]),
        (2, (1, 37), 40, [5, 1]),
        (2, (5, 7), 384, [1, 3, 5]),
        (2, (4, 3), 768, [3]),
        (1, (3, 4), 1024, [1, 3, 5, 7]),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_values(
    n: int, grid: tuple[int, int], c: int, degrees: list[int], dtype: torch.dtype
) -> None:
    tokens = tokens_of(n, grid[0] * grid[1], c).to(dtype)
    wanted = reference.lnamd(tokens.double(), grid, degrees)
    for z, truth in zip(aggregate_neighbourhoods(tokens, grid, degrees), wanted, strict=True):
        assert z.dtype == torch.float32
        assert (z - truth).abs().max() < 1e-5


def test_tokens_behind_a_class_token_need_no_copy() -> None:
    whole = tokens_of(2, 13, 40)
    wanted = reference.lnamd(whole[:, 1:].double(), (3, 4), [3])[0]
    assert (aggregate_neighbourhoods(whole[:, 1:], (3, 4), [3])[0] - wanted).abs().max() < 1e-5


def test_a_constant_image_gives_zeros() -> None:
    tokens = torch.cat([torch.full((1, 12, 40), 0.1), tokens_of(1, 12, 40)])
    for z, truth in zip(
        aggregate_neighbourhoods(tokens, (3, 4), [1, 3]),
        reference.lnamd(tokens.double(), (3, 4), [1, 3]),
        strict=True,
    ):
        assert not z[0].any()
        assert (z[1] - truth[1]).abs().max() < 1e-5
