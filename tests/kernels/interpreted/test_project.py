"""The projection against fp64: its components, its residuals and the bound on its errors."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from musc_fast.backends.rounded_images import basis_errors, principal_directions
from musc_fast.kernels.project import project_rows, split_basis


def drawn(count: int, channels: int) -> Tensor:
    generator = torch.Generator().manual_seed(channels)
    scale = torch.arange(1, channels + 1).float() ** -1.0
    z = torch.randn(count, channels, generator=generator) * scale
    z[:, channels // 3] *= 30
    return z + 2


@pytest.mark.parametrize(
    ("channels", "size", "dtype", "factor"),
    [
        (72, 15, torch.float32, 1.0),
        (200, 63, torch.float16, 1.0),
        (384, 127, torch.float32, 1e-9),
        (520, 95, torch.float32, 1e9),
    ],
)
def test_the_bound_covers_the_error(
    channels: int, size: int, dtype: torch.dtype, factor: float
) -> None:
    z = (drawn(300, channels) * factor).to(dtype)
    z[7] = z[3]
    z[8] = 0
    mean = z.float().mean(0)
    x = z.float() - mean
    basis = principal_directions(x, size)
    error = float(basis_errors(basis, [size])[0])
    largest, depth = float(x.abs().max()), -(-(size + 1) // 32) * 32
    centre = 0.1 * factor
    few = slice(0, 70)
    rows, residuals, errors = project_rows(
        z[few].contiguous(), mean, split_basis(basis, error), centre, depth, largest
    )
    exact = z[few].double() - mean.double()
    inside = exact @ basis.double()
    outside = torch.linalg.vector_norm(exact - inside @ basis.double().T, dim=1)
    wanted = torch.cat([inside, outside[:, None] - centre], dim=1)
    off = torch.linalg.vector_norm(rows[:, : size + 1].double() - wanted, dim=1)
    assert bool((off <= errors).all())
    assert not rows[:, size + 1 :].any()
    # The bound is of use, and the values are much closer than it promises.
    norms = torch.linalg.vector_norm(exact, dim=1)
    assert bool((errors <= 2e-3 * norms + 1e-5 * largest).all())
    assert bool((off <= 0.1 * errors).all())
    assert torch.allclose(residuals.double(), outside, rtol=1e-3, atol=1e-5 * largest)


def test_clipped_entries_widen_the_bound() -> None:
    z = drawn(40, 64)
    mean = z.mean(0)
    basis = principal_directions(z - mean, 15)
    z[5] *= 1e6
    error = float(basis_errors(basis, [15])[0])
    largest = 1.0
    rows, _, errors = project_rows(z, mean, split_basis(basis, error), 0.0, 32, largest)
    inside = (z.double() - mean.double()) @ basis.double()
    off = torch.linalg.vector_norm(rows[:, :15].double() - inside, dim=1)
    assert bool(torch.isfinite(rows).all())
    assert bool((off <= errors).all())
    assert float(errors[5]) > float(1e3 * errors[:5].max())


def test_a_row_inside_the_subspace_has_no_residual() -> None:
    z = drawn(40, 64)
    mean = z.mean(0)
    basis = principal_directions(z - mean, 15)
    inside = (z - mean) @ basis @ basis.T + mean
    rows, residuals, errors = project_rows(inside, mean, split_basis(basis, 1e-6), 0.0, 32, 30.0)
    assert bool((residuals <= errors).all())
    assert bool((rows[:, 15] == residuals).all())
