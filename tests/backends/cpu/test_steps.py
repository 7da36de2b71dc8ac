"""The steps that rows are rounded in, and the rows they are chosen by."""

from __future__ import annotations

import pytest
import torch

from musc_fast.backends.cpu.space import sample_rows
from musc_fast.backends.cpu.steps import (
    LEVELS,
    NearRows,
    best_step,
    clipped_distances,
    distance_ratio,
    safe_step,
)


def rows(count: int, channels: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, channels, generator=torch.Generator().manual_seed(seed))


def test_near_rows_are_the_nearest_that_differ() -> None:
    sample = rows(300, 20)
    sample[150] = sample[10]  # the same row is no neighbour
    near = NearRows.of(sample)
    assert near.rows.tolist() == list(range(64))
    true = torch.cdist(sample[:64].double(), sample[64:].double())
    true[10, 150 - 64] = torch.inf
    assert torch.equal(near.others, true.argmin(1) + 64)
    x, y = near(sample)
    assert torch.allclose((x - y).norm(dim=1).double(), true.amin(1), atol=1e-5)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 100])
def test_rows_without_neighbours(count: int) -> None:
    sample = rows(1, 8).repeat(count, 1)
    x, y = NearRows.of(sample)(sample)
    assert len(x) > 0
    assert torch.equal(x, y)
    assert best_step(x, y) * LEVELS == pytest.approx(float(sample.abs().max()), rel=1e-6)
    assert distance_ratio((x - y).norm(dim=1), clipped_distances(x, y, 1.0)) == 1.0


def test_mostly_equal_rows_leave_the_others() -> None:
    sample = rows(400, 64)
    equal = torch.randperm(400, generator=torch.Generator().manual_seed(1))[:340]
    sample[equal] = sample[0].clone()
    x, y = NearRows.of(sample)(sample)
    assert bool(((x - y).norm(dim=1) > 1).all())


def test_no_rows_at_all_are_zero() -> None:
    zeros = torch.zeros(8, 5)
    assert best_step(zeros, zeros) > 0
    assert safe_step(zeros) > 0


def test_the_safe_step_clips_nothing() -> None:
    sample = rows(50, 30)
    step = safe_step(sample, 1000)
    assert 1000 * step > float(sample.abs().max())
    assert 1000 * step < 1.2 * float(sample.abs().max())


@pytest.mark.parametrize("channels", [32, 384])
def test_the_best_step_leaves_the_most(channels: int) -> None:
    """Of the distances of near rows, once both are clipped and rounded: against a finer search."""
    sample = rows(512, channels)
    x, y = NearRows.of(sample)(sample)

    def left(step: float) -> float:
        lost = 0.0
        for side in (x, y):
            clipped = side.clamp(-LEVELS * step, LEVELS * step)
            lost += float((clipped - step * (clipped / step).round()).norm(dim=1).mean())
        return float(clipped_distances(x, y, LEVELS * step).mean()) - lost

    step = best_step(x, y)
    safe = safe_step(torch.cat((x, y)))
    best = max(left(safe * 0.97**power) for power in range(60))
    assert left(step) > left(safe)
    assert best - left(step) < 0.4 * (best - left(safe))


def test_a_few_rows_far_out_do_not_make_the_step_coarse() -> None:
    x, y = rows(64, 384), rows(64, 384, seed=1)
    step = best_step(x, y)
    x[5] *= 100
    y[9] *= 30
    assert best_step(x, y) < 1.3 * step


@pytest.mark.parametrize(
    ("images", "patches", "count"), [(1, 1400, 1024), (3, 50, 100), (2, 5, 50)]
)
def test_no_row_is_drawn_twice(images: int, patches: int, count: int) -> None:
    z = torch.arange(images * patches, dtype=torch.float32).view(images, patches, 1)
    drawn = sample_rows([z], count).flatten()
    assert len(drawn) == min(count, images * patches)
    assert len(drawn.unique()) == len(drawn)
    if len(drawn) < images * patches:  # in no order, from everywhere
        assert not torch.equal(drawn, drawn.sort().values)
        assert float(drawn.mean()) == pytest.approx((images * patches - 1) / 2, rel=0.05)
