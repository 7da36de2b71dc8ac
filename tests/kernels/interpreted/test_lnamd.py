"""LNAMD against the fp64 reference."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from musc_fast import reference
from musc_fast.kernels.lnamd import Config, aggregate_neighbourhoods


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
        aggregate_neighbourhoods(tokens, (3, 4), [1, 3, 5, 7]),
        reference.lnamd(tokens.double(), (3, 4), [1, 3, 5, 7]),
        strict=True,
    ):
        assert not z[0].any()
        assert (z[1] - truth[1]).abs().max() < 1e-5


def test_strips_segments_and_order_change_no_bit() -> None:
    tokens = tokens_of(1, 35, 40)
    wanted = reference.lnamd(tokens.double(), (7, 5), [5, 3, 1])
    results = [
        aggregate_neighbourhoods(tokens, (7, 5), [5, 3, 1], config=config)
        for config in (
            Config(BLOCK_X=8, BLOCK_C=64, ROWS=16, BLOCK_S=2, num_warps=4, lag=0),
            Config(BLOCK_X=2, BLOCK_C=64, ROWS=4, BLOCK_S=2, num_warps=4, lag=1),
            Config(BLOCK_X=4, BLOCK_C=64, ROWS=1, BLOCK_S=2, num_warps=4, lag=9),
        )
    ]
    for found in results:
        for z, truth, first in zip(found, wanted, results[0], strict=True):
            assert (z - truth).abs().max() < 1e-5
            assert torch.equal(z, first)


def test_a_hot_token_leaves_no_trace_farther_away() -> None:
    # A running sum that adds and subtracts rows would keep the rounding of the hot token.
    tokens = tokens_of(1, 36, 40)
    tokens[0, 7] = 1e6
    for z, truth in zip(
        aggregate_neighbourhoods(tokens, (12, 3), [1, 3, 5]),
        reference.lnamd(tokens.double(), (12, 3), [1, 3, 5]),
        strict=True,
    ):
        assert (z - truth).abs().max() < 2e-5
