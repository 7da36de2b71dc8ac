"""Nearest-patch scores against plain implementations in fp64."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from musc_fast import neighbors
from musc_fast.errors import InputError

DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


def tokens(n: int, p: int, c: int, seed: int = 0) -> Tensor:
    """Not normalised, with a hot channel; image 1 is image 0, image 2 nearly so."""
    z = torch.randn(n, p, c, generator=torch.Generator().manual_seed(seed))
    z[..., c // 2] *= 100
    if n > 2:
        z[1] = z[0]
        z[2] = z[0] + 1e-4 * z[2]
    return z


def cosine(x: Tensor, y: Tensor) -> Tensor:
    """1 - cos of every row of x with every row of y, in fp64, as |x - y|^2 / 2."""
    unit = [rows.double() / rows.double().norm(dim=1, keepdim=True) for rows in (x, y)]
    return torch.cdist(*unit, compute_mode="donot_use_mm_for_euclid_dist").square() / 2


def plain_batched(z: Tensor, share: float = 0.001) -> Tensor:
    rows = []
    for i, image in enumerate(z):
        others = torch.cat([other for j, other in enumerate(z) if j != i])
        lowest = cosine(image, others).sort(dim=1).values
        rows.append(lowest[:, : max(1, int(share * len(others)))].mean(dim=1))
    return torch.stack(rows)


@pytest.mark.parametrize(("p", "q", "c"), [(1, 1, 40), (37, 50, 24), (64, 16, 48)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_few_shot_is_the_minimum_over_the_bank(p: int, q: int, c: int, dtype: torch.dtype) -> None:
    z, bank = tokens(3, p, c).to(dtype), tokens(4, q, c, seed=1).to(dtype)
    rows = bank.reshape(-1, c)
    found = neighbors.few_shot(z, bank)
    assert found.dtype == torch.float32
    assert (found - torch.stack([cosine(x, rows).amin(1) for x in z])).abs().max() < 1e-6
    assert (found - neighbors.few_shot(z, rows[None])).abs().max() < 1e-6
    truth = torch.stack([torch.cdist(x.double(), rows.double()).amin(1) for x in z])
    euclidean = neighbors.few_shot(z, bank, distance="euclidean")
    assert ((euclidean - truth).abs() / truth).max() < 1e-5


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
def test_a_patch_of_the_bank_is_at_distance_zero(distance: Any) -> None:
    z = tokens(3, 12, 32)
    assert (neighbors.few_shot(z, z.flip(0, 1), distance=distance) == 0).all()


def test_near_duplicates_keep_their_digits() -> None:
    z = tokens(1, 40, 64).repeat(2, 1, 1).double()
    z[1] += 1e-3 * torch.randn(40, 64, generator=torch.Generator().manual_seed(2)) * z[1].abs()
    truth = cosine(z[0], z[1]).amin(dim=1)  # below 1e-6: 1 - x @ y has one digit of these
    assert truth.max() < 1e-6
    for found in (neighbors.few_shot(z[:1], z[1:]), neighbors.batched_zero_shot(z)[:1]):
        assert ((found[0] - truth) / truth).abs().max() < 1e-2


def test_dual_image_compares_with_one_image_alone() -> None:
    z, others = tokens(5, 20, 32), tokens(5, 33, 32, seed=1)
    truth = torch.stack([cosine(x, y).amin(dim=1) for x, y in zip(z, others, strict=True)])
    calls: list[tuple[int, int]] = []
    found = neighbors.dual_image(z, others, progress=lambda done, of: calls.append((done, of)))
    assert (found - truth).abs().max() < 1e-6
    assert calls == [(i, 5) for i in range(1, 6)]
    neighbors.batched_zero_shot(z, progress=lambda done, of: calls.append((done, of)))
    assert calls[5:] == calls[:5]
    # a pair of equal images is at 0 in both directions
    pairs = neighbors.dual_image(z[:2], z[:2].roll(1, dims=0), distance="euclidean")
    assert (pairs == 0).all()


@pytest.mark.parametrize(
    ("n", "p", "share"), [(2, 1, 0.001), (5, 37, 0.001), (11, 200, 0.001), (4, 30, 0.1), (3, 9, 1)]
)
@pytest.mark.parametrize("dtype", DTYPES)
def test_batched_zero_shot(n: int, p: int, share: float, dtype: torch.dtype) -> None:
    z = tokens(n, p, 40).to(dtype)
    found = neighbors.batched_zero_shot(z, share=share)
    assert found.dtype == torch.float32
    assert (found - plain_batched(z, share)).abs().max() < 1e-6


def test_one_patch_more_than_the_code_of_the_paper() -> None:
    """Theirs: the mean of what is strictly below the k-th lowest distance."""
    z = tokens(4, 500, 16, seed=3)[[0, 3]]  # no two distances are equal
    distances = cosine(z[0], z[1])
    below = distances < distances.kthvalue(5, dim=1, keepdim=True).values
    theirs = (distances * below).sum(dim=1) / below.sum(dim=1)
    found = neighbors.batched_zero_shot(z, share=4 / 500)[0]
    assert (found - theirs).abs().max() < 1e-6


def test_rows_at_zero() -> None:
    z = tokens(3, 8, 16)
    z[:2, 0] = 0
    assert neighbors.few_shot(z[:1], z[2:])[0, 0] == pytest.approx(0.5)
    found = neighbors.batched_zero_shot(z, share=1.0)
    assert torch.isfinite(found).all()
    assert found[0, 0] == pytest.approx(0.5 * 15 / 16)  # one of the 16 others is zero too


@given(st.integers(2, 5), st.integers(1, 12), st.floats(1e-3, 1), st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_batched_laws(n: int, p: int, share: float, seed: int) -> None:
    z = torch.randn(n, p, 8, generator=torch.Generator().manual_seed(seed))
    found = neighbors.batched_zero_shot(z, share=share)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    assert (neighbors.batched_zero_shot(z[order], share=share) - found[order]).abs().max() < 1e-6
    lengths = 0.1 + torch.rand(n, p, 1, generator=torch.Generator().manual_seed(seed))
    assert (neighbors.batched_zero_shot(z * lengths, share=share) - found).abs().max() < 1e-6
    lowest = neighbors.few_shot(z[:1], z[1:])[0]
    assert (found[0] >= lowest - 1e-6).all()
    assert (neighbors.batched_zero_shot(z, share=1.0) >= found - 1e-6).all()


@pytest.mark.parametrize("p", [1, 9, 99, 100, 250, 784])
def test_top_mean(p: int) -> None:
    scores = torch.rand(3, p, generator=torch.Generator().manual_seed(p))
    highest = scores.double().sort(dim=1, descending=True).values
    assert torch.equal(neighbors.top_mean(scores, 1e-9), scores.amax(dim=1))
    wanted = highest[:, : max(1, p // 100)].mean(dim=1)
    assert (neighbors.top_mean(scores) - wanted).abs().max() < 1e-6
    assert torch.equal(neighbors.top_mean(scores.reshape(3, 1, p)), neighbors.top_mean(scores))


PEAK = """
import sys, torch
from musc_fast.neighbors import batched_zero_shot

def peak():  # ru_maxrss would start at that of the parent
    lines = open("/proc/self/status").read().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("VmHWM")).split()[1])

z = torch.randn(40, 300, 192, generator=torch.Generator().manual_seed(0))
batched_zero_shot(z[:3])  # libraries and thread stacks
whole = batched_zero_shot(z[:8])
for limit in (20 << 20, 48 << 20):
    before = peak()
    batched_zero_shot(z, memory_limit=limit)
    assert peak() - before <= limit, (limit, peak() - before)
tight = batched_zero_shot(z[:8], memory_limit=11 << 20)
assert (whole - tight).abs().max() < 1e-7
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_limit_holds() -> None:
    done = subprocess.run([sys.executable, "-c", PEAK], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


Z = tokens(3, 4, 5)
NAN = Z.clone()
NAN[2, 1, 0] = torch.nan
WRONG: list[tuple[Callable[[], Any], str]] = [
    (lambda: neighbors.few_shot(Z, Z[..., :3]), r"references: found \[3, 4, 3\], wanted \[M, Q, 5"),
    (lambda: neighbors.few_shot(Z, NAN), "references: image 2 holds NaN"),
    (lambda: neighbors.few_shot(Z, Z[0]), r"references: found float32 \[4, 5\]"),
    (lambda: neighbors.few_shot(Z, Z, distance="L2"), "distance: found 'L2'"),  # type: ignore[arg-type]
    (lambda: neighbors.dual_image(Z, Z[:2]), r"others: found \[2, 4, 5\], wanted \[3, Q, 5\]"),
    (lambda: neighbors.dual_image(NAN, Z), "z: image 2 holds NaN"),
    (lambda: neighbors.batched_zero_shot(Z[:1]), "give at least 2 images"),
    (lambda: neighbors.batched_zero_shot(NAN), "z: image 2 holds NaN"),
    (lambda: neighbors.batched_zero_shot(Z, share=0), "share: found 0, wanted more than 0"),
    (lambda: neighbors.batched_zero_shot(Z, memory_limit=10), r"memory_limit.*at least \d+ MiB"),
    (lambda: neighbors.batched_zero_shot(Z, memory_limit=-1), "memory_limit: found -1"),
    (lambda: neighbors.top_mean(Z[0, 0]), r"patch_scores: found float32 \[5\]"),
    (lambda: neighbors.top_mean(NAN), "patch_scores: image 2 holds NaN"),
    (lambda: neighbors.top_mean(Z, 1.5), "share: found 1.5"),
]


@pytest.mark.parametrize(("call", "message"), WRONG)
def test_a_wrong_argument_is_named(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()
