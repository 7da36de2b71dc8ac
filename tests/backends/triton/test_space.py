"""The choice of the rounding follows the spectrum of the rows and the speed of int8."""

from __future__ import annotations

import torch
from torch import Tensor

from musc_fast.backends.triton.space import choose_like_before, choose_space


def steep() -> Tensor:
    """Two images whose channels fall off as 1 / c, with a hot channel."""
    generator = torch.Generator().manual_seed(384)
    scale = torch.arange(1, 385).float() ** -1.0
    z = torch.randn(4, 1369, 384, generator=generator) * scale
    z[..., 128] *= 30
    return z[[0, 3]]


def test_the_chosen_space_follows_the_spectrum() -> None:
    flat = torch.nn.functional.normalize(torch.randn(3, 64, 256), dim=2)
    assert choose_space(flat, flat, True).basis is None
    chosen = choose_space(steep(), steep(), True)
    assert chosen.dtype == torch.int8
    assert chosen.basis is not None


def test_int8_is_left_out_where_it_gains_nothing() -> None:
    chosen = choose_space(steep(), steep(), True, int8_gain=0.1)
    assert chosen.dtype == torch.float16
    assert chosen.basis is not None


def test_a_choice_stands_for_two_more_searches_of_its_shape() -> None:
    device = torch.device("cpu")
    flat = torch.nn.functional.normalize(torch.randn(2, 1369, 384), dim=2)
    found = [
        choose_like_before(z, z, True, device, 2.0).basis is None
        for z in (steep(), flat, steep(), flat, steep())
    ]
    assert found == [False, False, False, True, True]
    other = choose_like_before(steep()[:, :1000], steep()[:, :1000], True, device, 2.0)
    assert other.basis is not None
