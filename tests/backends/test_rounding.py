"""The certificate: no rounding may push a candidate's lower bound above its distance."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from musc_fast.backends import rounding as operands

CASES = [
    (torch.float32, None),
    (torch.float16, None),
    (torch.float16, 15),
    (torch.bfloat16, None),
    (torch.int8, None),
    (torch.int8, 15),
    (torch.int8, 63),
]


def rows(n: int, p: int, c: int, offset: float = 0.0) -> Tensor:
    generator = torch.Generator().manual_seed(c)
    scale = torch.arange(1, c + 1).float() ** -1.0
    z = torch.randn(n, p, c, generator=generator) * scale
    z[..., c // 3] *= 30
    z[1] = z[0]
    z[2] = z[0] + 1e-4 * z[2]
    return z + offset


@pytest.mark.parametrize(("dtype", "channels"), CASES)
@pytest.mark.parametrize("offset", [0.0, 50.0])
def test_bounds_hold_for_every_pair(
    dtype: torch.dtype, channels: int | None, offset: float
) -> None:
    z = rows(4, 30, 96, offset)
    space = operands.fit_space(z, None, dtype, channels)
    side = space.apply(z)
    assert side.values.dtype == dtype
    values = side.values.flatten(0, 1).double()
    squared = (values[:, None] - values[None]).square().sum(2) * side.step**2
    x = z.flatten(0, 1).double()
    truth = (x[:, None] - x[None]).square().sum(2).sqrt()
    rho = side.rho.flatten()
    slack = (rho[:, None] + rho[None]).double()
    error = side.error(side.largest())
    lower = (squared - error).clamp_min(0).sqrt() - slack
    assert bool((lower <= truth).all())
    tail = side.tail.flatten().double()
    upper = (squared + error + 4 * tail[:, None] * tail[None]).sqrt() + slack
    assert bool((truth <= upper).all())
    # And they are of use: far apart rows keep a bound above zero.
    assert float((lower / truth.clamp_min(1e-9)).amax()) > 0.5


def test_norms_are_those_of_the_rounded_rows() -> None:
    z = rows(4, 30, 96)
    for dtype, channels in CASES:
        side = operands.fit_space(z, None, dtype, channels).apply(z)
        exact = side.values.double().square().sum(2)
        if dtype == torch.int8:
            assert torch.equal(side.norms.double(), exact)
        else:
            assert torch.allclose(side.norms.double(), exact, rtol=1e-5)
        assert torch.equal(side.images(1, 3).norms, side.norms[1:3])


@pytest.mark.parametrize("channels", [32, 96, 384])
def test_hadamard_keeps_distances(channels: int) -> None:
    x = torch.randn(20, channels, dtype=torch.float64)
    rotated = operands.hadamard(x)
    assert torch.allclose(torch.cdist(rotated, rotated), torch.cdist(x, x))
    hot = torch.zeros(1, channels)
    hot[0, 3] = 1
    assert float(operands.hadamard(hot).abs().max()) < 0.5  # spread over its block


def test_principal_directions_are_ordered_and_orthonormal() -> None:
    x = rows(4, 100, 64).flatten(0, 1)
    x = x - x.mean(0)
    basis = operands.principal_directions(x, 8)
    assert float((basis.T @ basis - torch.eye(8)).abs().max()) < 1e-6
    kept = (x @ basis).square().sum(0)
    assert torch.equal(kept.argsort(descending=True), torch.arange(8))
    _, values, _ = torch.linalg.svd(x, full_matrices=False)
    assert float(kept.sum()) > 0.999 * float(values[:8].square().sum())


def test_the_chosen_space_follows_the_spectrum() -> None:
    flat = torch.nn.functional.normalize(torch.randn(3, 64, 256), dim=2)
    steep = rows(4, 1369, 384)[[0, 3]]
    assert operands.choose_space(flat, flat, True).basis is None
    chosen = operands.choose_space(steep, steep, True)
    assert chosen.dtype == torch.int8
    assert chosen.basis is not None


def test_float16_rounds_closer_than_bfloat16() -> None:
    z = rows(4, 30, 96)
    sides = [
        operands.fit_space(z, None, dtype).apply(z) for dtype in (torch.float16, torch.bfloat16)
    ]
    assert 4 * float(sides[0].rho.mean()) < float(sides[1].rho.mean())


def test_int8_is_left_out_where_it_gains_nothing() -> None:
    steep = rows(4, 1369, 384)[[0, 3]]
    chosen = operands.choose_space(steep, steep, True, int8_gain=0.1)
    assert chosen.dtype == torch.float16
    assert chosen.basis is not None


def test_a_constant_input_is_no_problem() -> None:
    z = torch.full((2, 5, 40), 0.25)
    for dtype, channels in CASES:
        side = operands.fit_space(z, None, dtype, channels).apply(z)
        assert bool(torch.isfinite(side.rho).all())
        assert float(side.values.float().abs().max()) < 1e-6
