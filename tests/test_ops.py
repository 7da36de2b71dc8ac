"""Operators: every usable backend against the fp64 reference, and every wrong argument."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from musc_fast import ops, reference
from musc_fast.backends import BACKENDS
from musc_fast.errors import BackendError, InputError

CPU = torch.device("cpu")
USABLE = [
    pytest.param(
        backend.name,
        marks=[pytest.mark.skip(reason=f"{backend.name}: {reason}")]
        if (reason := backend.why_not(CPU))
        else [],
    )
    for backend in BACKENDS
]
SHAPES = [(2, (1, 1), 40), (3, (5, 7), 40), (11, (4, 4), 24), (5, (16, 16), 64)]


def random_tokens(n: int, grid: tuple[int, int], c: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randn(n, grid[0] * grid[1], c, generator=generator)
    tokens[..., c // 2] *= 100  # ViTs have a hot channel
    if n > 2:
        tokens[1] = tokens[0]  # a duplicate image
        tokens[2] = tokens[0] + 1e-4 * tokens[2]  # and a near-duplicate
    return tokens


@pytest.mark.parametrize("backend", USABLE)
@pytest.mark.parametrize(("n", "grid", "c"), SHAPES)
def test_lnamd(backend: str, n: int, grid: tuple[int, int], c: int) -> None:
    tokens = random_tokens(n, grid, c)
    wanted = reference.lnamd(tokens.double(), grid, [1, 3, 5])
    found = ops.lnamd_all(tokens, grid, [1, 3, 5], backend=backend)
    for z, truth, degree in zip(found, wanted, [1, 3, 5], strict=True):
        assert z.dtype == torch.float32
        assert (z - truth).abs().max() < 1e-5
        assert torch.equal(ops.lnamd(tokens, grid, degree, backend=backend), z)


@pytest.mark.parametrize("backend", USABLE)
@pytest.mark.parametrize(("n", "grid", "c"), SHAPES)
def test_distances_and_msm(backend: str, n: int, grid: tuple[int, int], c: int) -> None:
    z = reference.lnamd(random_tokens(n, grid, c).double(), grid, [3])[0].float()
    truth = reference.patch_to_image(z.double())
    found = ops.patch_to_image(z, backend=backend)
    assert found.dtype == torch.float32
    assert torch.isinf(found[range(n), :, range(n)]).all()
    others = ~torch.eye(n, dtype=torch.bool)[:, None].expand_as(found)
    assert torch.isfinite(found[others]).all()
    assert (found - truth)[others].abs().max() < 1e-5
    for topmin in ((0.0, 0.3), (0.2, 0.8), (1, 2)):
        k = reference.interval(topmin, n - 1)
        wanted = reference.interval_mean(truth, *k)
        assert (ops.msm(z, topmin=topmin, backend=backend) - wanted).abs().max() < 1e-5
        assert (ops.interval_mean(found, topmin, backend=backend) - wanted).abs().max() < 1e-5


@pytest.mark.parametrize("backend", USABLE)
def test_references_take_the_place_of_the_batch(backend: str) -> None:
    grid = (3, 4)
    z = reference.lnamd(random_tokens(7, grid, 40).double(), grid, [1])[0].float()
    query, others = z[:3], z[3:]
    truth = reference.patch_to_image(query.double(), others.double())
    assert (ops.patch_to_image(query, others, backend=backend) - truth).abs().max() < 1e-5
    wanted = reference.interval_mean(truth, *reference.interval((0.0, 0.5), 4))
    found = ops.msm(query, others, (0.0, 0.5), backend=backend)
    assert (found - wanted).abs().max() < 1e-5
    one = ops.msm(query[:1], others, (0.0, 0.5), backend=backend)
    assert torch.equal(one[0], found[0])


@pytest.mark.parametrize("backend", USABLE)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_any_floating_dtype(backend: str, dtype: torch.dtype) -> None:
    z = torch.nn.functional.normalize(torch.randn(4, 9, 40), dim=2).to(dtype)
    truth = reference.msm(z.double(), None, 0, 1)
    found = ops.msm(z, backend=backend)
    assert found.dtype == torch.float32
    assert (found - truth).abs().max() < 1e-5


@pytest.mark.parametrize("backend", USABLE)
def test_identical_images_are_at_distance_zero(backend: str) -> None:
    z = torch.nn.functional.normalize(torch.randn(1, 16, 48), dim=2).expand(4, 16, 48)
    assert (ops.msm(z, backend=backend) == 0).all()


def test_progress_ends_at_its_total() -> None:
    calls: list[tuple[int, int]] = []
    ops.msm(torch.rand(4, 5, 6), progress=lambda done, total: calls.append((done, total)))
    assert calls
    assert calls[-1][0] == calls[-1][1]
    assert [done for done, _ in calls] == sorted(done for done, _ in calls)


def test_rscin_normalises_class_tokens() -> None:
    scores, classes = torch.rand(6), torch.randn(6, 8)
    unit = torch.nn.functional.normalize(classes.double(), dim=1)
    wanted = reference.rscin(scores.double(), unit, [1, 2, 3])
    assert torch.allclose(ops.rscin(scores, 7 * classes), wanted.float(), atol=1e-6)


Z = torch.rand(3, 4, 5)
NAN = Z.clone()
NAN[2, 1, 0] = math.nan
INF = Z.clone()
INF[1, 1, 0] = math.inf
WRONG: list[tuple[Callable[[], Any], str]] = [
    (lambda: ops.lnamd(Z, (2, 3), 1), r"grid \(2, 3\) does not hold the 4 patches"),
    (lambda: ops.lnamd(Z, (2, 2), 2), r"degrees: found \[2\], wanted odd"),
    (lambda: ops.lnamd(Z[0], (2, 2), 1), r"tokens: found float32 \[4, 5\], wanted a float \[N"),
    (lambda: ops.lnamd(Z.long(), (2, 2), 1), r"tokens: found int64"),
    (lambda: ops.lnamd(NAN, (2, 2), 1), "tokens: image 2 holds NaN"),
    (lambda: ops.msm(INF), "z: image 1 holds Inf"),
    (lambda: ops.msm(Z[:1]), "give at least 2 images, or references"),
    (lambda: ops.msm(Z, Z[:, :, :3]), r"references: found \[3, 4, 3\], wanted \[M, Q, 5\]"),
    (lambda: ops.msm(Z, topmin=(-0.1, 0.3)), "topmin: found"),
    (lambda: ops.msm(Z, precision="double"), "precision: found 'double', wanted one of exact"),
    (lambda: ops.msm(Z, memory_limit=0), "memory_limit: found 0"),
    (lambda: ops.interval_mean(Z[0]), r"distances: found float32 \[4, 5\]"),
    (lambda: ops.interval_mean(INF), "distances: every patch needs the same number"),
    (lambda: ops.rscin(Z[:, 0, 0], Z[:2, 0]), r"cls_tokens: found float32 \[2, 5\]"),
    (lambda: ops.rscin(Z[:, 0, 0], Z[:, 0] * 0), "cls_tokens: the class token of image 0 is zero"),
    (lambda: ops.rscin(Z[:, 0, 0], Z[:, 0], []), r"neighbors: found \[\]"),
]


@pytest.mark.parametrize(("call", "message"), WRONG)
def test_a_wrong_argument_is_named(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()


def test_an_unknown_backend_lists_the_known() -> None:
    with pytest.raises(BackendError, match="unknown backend 'gpu'; choose one of auto, cpu"):
        ops.msm(Z, backend="gpu")
