"""How rows by place are rounded."""

from __future__ import annotations

import pytest
import torch

from musc_fast.backends.cpu.placed_rows import PlacedRows, PlaceRounding
from musc_fast.backends.cpu.rounded_images import default_isa


@pytest.mark.parametrize("seed", range(4))
def test_lengths_that_differ_are_rounded_in_one_pass(seed: int) -> None:
    """The sample misses the longest row; the radius has room for it."""
    generator = torch.Generator().manual_seed(seed)
    z = torch.nn.functional.normalize(torch.randn(30, 400, 24, generator=generator), dim=2)
    z *= 0.4 + 0.1 * torch.randn(30, 400, 1, generator=generator).abs()
    rounding = PlaceRounding.of([z])
    sampled = z.view(-1, 24)[:: 12000 // 512 | 1].norm(dim=1).max()
    assert z.norm(dim=2).max() > sampled
    assert PlacedRows(z, (20, 20), 0, 20, default_isa()).fill(rounding)


def test_a_row_beyond_the_radius_makes_it_grow() -> None:
    z = torch.nn.functional.normalize(torch.ones(30, 400, 24), dim=2)
    z[7, 11] *= -50
    rounding = PlaceRounding.of([z])
    rows = PlacedRows(z, (20, 20), 0, 20, default_isa())
    assert not rows.fill(rounding)
    assert rounding.radius > 49
    assert rows.fill(rounding)
