"""Values that a search within a window refuses."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from musc_fast import ops
from musc_fast.errors import InputError
from musc_fast.settings import Window

GRID, CHANNELS = (3, 4), 70
PLACES = GRID[0] * GRID[1]
FOUND = {math.nan: "NaN", math.inf: "Inf", -math.inf: "Inf", 2e15: r"2e\+15; no value"}


def rows(n: int, seed: int = 0) -> Tensor:
    """Normalised rows of n images."""
    drawn = torch.randn(n, PLACES, CHANNELS, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(drawn, dim=2)


@pytest.mark.parametrize("value", FOUND)
@pytest.mark.parametrize("queries", [1, 12])  # one by one; by the bound
@pytest.mark.parametrize("where", ["z", "references"])
def test_a_bad_value_is_refused_wherever_it_is(value: float, queries: int, where: str) -> None:
    step = 89 if queries == 1 else 997
    for at in range(0, queries * PLACES * CHANNELS, step):
        given = {"z": rows(queries), "references": rows(queries + 1, seed=1)}
        given[where].view(-1)[at] = value
        wanted = f"^{where}: image {at // (PLACES * CHANNELS)} holds {FOUND[value]}"
        with pytest.raises(InputError, match=wanted):
            ops.msm(**given, window=Window(GRID, 1))


@pytest.mark.parametrize("backend", ["cpu", "torch", "reference"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("reach", [1, 9])  # 9: the window takes in the whole grid
def test_every_way_to_search_refuses_it(backend: str, dtype: torch.dtype, reach: int) -> None:
    z, window = rows(5).to(dtype), Window(GRID, reach)
    z[3, 7, 11] = math.nan
    searches = (
        lambda: ops.msm(z, window=window, backend=backend),
        lambda: ops.patch_to_image(z, window=window, backend=backend),
        lambda: list(ops.msm_parts(z, [(0, 2)], window=window, backend=backend)),
        lambda: ops.between(z, rows(4), window=window, backend=backend),
    )
    for search in searches:
        with pytest.raises(InputError, match=r"^z: image 3 holds NaN"):
            search()


def test_values_that_are_large_everywhere_are_refused() -> None:
    with pytest.raises(InputError, match=r"image 0 holds 2e\+15"):
        ops.msm(torch.full((8, PLACES, CHANNELS), 2e15), window=Window(GRID, 1))
