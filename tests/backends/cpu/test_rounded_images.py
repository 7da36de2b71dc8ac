"""What rounding leaves of a row, against torch: levels, their sums, bounds."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch
from cases import features

from musc_fast import _C
from musc_fast.backends.cpu.costs import Workload
from musc_fast.backends.cpu.rounded_images import RoundedImages
from musc_fast.backends.cpu.space import choose_space

WORK = Workload(references=4, symmetric=True, k_max=2, segment=192)


@pytest.mark.parametrize("isa", _C.instruction_sets())
@pytest.mark.parametrize(("rows", "channels"), [(16, 96), (37, 100), (41, 384)])
def test_rows_in_a_basis(bench: ModuleType, isa: str, rows: int, channels: int) -> None:
    z = features(4, rows, channels)
    space = choose_space(z, None, WORK, 31, isa=isa)
    side = RoundedImages(z, space, isa).fill()
    bounds = side.bounds.view(-1, _C.BOUNDS)
    words = bounds.view(torch.int32)
    rest = side.rest.view(4 * rows, -1).to(torch.int32)
    fine = side.fine.view(4 * rows, -1)
    assert rest.shape[1] % 64 == 0
    assert not bool(rest[:, channels:].any())
    assert torch.equal(words[:, 3], rest.square().sum(1).int())
    excess = words[:, 4] - words[:, 3]
    assert torch.equal(excess, 2 * bench.rest_bias(isa) * rest.sum(1).int())
    assert torch.equal(words[:, 5], fine[:, 31].int())
    # Each bound holds what rounding took, and little more.
    centred = z.view(-1, channels).double() - space.mean.double()
    basis = space.basis.permute(1, 0, 2).reshape(channels, -1)[:, :31].double()
    inside = centred @ basis
    left_over = centred - inside @ basis.T
    inside = torch.cat((inside, left_over.norm(dim=1)[:, None] - space.tail_centre), dim=1)
    elements = _C.instruction_sets()[isa].elements
    words = side.left.view(torch.int8 if elements == 4 else torch.int16)
    words = words.view(4, -1, elements * side.words)
    assert not bool(words[..., 32:].any())  # the tile unit takes whole tiles
    words = words[..., :32]
    assert bool((words.abs() == 127).any())  # some rows lie too far out
    for column, found, scale, levels, true in (
        (0, words[:, :rows].reshape(-1, 32), space.scale, 127, inside),
        (1, fine[:, :32], space.fine_scale, space.fine_levels, inside),
        (2, rest[:, :channels], space.rest_scale, 127, left_over),
    ):
        assert int(found.abs().max()) <= levels
        clipped = true.clamp(-levels * scale, levels * scale)
        lost = (clipped - found.double() * scale).norm(dim=1)
        assert bool((lost <= bounds[:, column]).all())
        assert bool((bounds[:, column] <= 1.01 * lost + 1e-3).all())
    padded = torch.zeros(4, -(-rows // 16) * 16)
    padded[:, :rows] = side.bounds[:, :, 0]
    steps = padded.view(-1, 16).amax(1).double() / space.scale
    deltas = side.panel_errors.double()
    assert bool((deltas >= steps).all())
    assert bool((deltas <= steps * (1 + 1e-5)).all())
