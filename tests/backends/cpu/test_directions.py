"""Products on the search's threads, and the directions found with them."""

from __future__ import annotations

import pytest
import torch
from cases import features, isotropic

from musc_fast import _C
from musc_fast.backends.cpu.directions import Products, left_over, panels_of, principal_directions


@pytest.mark.parametrize("isa", list(_C.instruction_sets()))
@pytest.mark.parametrize(
    ("rows", "channels", "columns"),
    [(1, 1, 1), (7, 3, 16), (8, 64, 17), (33, 131, 48), (9, 1024, 5)],
)
def test_products(isa: str, rows: int, channels: int, columns: int) -> None:
    generator = torch.Generator().manual_seed(rows)
    x, mean = torch.randn(rows, channels, generator=generator), torch.randn(channels)
    right = torch.randn(channels, columns, generator=generator)
    # |error| <= u steps sum |x - mean| |right|: the certificate relies on partial sums of 64.
    steps = min(channels, 64) + (channels - 1) // 64 + 3
    bound = 2.0**-24 * steps * ((x - mean).abs().double() @ right.abs().double()) + 1e-30
    for threads in (1, 3):
        products = Products(isa, threads)
        found = products(x, right, mean).double()
        assert found.shape == (rows, columns)
        assert bool(((found - (x.double() - mean.double()) @ right.double()).abs() <= bound).all())
        assert torch.equal(products(x, right), products(x, right, torch.zeros(channels)))


def test_panels() -> None:
    basis = torch.arange(6.0).view(3, 2)
    panels = panels_of(basis)
    assert panels.shape == (1, 3, 16)
    assert torch.equal(panels[0, :, :2], basis)
    assert not panels[0, :, 2:].any()


def test_principal_directions_hold_nearly_the_most_that_any_can() -> None:
    rows = features(4, 200, 96).view(-1, 96)
    centred = rows - rows.mean(0)
    products = Products(next(iter(_C.instruction_sets())), 2)
    basis = principal_directions(products, centred, 24)
    assert float((basis.T @ basis - torch.eye(24).double()).abs().max()) < 1e-5
    energy = (centred.double() @ basis).square().sum(0)
    assert bool((energy[:-1] >= energy[1:] * 0.999).all()), "not ordered"
    most = torch.linalg.svdvals(centred.double()).square()
    assert float(energy[:16].sum()) > 0.98 * float(most[:16].sum())


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_directions_of_nothing_are_orthonormal(value: float) -> None:
    products = Products(next(iter(_C.instruction_sets())), 1)
    rows = torch.full((64, 32), value)
    basis = principal_directions(products, rows - rows.mean(0), 8)
    assert float((basis.T @ basis - torch.eye(8).double()).abs().max()) < 1e-5


def test_left_over_tells_layers_from_noise() -> None:
    products = Products(next(iter(_C.instruction_sets())), 2)

    def share(z: torch.Tensor) -> float:
        rows = z.view(-1, z.shape[2])
        return left_over(products, rows - rows.mean(0), 48)

    noise, few = share(isotropic(4, 200, 192)), share(features(4, 200, 192) ** 3)
    assert 0.6 < noise < 1.0
    assert 0.0 < few < noise
    assert share(isotropic(1, 20, 192)) == 0.0, "too few rows to tell"
