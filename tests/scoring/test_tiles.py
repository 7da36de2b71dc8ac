"""Tiles: a patch is compared with those of the same tile and of a margin around it, exactly."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from musc_fast import InputError, ReferenceBank, ops, reference, score_batch
from musc_fast.backends.registry import resolve
from musc_fast.scoring.tiles import tiled, windows_of
from musc_fast.settings import ScoringSettings, SearchOptions

GRID = (7, 10)
TILES, MARGIN = (2, 3), 1
PLAIN: dict[str, Any] = {"grid": GRID, "degrees": (1,), "topmin": (0.0, 0.6)}
OPTIONS = SearchOptions()


def tokens(images: int, seed: int, grid: tuple[int, int] = GRID) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(images, grid[0] * grid[1], 24, generator=generator)


def allowed(grid: tuple[int, int], margin: int) -> Tensor:
    """[P, P]: whether a patch (row) is compared with another (column), by its definition."""

    def near(side: int) -> Tensor:
        count = -(-side // max(2 * margin, 4))
        found = torch.zeros(side, side, dtype=torch.bool)
        for k in range(count):
            first, last = side * k // count, side * (k + 1) // count
            found[first:last, max(first - margin, 0) : last + margin] = True
        return found

    down, across = near(grid[0]), near(grid[1])
    return (down[:, None, :, None] & across[None, :, None, :]).flatten(2).flatten(0, 1)


def within(grid: tuple[int, int], margin: int) -> Tensor:
    """[P, P]: whether two patches are within `margin` rows and columns."""
    rows, columns = (torch.arange(side) for side in grid)
    down = (rows[:, None] - rows).abs() <= margin
    across = (columns[:, None] - columns).abs() <= margin
    return (down[:, None, :, None] & across[None, :, None, :]).flatten(2).flatten(0, 1)


def plain_distances(z: Tensor, others: Tensor, near: Tensor) -> Tensor:
    """Distances [N, P, M] in float64 to the nearest of the patches that are `near`."""
    apart = torch.cdist(
        z.double()[:, None], others.double()[None], compute_mode="donot_use_mm_for_euclid_dist"
    )
    return apart.masked_fill(~near, torch.inf).amin(dim=3).transpose(1, 2)


@settings(max_examples=40, deadline=None)
@given(grid=st.tuples(st.integers(1, 12), st.integers(1, 12)), margin=st.integers(0, 6))
def test_blocks_are_a_partition_with_their_surroundings(grid: tuple[int, int], margin: int) -> None:
    found = windows_of(grid, margin)
    patches = torch.cat([window.block for window in found])
    assert torch.equal(patches.sort().values, torch.arange(grid[0] * grid[1]))
    near = allowed(grid, margin)
    assert near[within(grid, margin)].all()
    assert not near[~within(grid, max(3 * margin, margin + 3))].any()
    for window in found:
        assert torch.equal(window.around[window.within], window.block)
        assert torch.equal(near[window.block[0]].nonzero()[:, 0], window.around)


@pytest.mark.parametrize("backend", ["reference", "torch", "cpu"])
def test_every_operator_is_the_definition(backend: str) -> None:
    own = ScoringSettings(tiles=TILES, tile_margin=MARGIN)
    operators = tiled(resolve(backend, torch.device("cpu")).operators(), GRID, own)
    z, others, near = tokens(4, 0), tokens(5, 1), allowed(GRID, MARGIN)
    wanted = plain_distances(z, others, near)
    found = operators.patch_to_image(z, others, OPTIONS)
    torch.testing.assert_close(found.double(), wanted, rtol=0, atol=1e-5)
    inside = plain_distances(z, z, near)
    inside[torch.arange(4), :, torch.arange(4)] = torch.inf
    found = operators.patch_to_image(z, None, OPTIONS)
    torch.testing.assert_close(found.double(), inside, rtol=0, atol=1e-5)
    mean = reference.interval_mean(inside, 0, 2)
    for scores in (
        operators.msm(z, None, 0, 2, OPTIONS),
        torch.cat(list(operators.msm_parts(z, None, 0, 2, [(0, 1), (1, 4)], OPTIONS))),
    ):
        torch.testing.assert_close(scores.double(), mean, rtol=0, atol=1e-5)
    lists = torch.tensor([[1, 3], [0, 2], [1, 3], [0, 2]])
    (some,) = operators.msm_parts(z, None, 0, 1, [(0, 4)], OPTIONS, lists)
    listed = torch.stack([inside[i, :, lists[i]].amin(dim=1) for i in range(4)])
    torch.testing.assert_close(some.double(), listed, rtol=0, atol=1e-5)
    mean = reference.interval_mean(wanted, 0, 2)
    torch.testing.assert_close(
        operators.msm(z, others, 0, 2, OPTIONS).double(), mean, rtol=0, atol=1e-5
    )
    there, back = operators.between(z, others, OPTIONS)
    torch.testing.assert_close(there.double(), wanted, rtol=0, atol=1e-5)
    torch.testing.assert_close(back.double(), plain_distances(others, z, near), rtol=0, atol=1e-5)
    distances, images, patches = operators.nearest_images(z, None, 3, OPTIONS)
    ordered = inside.sort(dim=2)
    torch.testing.assert_close(distances.double(), ordered.values[:, :, :3], rtol=0, atol=1e-5)
    assert torch.equal(images, ordered.indices[:, :, :3])
    assert near[torch.arange(len(near))[None, :, None], patches].all()
    apart = (z[:, :, None] - z[images, patches]).norm(dim=3)
    torch.testing.assert_close(apart, distances, rtol=0, atol=1e-5)


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 10**6), margin=st.integers(0, 5))
def test_scores_lie_between_the_whole_search_and_the_same_place(seed: int, margin: int) -> None:
    z = tokens(3, seed)
    whole = score_batch(z, **PLAIN).patch_scores
    found = score_batch(z, tiles=TILES, tile_margin=margin, **PLAIN).patch_scores
    pooled = ops.lnamd(z, GRID, 1)
    near = plain_distances(pooled, pooled, within(GRID, margin))
    near[torch.arange(3), :, torch.arange(3)] = torch.inf
    place = reference.interval_mean(near, 0, 1).view(3, *GRID)
    assert (found >= whole - 1e-5).all()
    assert (found <= place + 1e-5).all()
    if margin == 5:  # one block alone
        torch.testing.assert_close(found, whole, rtol=0, atol=1e-5)


def test_a_bank_gives_the_bits_of_the_batch() -> None:
    z, more = tokens(6, 2), tokens(2, 3)
    how = {**PLAIN, "tiles": TILES, "tile_margin": MARGIN}
    bank = ReferenceBank(8, **how)
    bank.add(z)
    wanted = score_batch(more, references=z, **how)
    assert torch.equal(bank.score(more).patch_scores, wanted.patch_scores)
    held = bank.leave_one_out()
    assert held.patch_scores.shape == (6, *GRID)
    low, high = reference.interval(PLAIN["topmin"], 6)
    alone = score_batch(z, **{**how, "topmin": (float(low), float(high))})
    torch.testing.assert_close(held.patch_scores, alone.patch_scores, rtol=0, atol=1e-6)
    assert not torch.equal(
        alone.patch_scores, score_batch(z, **{**PLAIN, "topmin": (low, high)}).patch_scores
    )


def test_a_bank_keeps_its_tiles(tmp_path: Any) -> None:
    bank = ReferenceBank(4, tiles=TILES, tile_margin=MARGIN, grid=GRID)
    bank.add(tokens(3, 4))
    bank.save(tmp_path / "bank.safetensors")
    again = ReferenceBank.load(tmp_path / "bank.safetensors")
    assert (again.scoring.tiles, again.scoring.tile_margin) == (TILES, MARGIN)
    query = tokens(1, 5)
    assert torch.equal(again.score(query).patch_scores, bank.score(query).patch_scores)


def test_a_checkpoint_of_other_tiles_is_refused(tmp_path: Any) -> None:
    z = tokens(4, 6)
    first = score_batch(z, tiles=TILES, checkpoint=tmp_path / "c", **PLAIN)
    again = score_batch(z, tiles=TILES, checkpoint=tmp_path / "c", **PLAIN)
    assert torch.equal(first.patch_scores, again.patch_scores)
    for tiles in (None, (1, 2)):
        with pytest.raises(InputError, match="other tokens or settings"):
            score_batch(z, tiles=tiles, checkpoint=tmp_path / "c", **PLAIN)


def test_progress_rises_to_the_end() -> None:
    told: list[float] = []
    score_batch(
        tokens(4, 7), tiles=TILES, progress=lambda done, total: told.append(done / total), **PLAIN
    )
    assert told == sorted(told)
    assert told[-1] == 1.0
    assert len(set(told)) > 6  # more than one a tile


def test_one_tile_is_the_whole() -> None:
    z = tokens(3, 8)
    assert ScoringSettings(tiles=(1, 1)).tiles is None
    one, whole = score_batch(z, tiles=(1, 1), **PLAIN), score_batch(z, **PLAIN)
    assert torch.equal(one.patch_scores, whole.patch_scores)


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"tiles": (8, 1)}, "tiles: found 8 x 1, the grid has 7 x 10 patches"),
        ({"tiles": (0, 1)}, r"tiles: found \(0, 1\), wanted \(rows, columns\)"),
        ({"tiles": 4}, "tiles: found 4, wanted"),
        ({"tiles": "2x2"}, "tiles: found '2x2', wanted"),
        ({"tiles": (2, 2), "tile_margin": -1}, "tile_margin: found -1"),
    ],
)
def test_wrong_tiles_are_named(keywords: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        score_batch(tokens(3, 9), **keywords, **PLAIN)
