"""Local matching by the Triton kernel against the fp64 reference."""

from __future__ import annotations

import pytest
import torch
from hot_rows import hot_rows, largest_error

from musc_fast import reference
from musc_fast.backends.triton.local import local_patch_to_image
from musc_fast.errors import InputError
from musc_fast.kernels.local_distance import Config, match_locally, pick_config
from musc_fast.settings import SearchOptions, Window


@pytest.mark.parametrize(
    ("n", "grid", "c", "reach"), [(2, (1, 1), 16, 0), (3, (3, 2), 12, 1), (2, (2, 3), 8, 7)]
)
def test_distances(n: int, grid: tuple[int, int], c: int, reach: int) -> None:
    z = hot_rows(n, grid[0] * grid[1], c)
    allowed = reference.within_reach(grid, reach)
    options = SearchOptions(window=Window(grid, reach))
    truth = reference.patch_to_image(z.double(), allowed=allowed)
    assert largest_error(local_patch_to_image(z, None, options), truth) < 1e-5
    others = hot_rows(3, grid[0] * grid[1], c, seed=1)
    others[0] = z[0]
    truth = reference.patch_to_image(z.double(), others.double(), allowed=allowed)
    found = local_patch_to_image(z, others, options)
    assert largest_error(found, truth) < 1e-5
    assert not found[0, :, 0].any()


def test_bands_and_tiles_give_the_same_bits() -> None:
    z, window = hot_rows(3, 6, 8), Window((3, 2), 1)
    whole = local_patch_to_image(z, None, SearchOptions(window=window))
    row = 8 * 2 * ((3 + 3 * 3) * 8 + 3 * 3)  # bytes that one row of the grid takes
    small = local_patch_to_image(z, None, SearchOptions(memory_limit=row, window=window))
    assert torch.equal(whole, small)
    with pytest.raises(InputError, match="memory_limit: this search needs at least"):
        local_patch_to_image(z, None, SearchOptions(memory_limit=100, window=window))
    placed = z.permute(1, 2, 0).contiguous()
    wide = match_locally(placed, placed, (3, 2), 1, config=Config(32, 16, 1))
    assert torch.equal(match_locally(placed, placed, (3, 2), 1, config=pick_config(3, 3)), wide)
