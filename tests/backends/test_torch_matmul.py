"""The torch.matmul backend against the fp64 reference, near zero and under a memory limit too."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from golden_files import golden
from hot_rows import hot_rows, largest_error

from musc_fast import reference
from musc_fast.backends import torch_matmul as torch_backend
from musc_fast.errors import InputError
from musc_fast.settings import SearchOptions

SHAPES = [(2, 1, 40), (5, 37, 40), (11, 37, 72), (3, 256, 384)]


@pytest.mark.parametrize("precision", ["exact", "fast"])
@pytest.mark.parametrize(("n", "p", "c"), SHAPES)
def test_distances(n: int, p: int, c: int, precision: str) -> None:
    z = hot_rows(n, p, c)
    found = torch_backend.patch_to_image(z, None, SearchOptions(precision))
    limit = 1e-5 if precision == "exact" else 1e-3
    assert largest_error(found, reference.patch_to_image(z.double())) < limit
    others = hot_rows(3, p + 5, c, seed=1)
    others[0, :p] = z[0]
    found = torch_backend.patch_to_image(z, others, SearchOptions(precision))
    assert largest_error(found, reference.patch_to_image(z.double(), others.double())) < limit
    assert not found[0, :, 0].any()


@pytest.mark.parametrize("k", [(0, 1), (0, 3), (2, 7), (9, 10)])
def test_msm(k: tuple[int, int]) -> None:
    z = hot_rows(11, 37, 72)
    wanted = reference.msm(z.double(), None, *k)
    assert largest_error(torch_backend.msm(z, None, *k), wanted) < 1e-5
    wanted = reference.msm(z[:4].double(), z.double(), *k)
    assert largest_error(torch_backend.msm(z[:4], z, *k), wanted) < 1e-5


def test_ties_everywhere_take_the_direct_way() -> None:
    z = hot_rows(4, 64, 40)
    z[1:3] = z[1, :1]  # two images of one patch, repeated
    assert (
        largest_error(torch_backend.patch_to_image(z), reference.patch_to_image(z.double())) < 1e-5
    )
    assert not torch_backend.msm(z[1:3], None, 0, 1).any()
    zero = torch.zeros(3, 5, 7)
    assert not torch_backend.msm(zero, None, 0, 2).any()


def test_the_certificate_and_not_luck_makes_it_exact() -> None:
    # Neighbours nearer to each other than the product can tell, far from the origin.
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(1, 50, 64, generator=generator)
    steps = torch.randn(1, 50, 64, generator=generator)
    z = torch.cat([x, x + 1e-5 * steps, x + 2e-5 * steps.roll(1, 1), -x])
    z[:, :, 0] += torch.tensor([300.0, 300.0, 300.0, -900.0])[:, None]
    found = torch_backend.patch_to_image(z)
    truth = reference.patch_to_image(z.double())
    close = truth[:3, :, :3]
    assert float(close.min()) < 1e-3
    assert largest_error(found[:3, :, :3], close) < 1e-5
    squared = (z[0] ** 2).sum(1)[:, None] + (z[1] ** 2).sum(1) - 2 * z[0] @ z[1].T
    expansion = squared.clamp_min(0).amin(1).sqrt()
    assert float((expansion - truth[0, :, 1]).abs().max()) > 1e-2  # what a plain product gives


def test_the_result_does_not_depend_on_the_memory_limit() -> None:
    z = hot_rows(11, 37, 72)
    wanted = torch_backend.msm(z, None, 0, 3)
    least = 11 * 37 * 72 * 4 + 2 * 37 * 37 * 16
    for limit in (least, least + 30_000, 10**6):
        assert torch.equal(
            torch_backend.msm(z, None, 0, 3, SearchOptions(memory_limit=limit)), wanted
        )
    with pytest.raises(InputError, match="memory_limit: this search needs at least"):
        torch_backend.msm(z, None, 0, 3, SearchOptions(memory_limit=least - 1))


def test_low_precision_products_elsewhere_do_not_matter() -> None:
    z = hot_rows(5, 37, 40)
    wanted = torch_backend.patch_to_image(z)
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        assert torch.equal(torch_backend.patch_to_image(z), wanted)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("name", ["integer_k", "swapped_interval", "two_images_full"])
def test_golden(name: str) -> None:
    case: dict[str, Any] = golden(name)
    tokens = torch.from_numpy(case["tokens"])[:, :, 1:].float()
    side = round(tokens.shape[2] ** 0.5)
    count = tokens.shape[1] - 1
    k = reference.interval(tuple(case["topmin"].tolist()), count)
    for degree in case["degrees"].tolist():
        for layer, wanted in zip(tokens, case[f"msm_r{degree}"], strict=True):
            z = torch_backend.lnamd(layer, (side, side), [degree])[0]
            found = torch_backend.msm(z, None, *k)
            assert float((found - torch.from_numpy(wanted)).abs().max()) < 2e-5


def test_progress_reaches_its_total() -> None:
    calls: list[tuple[int, int]] = []
    torch_backend.msm(
        hot_rows(5, 3, 40),
        None,
        0,
        1,
        SearchOptions(on_progress=lambda done, of: calls.append((done, of))),
    )
    assert calls[-1][0] == calls[-1][1]
    assert calls == sorted(calls)
