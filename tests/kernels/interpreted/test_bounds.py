"""Bounds, winners and limits against their definitions in fp64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from musc_fast.backends.rounded_images import RoundedImages, fit_space
from musc_fast.kernels.bounds import bound_distances, set_limits
from musc_fast.kernels.min_distance import TRUNCATION, decode_keys, find_nearest, new_keys
from musc_fast.kernels.refine import FineRows, recompute
from musc_fast.kernels.winners import recompute_winners

N, M, P, Q, C = 2, 3, 5, 7, 72


def searched(dtype: torch.dtype) -> tuple[Tensor, Tensor, RoundedImages, RoundedImages, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(N, P, C, generator=generator)
    y = torch.randn(M, Q, C, generator=generator) + 0.5
    y[1, 3] = x[1, 2]
    space = fit_space(x, y, dtype, 31)
    a, b = space.apply(x), space.apply(y)
    keys = new_keys(N, M, P, x.device)
    find_nearest(a.values, a.norms, b.values[:2], b.norms[:2], keys)
    return x, y, a, b, keys  # image 2 is unsearched


@pytest.mark.parametrize("dtype", [torch.int8, torch.float16])
def test_bounds_winners_and_limits(dtype: torch.dtype) -> None:
    x, y, a, b, keys = searched(dtype)
    y_errors, y_residuals = b.rounding_error.amax(1), b.residual_norm.amax(1)
    e = a.error(max(a.largest(), b.largest()))
    error = torch.full((1,), e * (1 + 1e-6))
    common = (a.rounding_error, y_errors)
    distances, patches = decode_keys(keys, a.exact)
    squared = distances.double() * a.scale**2
    slack = a.rounding_error.double()[:, None] + y_errors.double()[None, :, None]
    upper, found = torch.empty(N, M, P), torch.empty(N, M, P)
    bound_distances(
        *(keys, upper, *common, a.residual_norm, y_residuals, error, a.scale),
        integers=a.exact,
        bound=True,
    )
    product = 4 * a.residual_norm[:, None] * y_residuals[None, :, None]
    largest = squared if a.exact else TRUNCATION * squared
    assert torch.allclose(upper.double(), (largest + e + product).sqrt() + slack, rtol=1e-5)
    truth = torch.cdist(x.double()[:, None], y.double()[None]).amin(3)
    assert bool((truth <= upper).all())
    assert bool(torch.isinf(upper[:, 2]).all())
    bound_distances(
        *(keys, found, *common, a.residual_norm, y_residuals, error, a.scale),
        integers=a.exact,
        bound=False,
    )
    assert torch.allclose(found.double(), squared, rtol=1e-6)
    kth = upper[:, :2].amin(1) * 1.001
    lower = (squared - e).clamp_min(0).sqrt() - slack
    for start in (0, 2):  # in blocks of images
        recompute_winners(
            *(x, y[start : start + 2], keys, kth, found, *common, error, a.scale, start),
            integers=a.exact,
            certified=True,
        )
    wanted = (lower <= kth[:, None]) & (squared < torch.inf)
    assert torch.equal(torch.isfinite(found), wanted)
    rows = y[torch.arange(M)[None, :, None], patches.long().clamp(max=Q - 1)]
    direct = (x[:, None] - rows).double().square().sum(3)
    assert torch.allclose(found[wanted].double(), direct[wanted], rtol=1e-6)
    assert found[1, 1, 2] == 0
    limits = torch.empty(N, M, P)
    set_limits(keys, found, found.amin(1), limits, *common, error, a.scale, C, integers=a.exact)
    kept = wanted & (lower <= found.amin(1).sqrt()[:, None])
    assert torch.equal(torch.isfinite(limits), kept)
    nearest = found.amin(1, keepdim=True).expand_as(found)  # of the winners, none is nearer

    def limits_of(squared: Tensor) -> Tensor:
        return ((squared.double().sqrt() + slack) ** 2 + e) / a.scale**2

    exact = limits_of(nearest)
    assert bool((limits[kept].double() >= exact[kept]).all())
    assert torch.allclose(limits[kept].double(), exact[kept], rtol=1e-4)
    # Without a bound on those that enter the mean, every winner's own distance limits.
    set_limits(keys, found, None, limits, *common, error, a.scale, C, integers=a.exact)
    assert torch.equal(torch.isfinite(limits), wanted)
    assert torch.allclose(limits[wanted].double(), limits_of(found)[wanted], rtol=1e-4)


def test_a_winner_that_was_passed_over_becomes_a_candidate() -> None:
    _, _, a, b, keys = searched(torch.int8)
    before = keys.clone()
    errors = (a.rounding_error, b.rounding_error.amax(1), torch.zeros(1))
    squared, limits = torch.full((N, M, P), torch.inf), torch.empty(N, M, P)
    squared[:, 0] = 1e6
    squared[0, 0] = 1e-6  # no other image of query 0 comes so near
    kth = squared.amin(1)
    set_limits(keys, squared, kth, limits, *errors, a.scale, C, integers=True)
    assert torch.equal(squared[1, 1], kth[1])  # what its candidates have to go below
    assert bool((keys[1, 1] & 0x7FFFFFFF == 0x7FFFFFFF).all())
    assert torch.equal(keys[1, 1] >> 32, before[1, 1] >> 32)
    slack = errors[0][1] + errors[1][1]
    limit = ((kth[1].double().sqrt() + slack) / a.scale) ** 2
    assert torch.allclose(limits[1, 1].double(), limit, rtol=1e-4)
    assert bool(torch.isinf(squared[:, 2]).all())  # of an image that was not searched
    assert bool((limits[:, 2] == -torch.inf).all())
    far = decode_keys(before, True)[0][0, 1].double().sqrt() * a.scale
    far = far > 1e-3 + errors[0][0] + errors[1][1]
    assert bool(far.any())
    assert bool((limits[0, 1][far] == -torch.inf).all())
    assert torch.equal(keys[0, 1][far], before[0, 1][far])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_winners_and_candidates_give_the_same_bits(dtype: torch.dtype) -> None:
    _, _, a, b, keys = searched(torch.int8)
    generator = torch.Generator().manual_seed(2)
    x, y = (torch.randn(k, p, 300, generator=generator).to(dtype) for k, p in ((N, P), (M, Q)))
    keys[:, 2] = keys[:, 1]
    found, listed = torch.empty(N, M, P), torch.full((N, M, P), torch.inf)
    errors = b.rounding_error.amax(1)
    recompute_winners(
        *(x, y, keys, None, found, a.rounding_error, errors, torch.zeros(1), 1.0),
        integers=True,
        certified=False,
    )
    slots = torch.randperm(N * M * P, generator=generator)
    recompute(x, y, slots, keys.view(-1)[slots] & 0x7FFFFFFF, listed)
    assert torch.equal(found, listed)


def test_fine_rows_change_no_bit() -> None:
    generator = torch.Generator().manual_seed(3)
    x, y = (torch.randn(k, p, C, generator=generator) for k, p in ((N, P), (M, Q)))
    y[2, 4] = x[1, 1] + 1e-4
    space = fit_space(x, y, torch.int8, 31).fine()
    fine = tuple(
        FineRows(r.values, r.rounding_error, r.scale) for r in (space.apply(x), space.apply(y))
    )
    slots = torch.arange(N * M * P).repeat_interleave(Q)
    q = torch.arange(Q).repeat(N * M * P)
    plain, filtered = (torch.full((N, M, P), torch.inf) for _ in range(2))
    recompute(x, y, slots, q, plain)
    recompute(x, y, slots, q, filtered, fine=fine)
    assert torch.equal(plain, filtered)
    # Rows far from the truth are passed over, so the filter is at work.
    far = FineRows(fine[1].values + 3, fine[1].errors, fine[1].scale)
    best = plain.clone()
    untouched = torch.full_like(plain, 1e-6)
    recompute(x, y, slots, q, untouched, fine=(fine[0], far))
    assert torch.equal(untouched, torch.full_like(plain, 1e-6))
    recompute(x, y, slots, q, best, fine=(fine[0], far))
    assert torch.equal(best, plain)


def test_rows_in_a_subspace_change_no_bit() -> None:
    generator = torch.Generator().manual_seed(3)
    x, y = (torch.randn(k, p, C, generator=generator) for k, p in ((N, P), (M, Q)))
    y[2, 4] = x[1, 1] + 1e-4
    space = fit_space(x, y, torch.float16, 31)
    rounded = [space.apply(each) for each in (x, y)]
    rows = [FineRows(r.values, r.rounding_error, r.scale) for r in rounded]
    largest = max(each.largest() for each in rounded)
    error = torch.tensor([4 * space.basis_error * (2 * largest) ** 2])
    slots = torch.arange(N * M * P).repeat_interleave(Q)
    q = torch.arange(Q).repeat(N * M * P)
    plain, filtered = (torch.full((N, M, P), torch.inf) for _ in range(2))
    recompute(x, y, slots, q, plain)
    recompute(x, y, slots, q, filtered, few=(rows[0], rows[1], error))
    assert torch.equal(plain, filtered)
    truth = torch.cdist(x.double()[:, None], y.double()[None])
    apart = rows[0].values.double()[:, None, :, None] - rows[1].values.double()[None, :, None]
    bound = (apart.square().sum(-1) * space.scale**2 - error.double()).clamp_min(0).sqrt()
    bound -= rows[0].errors[:, None, :, None] + rows[1].errors[None, :, None]
    assert bool((bound <= truth).all())
    # Rows far from the truth are passed over, so the filter is at work.
    far = FineRows(rows[1].values + 3, rows[1].errors, rows[1].scale)
    untouched = torch.full_like(plain, 1e-6)
    recompute(x, y, slots, q, untouched, few=(rows[0], far, error))
    assert torch.equal(untouched, torch.full_like(plain, 1e-6))
    # e and the errors widen the bound: with a great one nothing is passed over.
    lowered = plain + 1
    recompute(x, y, slots, q, lowered, few=(rows[0], far, torch.tensor([1e9])))
    assert torch.equal(lowered, plain)
