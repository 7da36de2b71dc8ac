"""The certificate: no rounding may push a candidate's lower bound above its distance."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from musc_fast.backends.rounded_images import fit_space, hadamard, principal_directions

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
    space = fit_space(z, None, dtype, channels)
    side = space.apply(z)
    assert side.values.dtype == dtype
    values = side.values.flatten(0, 1).double()
    squared = (values[:, None] - values[None]).square().sum(2) * side.scale**2
    x = z.flatten(0, 1).double()
    truth = (x[:, None] - x[None]).square().sum(2).sqrt()
    errors = side.rounding_error.flatten()
    slack = (errors[:, None] + errors[None]).double()
    error = side.error(side.largest())
    lower = (squared - error).clamp_min(0).sqrt() - slack
    assert bool((lower <= truth).all())
    residual = side.residual_norm.flatten().double()
    upper = (squared + error + 4 * residual[:, None] * residual[None]).sqrt() + slack
    assert bool((truth <= upper).all())
    # The bounds are of use: rows far apart keep a bound above zero.
    assert float((lower / truth.clamp_min(1e-9)).amax()) > 0.5


def test_norms_are_those_of_the_rounded_rows() -> None:
    z = rows(4, 30, 96)
    for dtype, channels in CASES:
        side = fit_space(z, None, dtype, channels).apply(z)
        exact = side.values.double().square().sum(2)
        if dtype == torch.int8:
            assert torch.equal(side.norms.double(), exact)
        else:
            assert torch.allclose(side.norms.double(), exact, rtol=1e-5)
        assert torch.equal(side.images(1, 3).norms, side.norms[1:3])


@pytest.mark.parametrize("channels", [32, 96, 384])
def test_hadamard_keeps_distances(channels: int) -> None:
    x = torch.randn(20, channels, dtype=torch.float64)
    rotated = hadamard(x)
    assert torch.allclose(torch.cdist(rotated, rotated), torch.cdist(x, x))
    hot = torch.zeros(1, channels)
    hot[0, 3] = 1
    assert float(hadamard(hot).abs().max()) < 0.5  # spread over its block


def test_principal_directions_are_ordered_and_orthonormal() -> None:
    x = rows(4, 100, 64).flatten(0, 1)
    x = x - x.mean(0)
    basis = principal_directions(x, 8)
    assert float((basis.T @ basis - torch.eye(8)).abs().max()) < 1e-6
    captured = (x @ basis).square().sum(0)
    assert torch.equal(captured.argsort(descending=True), torch.arange(8))
    _, values, _ = torch.linalg.svd(x, full_matrices=False)
    assert float(captured.sum()) > 0.999 * float(values[:8].square().sum())


def test_float16_rounds_closer_than_bfloat16() -> None:
    z = rows(4, 30, 96)
    sides = [fit_space(z, None, dtype).apply(z) for dtype in (torch.float16, torch.bfloat16)]
    assert 4 * float(sides[0].rounding_error.mean()) < float(sides[1].rounding_error.mean())


def test_a_constant_input_is_no_problem() -> None:
    z = torch.full((2, 5, 40), 0.25)
    for dtype, channels in CASES:
        side = fit_space(z, None, dtype, channels).apply(z)
        assert bool(torch.isfinite(side.rounding_error).all())
        assert float(side.values.float().abs().max()) < 1e-6
