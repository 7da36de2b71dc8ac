"""The whole Triton backend against the fp64 reference."""

from __future__ import annotations

import pytest
import torch
from hot_rows import hot_rows, largest_error

from musc_fast import reference
from musc_fast.backends.rounded_images import fit_space
from musc_fast.backends.triton.operators import msm, patch_to_image
from musc_fast.backends.triton.planning import Plan
from musc_fast.backends.triton.search import Search
from musc_fast.settings import SearchOptions


@pytest.mark.parametrize(("n", "p", "c"), [(2, 1, 40), (5, 6, 72), (3, 9, 384)])
def test_distances(n: int, p: int, c: int) -> None:
    z = hot_rows(n, p, c)
    truth = reference.patch_to_image(z.double())
    assert largest_error(patch_to_image(z), truth) < 1e-5
    assert largest_error(patch_to_image(z, None, SearchOptions("fast")), truth) < 1e-3
    others = hot_rows(2, p + 3, c, seed=1)
    others[0, :p] = z[0]
    truth = reference.patch_to_image(z.double(), others.double())
    found = patch_to_image(z, others)
    assert largest_error(found, truth) < 1e-5
    assert not found[0, :, 0].any()


@pytest.mark.parametrize(
    ("dtype", "channels"),
    [(torch.float16, None), (torch.int8, None), (torch.int8, 15), (torch.float16, 7)],
)
def test_every_space_gives_the_same_result(dtype: torch.dtype, channels: int | None) -> None:
    z = hot_rows(5, 6, 40)
    truth = reference.patch_to_image(z.double())
    space = fit_space(z, None, dtype, channels)
    search = Search(z, None, space=space)
    ((_, _, squared),) = list(search.chunks())
    found = squared.sqrt().transpose(1, 2)
    assert largest_error(found, truth) < 1e-5
    direct = (z[:, :, None, None] - z[None, None]).square().sum(-1).amin(3).sqrt()
    off = ~torch.eye(5, dtype=torch.bool)[:, None].expand(5, 6, 5)
    assert (found - direct)[off].abs().max() < 1e-7
    k = 1 if channels == 15 else 3  # of the images that enter a mean, to the bit
    ((_, _, some),) = list(Search(z, None, k_max=k, space=space).chunks())
    assert torch.equal(some.sort(1).values[:, :k], squared.sort(1).values[:, :k])


def test_msm() -> None:
    z = hot_rows(4, 3, 40)
    wanted = reference.msm(z.double(), None, 1, 3)
    assert (msm(z, None, 1, 3) - wanted).abs().max() < 1e-5
    others = hot_rows(11, 2, 40, seed=1)
    wanted = reference.msm(z[:1].double(), others.double(), 0, 3)
    found = msm(z[:1], others, 0, 3, SearchOptions("fast"))
    assert (found - wanted).abs().max() < 1e-3


def test_several_tiles_of_many_channels() -> None:
    z = torch.nn.functional.normalize(torch.randn(2, 150, 320), dim=2)
    wanted = reference.patch_to_image(z.double())
    assert largest_error(patch_to_image(z), wanted) < 1e-5


def test_many_patches_on_one_side() -> None:
    z, few = hot_rows(1, 523, 40), hot_rows(1, 21, 40, seed=1)
    for x, y in ((z, few), (few, z)):
        wanted = reference.patch_to_image(x.double(), y.double())
        assert largest_error(patch_to_image(x, y), wanted) < 1e-5


def test_chunks_change_no_bit() -> None:
    z = hot_rows(4, 10, 40)
    space = fit_space(z, None, torch.int8)
    results = []
    for chunk, block in ((4, None), (3, None), (2, 3)):
        plan = Plan(chunk=chunk, room=2 * 10 * 10, bytes=0, block=block)
        search = Search(z, None, space=space, plan=plan)
        results.append(torch.cat([squared for *_, squared in search.chunks()]))
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])  # rows in blocks of three images


def test_ties_everywhere_overflow_no_list() -> None:
    z = hot_rows(3, 10, 40)
    z[:2] = z[0, 0]
    truth = reference.patch_to_image(z.double())
    plan = Plan(chunk=3, room=2 * 10 * 10, bytes=0)
    search = Search(z, None, plan=plan)
    ((_, _, squared),) = list(search.chunks())
    assert largest_error(squared.sqrt().transpose(1, 2), truth) < 1e-5


def test_float16_and_float64_input() -> None:
    z = hot_rows(2, 7, 40)
    for dtype in (torch.float16, torch.float64):
        given = z.to(dtype)
        assert (
            msm(given, None, 0, 1) - reference.msm(given.double(), None, 0, 1)
        ).abs().max() < 1e-5
