"""Local matching by several threads, of which one that is done helps another."""

from __future__ import annotations

import pytest
import torch

from musc_fast import ops
from musc_fast.settings import Window

pytest.importorskip("musc_fast._C", reason="the C++ extension is not built")


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("reach", [1, 2, 4])
@pytest.mark.parametrize(("grid", "count"), [((9, 40), 2), ((14, 33), 3), ((9, 9), 4)])
def test_helping_changes_no_bit(grid: tuple[int, int], count: int, reach: int) -> None:
    """A part that is a row lower is done early, and its thread helps the other from the right."""
    generator = torch.Generator().manual_seed(reach)
    z = torch.randn(18, grid[0] * grid[1], 40, generator=generator) + 2
    window = Window(grid, reach)
    torch.set_num_threads(1)
    means, distances = (each(z, window=window) for each in (ops.msm, ops.patch_to_image))
    torch.set_num_threads(count)
    for _ in range(3):
        assert torch.equal(ops.msm(z, window=window), means)
        assert torch.equal(ops.patch_to_image(z, window=window), distances)
