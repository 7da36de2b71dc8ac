"""The bounds of rounded rows never exceed the distances of the rows, clipped ones and all."""

from __future__ import annotations

from dataclasses import replace

import cases
import pytest
import torch
from torch import Tensor

from musc_fast import _C
from musc_fast.backends.cpu import operators as native
from musc_fast.backends.cpu import search
from musc_fast.backends.cpu import space as spaces
from musc_fast.backends.cpu.costs import Workload
from musc_fast.backends.cpu.kept_references import KeptReferences
from musc_fast.backends.cpu.options import Outputs, SearchSettings, SearchStatistics
from musc_fast.backends.cpu.rounded_images import RoundedImages
from musc_fast.backends.cpu.search import run_search
from musc_fast.backends.cpu.space import UNIT, SearchSpace, choose_space, full_space, rotate

Z = (3, 70, 96)
WORK = Workload(references=3, symmetric=True, k_max=2, segment=192)


def far_out() -> Tensor:
    z = cases.features(*Z)
    z[0, 3] *= 1e3
    z[1, 5] *= 30
    return z


def heavy_tails() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(Z, generator=generator) / torch.rand(Z, generator=generator).clamp_min(1e-5)


def mixed_norms() -> Tensor:
    return cases.features(*Z) * torch.logspace(-18, 4, Z[1])[None, :, None]


ROWS = {
    "features": lambda: cases.features(*Z),
    "far out": far_out,
    "heavy tails": heavy_tails,
    "mixed norms": mixed_norms,
    "near twins": lambda: cases.features(1, 1, Z[2]) + 1e-6 * cases.isotropic(*Z),
}


def every_distance(rows: Tensor) -> Tensor:
    return torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist")


def lower_bounds(side: RoundedImages, space: SearchSpace) -> dict[str, Tensor]:
    """Of every row to every row, as docs/exact-search.md derives them."""
    images, rows = side.x.shape[:2]
    bounds = side.bounds.view(-1, _C.BOUNDS)
    rho, fine_rho, rest_rho = (b[:, None] + b for b in bounds[:, :3].double().T)
    kind = torch.int8 if _C.instruction_sets()[side.isa].elements == 4 else torch.int16
    levels = side.left.view(kind).view(images, -1, side.words * 4 // kind.itemsize)
    levels = levels[:, :rows].reshape(images * rows, -1).double()
    found = {"int8": space.scale * every_distance(levels) - rho}
    if not space.fine_scale:
        return found
    fine = side.fine.view(images * rows, -1).double()
    prefix = every_distance(fine)
    assert float(prefix.square().max()) < 2**31
    found["fine"] = space.fine_scale * prefix - fine_rho
    if space.basis_transposed is not None:
        tail = bounds.view(torch.int32)[:, 5].double()
        prefix = (prefix.square().round() - (tail[:, None] - tail).square()).clamp_min(0).sqrt()
        inside = (space.fine_scale * prefix - fine_rho).clamp_min(0)
        rest = every_distance(side.rest.view(images * rows, -1).double())
        outside = (space.rest_scale * rest - rest_rho).clamp_min(0)
        found["rest"] = (inside.square() + outside.square()).sqrt()
    return found


@pytest.mark.parametrize("isa", _C.instruction_sets())
@pytest.mark.parametrize("prefix", [1, 15, 31, 96])
@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("share", [0.05, 1.0, 30.0])
def test_bounds_are_below_the_distances(
    monkeypatch: pytest.MonkeyPatch, isa: str, prefix: int, name: str, share: float
) -> None:
    chosen = spaces.best_step
    monkeypatch.setattr(spaces, "best_step", lambda x, y: share * chosen(x, y))
    z = ROWS[name]().contiguous()
    space = choose_space(z, None, WORK, prefix, isa=isa)
    side = RoundedImages(z, space, isa).fill()
    rows = z.view(-1, Z[2]).double()
    stretch = (1.0 + space.basis_error + (Z[2] / 8 + 64) * UNIT) * (1 + 1e-7)
    true = every_distance(rows) * stretch + 1e-18
    for which, bound in lower_bounds(side, space).items():
        assert bool((bound <= true).all()), which


@pytest.mark.parametrize("share", [0.02, 50.0])
@pytest.mark.parametrize("prefix", [31, 384])
def test_any_step_gives_the_same_bits(
    monkeypatch: pytest.MonkeyPatch, share: float, prefix: int
) -> None:
    z = cases.features(5, 120, 384)
    expected, found = torch.empty(5, 120), torch.empty(5, 120)
    run_search(z, None, 0, 2, Outputs(means=expected), SearchSettings(prefix=prefix))
    chosen = spaces.best_step
    monkeypatch.setattr(spaces, "best_step", lambda x, y: share * chosen(x, y))
    run_search(z, None, 0, 2, Outputs(means=found), SearchSettings(prefix=prefix))
    assert torch.equal(found, expected)


@pytest.mark.parametrize("prefix", [31, 63, 384])
def test_one_row_far_out_slows_nothing_down(prefix: int) -> None:
    """Its floating error is not what all others' scores are compared with."""
    z = cases.features(12, 200, 384)
    reports = SearchStatistics(), SearchStatistics()
    for statistics in reports:
        settings = SearchSettings(statistics=statistics, prefix=prefix)
        run_search(z, None, 0, 3, Outputs(means=torch.empty(12, 200)), settings)
        z[3, 5] *= 100
    before, after = reports
    assert after.examined < 1.2 * before.examined
    assert after.scanned < 1.3 * before.scanned


def test_kept_references_far_outside_their_space() -> None:
    """New rows are rounded in the space of the first ones, and clipped there."""
    first, later = cases.features(6, 40, 96), 50 * cases.features(5, 40, 96, seed=7)
    kept = KeptReferences(12, 40, 96)
    for image, rows in enumerate((*first, *later)):
        kept.put(image, rows)
        if image == 5:
            kept.msm(first[:1], 0, 2)  # chooses the space
    queries = torch.cat((first[:2], later[:2])) * 1.01
    references = torch.cat((first, later))
    assert torch.equal(kept.msm(queries, 0, 3), native.msm(queries, references, 0, 3))


@pytest.mark.parametrize("isa", _C.instruction_sets())
@pytest.mark.parametrize("segment", [16, 48])
def test_rows_on_the_edges_of_their_levels(
    monkeypatch: pytest.MonkeyPatch, isa: str, segment: int
) -> None:
    """The nearest rows round as far apart as the bound allows, others to the very same levels.

    Both rows' errors must be allowed for: where a segment is chosen, and where an image is.
    """
    channels, patches, step, edge = 384, 100, 1e-3, 0.49
    generator = torch.Generator().manual_seed(8)
    grid = torch.randint(-3, 4, (patches, channels), generator=generator).float()
    signs = torch.randint(0, 2, grid.shape, generator=generator) * 2.0 - 1.0
    query = grid + edge * signs
    twin = grid + (1 - edge) * signs  # rounds to the next level
    same = grid + 0.4 * signs  # rounds to the query's levels
    far = torch.randint(-3, 4, grid.shape, generator=generator).float()
    turn = rotate(torch.eye(channels)).T

    def images(*parts: Tensor) -> Tensor:
        return step * torch.cat(parts) @ turn

    space = full_space(query, torch.zeros(channels))
    space = replace(space, scale=step, ratio=1.0)
    monkeypatch.setattr(search, "choose_space", lambda *_, **__: space)
    z = images(query)[None]
    for references in (
        torch.stack([images(same, twin), images(far, same)]),  # in one image, other segments
        torch.stack([images(same, far), images(twin, far)]),  # in another image
    ):
        truth = cases.interval_mean(cases.distances(z, references), 0, 1)
        found = torch.empty(1, patches)
        settings = SearchSettings(isa=isa, segment=segment)
        run_search(z, references, 0, 1, Outputs(means=found), settings)
        assert float((found - truth).abs().max()) < 1e-6
