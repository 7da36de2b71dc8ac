"""Closer looks keep every candidate within the bound, computed in float64, and few others."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from musc_fast import _C

ISAS = pytest.mark.parametrize("isa", _C.instruction_sets())
FEW = settings(max_examples=40, deadline=None)
COUNT = 48  # of each test, at most
DRAWN: dict[str, Any] = {
    "seed": st.integers(0, 10**6),
    "count": st.integers(1, COUNT),
    "scale": st.sampled_from([1e-20, 1e-6, 0.003, 1.0, 1e15]),
    # Reach and rho in steps: alike, or one of them next to nothing.
    "sizes": st.sampled_from([(100.0, 3.0), (1e-3, 50.0), (40000.0, 1e-4), (0.0, 1.0)]),
    "spread": st.sampled_from([1e-7, 1e-3, 0.5]),
}


def near(limit: Tensor, spread: float, generator: torch.Generator) -> Tensor:
    """Squares about `limit` (float64): as large, a little less or more, or far off."""
    factor = 1 + spread * torch.randn(limit.shape, generator=generator, dtype=torch.float64)
    return (limit * factor).round().clamp_min(0)


def within(found: list[int], inside: Tensor, beyond: Tensor) -> bool:
    """Whether all inside are found and none beyond."""
    needed = set(torch.nonzero(inside)[:, 0].tolist())
    wrong = set(torch.nonzero(beyond)[:, 0].tolist())
    return needed <= set(found) and not wrong & set(found)


@ISAS
@given(**DRAWN)
@FEW
def test_choose(
    bench: ModuleType,
    isa: str,
    seed: int,
    count: int,
    scale: float,
    sizes: tuple[float, float],
    spread: float,
) -> None:
    generator = torch.Generator().manual_seed(seed)
    reach, inverse = sizes[0] * scale, 1 / scale
    panels = -(-count // 16)
    rho = torch.rand(panels, generator=generator) * sizes[1] * scale
    limit = ((reach + rho.double()) * inverse).square() / 2 + 1
    limit = limit.repeat_interleave(16)
    scores = -near(limit, spread, generator).clamp(max=2**31 - 1)
    scores = scores.to(torch.int32)
    masks = torch.full((panels + 1,), 77, dtype=torch.uint16)
    bench.choose(
        isa=isa,
        scores=scores.data_ptr(),
        rho=rho.data_ptr(),
        panels=panels,
        limit_distance=reach,
        inverse=inverse,
        masks=masks.data_ptr(),
    )
    assert int(masks[panels]) == 77
    bits = masks[:panels].to(torch.int32)[:, None] >> torch.arange(16) & 1
    chosen = torch.nonzero(bits.flatten())[:, 0].tolist()
    score = -scores.double()
    assert within(chosen, score <= limit, score > limit * (1 + 1e-5) + 1)


@ISAS
@pytest.mark.parametrize("reach", [1e7, 1e30, float("inf")])
def test_beyond_every_score_all_are_chosen(bench: ModuleType, isa: str, reach: float) -> None:
    scores = torch.tensor([0, -1, -(2**31) + 1, -(2**29)] * 4, dtype=torch.int32)
    masks = torch.zeros(1, dtype=torch.uint16)
    for rho in (torch.zeros(1), torch.tensor([1e20]), torch.tensor([torch.inf])):
        bench.choose(
            isa=isa,
            scores=scores.data_ptr(),
            rho=rho.data_ptr(),
            panels=1,
            limit_distance=reach,
            inverse=3.0,
            masks=masks.data_ptr(),
        )
        assert int(masks[0]) == 0xFFFF
        masks.zero_()


@ISAS
@given(
    seed=st.integers(0, 10**6),
    rows=st.integers(1, 8),
    words=st.sampled_from([1, 8, 13, 96]),
    panels=st.sampled_from([1, 2, 3, 4, 12]),
)
@FEW
def test_a_scan_marks_the_scores_that_it_would_store(
    bench: ModuleType, isa: str, seed: int, rows: int, words: int, panels: int
) -> None:
    generator = torch.Generator().manual_seed(seed)

    def draw(low: int, high: int, *shape: int) -> Tensor:
        return torch.randint(low, high, shape, generator=generator, dtype=torch.int32)

    # Bytes or pairs of int16 that hold bytes, as rounding leaves them.
    left = draw(-127, 128, rows, words * 2).to(torch.int16)
    right = draw(-127, 128, panels, words, 32).to(torch.int16)
    left_init, right_init = draw(-9000, 0, rows), draw(-9000, 0, 16 * panels)
    row_limits = torch.rand(rows, generator=generator) * 100
    panel_errors = torch.rand(panels, generator=generator) * 5
    scores = torch.zeros(rows, 16 * panels, dtype=torch.int32)
    masks = torch.zeros(rows, panels, dtype=torch.uint16)

    def scan(out: int) -> None:
        bench.scan(
            isa=isa,
            left=left.data_ptr(),
            left_init=left_init.data_ptr(),
            rows=rows,
            words=words,
            panels=panels,
            right=right.data_ptr(),
            right_init=right_init.data_ptr(),
            row_limits=row_limits.data_ptr(),
            panel_errors=panel_errors.data_ptr(),
            scores=out,
            masks=masks.data_ptr(),
        )

    scan(scores.data_ptr())
    assert not bool(masks.to(torch.int32).any())
    scan(0)
    bits = (masks.to(torch.int32)[:, :, None] >> torch.arange(16) & 1).view(rows, -1)
    limit = (row_limits[:, None].double() + panel_errors.double()).square() / 2 + 1
    limit = limit.repeat_interleave(16, dim=1)
    chosen = torch.nonzero(bits.flatten())[:, 0].tolist()
    score = -scores.double()
    beyond = score > limit * (1 + 1e-5) + 1
    assert within(chosen, (score <= limit).flatten(), beyond.flatten())


class Candidates:
    """`count` candidates of rows and others whose bounds are about `rho`, squares to be filled."""

    def __init__(self, seed: int, count: int, reach: float, rho: float) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.count, self.rows = count, 9
        self.row_bounds, self.other_bounds = self._bounds(rho), self._bounds(rho)
        self.reach = torch.rand(self.rows, generator=self.generator) * reach
        # No two alike, so that the kept ones can be told.
        draw = torch.randperm(self.rows**3, generator=self.generator)[: COUNT + 16]
        self.picks = torch.stack(
            (draw // self.rows**2, draw // self.rows % self.rows, draw % self.rows)
        )
        self.picks = self.picks.to(torch.int32)
        self.squares = torch.zeros(COUNT + 16, dtype=torch.int32)
        self.dots = torch.zeros(COUNT, dtype=torch.int32)

    def _bounds(self, rho: float) -> Tensor:
        return torch.rand(self.rows, _C.BOUNDS, generator=self.generator) * rho

    def of(self, column: int) -> Tensor:
        """Both bounds of each candidate, summed, float64."""
        rows, others = self.picks[1:, : self.count].long()
        return self.row_bounds[rows, column].double() + self.other_bounds[others, column].double()

    def keep(
        self, bench: ModuleType, isa: str, rest: bool, inverse: float, rest_steps: float = 0.0
    ) -> list[int]:
        """The places of the kept candidates, whose entries move to the front of all lists."""
        before = torch.stack((*self.picks, self.squares))[:, : self.count].T.tolist()
        lists = [row.clone() for row in (*self.picks, self.squares)]
        kept = bench.keep(
            isa=isa,
            rest=rest,
            row_bounds=self.row_bounds.data_ptr(),
            other_bounds=self.other_bounds.data_ptr(),
            limit_distance=self.reach.data_ptr(),
            slots=lists[0].data_ptr(),
            rows=lists[1].data_ptr(),
            others=lists[2].data_ptr(),
            squares=lists[3].data_ptr(),
            count=self.count,
            fine_inverse=inverse,
            rest_steps=rest_steps,
            dots=self.dots.data_ptr(),
        )
        places = [before.index(row) for row in torch.stack(lists)[:, :kept].T.tolist()]
        assert places == sorted(set(places))
        return places


@ISAS
@given(**DRAWN)
@FEW
def test_keep_fine(
    bench: ModuleType,
    isa: str,
    seed: int,
    count: int,
    scale: float,
    sizes: tuple[float, float],
    spread: float,
) -> None:
    it = Candidates(seed, count, sizes[0] * scale, sizes[1] * scale)
    inverse = float(torch.tensor(1 / scale, dtype=torch.float32))
    limit = ((it.reach[it.picks[0, :count].long()].double() + it.of(1)) * inverse).square()
    it.squares[:count] = near(limit, spread, it.generator).clamp(max=2**31 - 1).to(torch.int32)
    square = it.squares[:count].double()
    found = it.keep(bench, isa, False, inverse)
    assert within(found, square <= limit, square > limit * (1 + 1e-5))


@ISAS
@given(**DRAWN, steps=st.sampled_from([0.3, 5.0]))
@FEW
def test_keep_rest(
    bench: ModuleType,
    isa: str,
    seed: int,
    count: int,
    scale: float,
    sizes: tuple[float, float],
    spread: float,
    steps: float,
) -> None:
    it = Candidates(seed, count, sizes[0] * scale, sizes[1] * scale)
    inverse = float(torch.tensor(1 / scale, dtype=torch.float32))
    steps = float(torch.tensor(steps, dtype=torch.float32))
    slots, rows, others = it.picks[:, :count].long()
    reach = it.reach[slots].double() * inverse
    fine_rho, rest_rho = it.of(1) * inverse, it.of(2) * inverse
    # The rest about a share of the reach, the prefix about what that leaves.
    share = torch.rand(count, generator=it.generator, dtype=torch.float64)
    outside = near(((share * reach + rest_rho) / steps).square(), spread, it.generator)
    squares = torch.randint(1000, (2, it.rows), generator=it.generator, dtype=torch.int32)
    # As first factor and as second; and the tail norms.
    it.row_bounds.view(torch.int32)[:, 4], it.other_bounds.view(torch.int32)[:, 3] = squares
    norms = (squares[0][rows] + squares[1][others]).double()
    tails = torch.randint(-300, 300, (2, it.rows), generator=it.generator, dtype=torch.int32)
    it.row_bounds.view(torch.int32)[:, 5], it.other_bounds.view(torch.int32)[:, 5] = tails
    it.dots[:count] = ((norms - outside.clamp(max=2e9)) / 2).round().to(torch.int32)
    outside = norms - 2 * it.dots[:count].double()
    apart = (tails[0][rows].double() - tails[1][others].double()).square()
    inside = near(((1 - share.square()).sqrt() * reach + fine_rho).square(), spread, it.generator)
    it.squares[:count] = (inside + apart).clamp(max=2**31 - 1).to(torch.int32)
    inside = it.squares[:count].double() - apart
    found = it.keep(bench, isa, True, inverse, steps)
    a = (inside.sqrt() - fine_rho).clamp_min(0)
    b = (outside.clamp_min(0).sqrt() * steps - rest_rho).clamp_min(0)
    bound = (a.square() + b.square()).sqrt()
    slack = 1e-5 * (reach + fine_rho + rest_rho)
    assert within(found, bound <= reach, bound > reach + slack)
