"""The rounding kernel against `rounding.round_rows`, and its bound against fp64."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from musc_fast.backends.rounded_images import fit_space
from musc_fast.backends.triton.search import round_rows
from musc_fast.kernels.quantise import quantise_rows

CASES = [  # channels, dtype, principal components
    (40, torch.int8, None),
    (40, torch.float16, None),
    (72, torch.int8, 15),
    (384, torch.int8, None),
    (768, torch.float16, 7),
    (1024, torch.int8, None),
]


def rows_of(n: int, p: int, c: int) -> Tensor:
    generator = torch.Generator().manual_seed(c)
    z = torch.randn(n, p, c, generator=generator) + 5
    z[..., c // 3] *= 100
    z[1, 1] = z[0, 0]
    z[1, 2] = 0
    return z


@pytest.mark.parametrize(("c", "dtype", "components"), CASES)
def test_values_and_bounds(c: int, dtype: torch.dtype, components: int | None) -> None:
    z = rows_of(2, 7, c)
    space = fit_space(z, None, dtype, components)
    wanted = space.apply(z)
    found = space.apply(z, round_rows)
    assert found.values.shape == (2, 7, space.depth)
    assert found.values.dtype == dtype
    # Another order of sums may turn a value that lies between two.
    largest = float(wanted.values.double().abs().max())
    assert (found.values.double() - wanted.values.double()).abs().max() <= max(1e-3 * largest, 1)
    squares = found.values.double().square().sum(2)
    assert torch.allclose(found.norms.double(), squares, rtol=0 if dtype == torch.int8 else 1e-6)
    assert bool((found.rounding_error <= 1.2 * wanted.rounding_error + 1e-6).all())
    if components is None:  # the kernels bound a projection closer
        assert torch.allclose(found.rounding_error, wanted.rounding_error, rtol=0.1)
    apart = (found.residual_norm - wanted.residual_norm).abs()
    assert bool((apart <= 1e-2 * found.rounding_error).all())
    x = z.flatten(0, 1).double()
    truth = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist")
    values = found.values.flatten(0, 1).double()
    squared = (values[:, None] - values[None]).square().sum(2) * found.scale**2
    slack = (found.rounding_error.flatten()[:, None] + found.rounding_error.flatten()).double()
    lower = (squared - found.error(found.largest())).clamp_min(0).sqrt() - slack
    assert bool((lower <= truth).all())


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_errors_cover_the_rounding(dtype: torch.dtype) -> None:
    # Without a rotation the bound is for |x - mean - scale * values|.
    x = rows_of(2, 9, 40)[1].to(dtype)
    mean = x.float().mean(0)
    values, _, errors = quantise_rows(x, mean, torch.int8, 2.5, 64, spread=False)
    assert not values[:, 40:].any()
    difference = x.double() - mean.double() - 2.5 * values[:, :40].double()
    length = torch.linalg.vector_norm(difference, dim=1)
    assert bool((length <= errors).all())
    assert bool((errors <= 1.001 * length + 1e-2).all())


def test_large_values_are_clipped_and_the_bound_knows() -> None:
    x = torch.full((1, 32), 1000.0)
    values, norms, errors = quantise_rows(x, torch.zeros(32), torch.int8, 1.0, 32, spread=False)
    assert bool((values == 127).all())
    assert int(norms) == 32 * 127**2
    assert float(errors) == pytest.approx(873 * 32**0.5, rel=1e-4)


def test_zeros_stay_zeros() -> None:
    space = replace(fit_space(torch.ones(2, 3, 40), None, torch.int8), scale=1.0)
    found = space.apply(torch.ones(2, 3, 40), round_rows)
    assert not found.values.any()
    assert not found.norms.any()
    assert float(found.rounding_error.max()) < 1e-5
