"""The reference against the golden outputs of the official code, and against its own laws."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from golden_files import CASES, golden
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from musc_fast import reference

TOLERANCE = 1e-5


def close(found: Tensor, wanted: object) -> bool:
    difference = (found - torch.as_tensor(wanted, dtype=torch.float64)).abs().max()
    return bool(difference <= TOLERANCE)


@pytest.mark.parametrize("name", CASES)
def test_every_stage_matches_the_official_code(name: str) -> None:
    case = golden(name)
    tokens = torch.from_numpy(case["tokens"]).double()[:, :, 1:]  # [layers, N, P, C]
    layers, n, p, _ = tokens.shape
    grid = (math.isqrt(p), math.isqrt(p))
    degrees = case["degrees"].tolist()
    low, high = case["topmin"].tolist()
    k_min, k_max = reference.interval((low, high), n - 1)

    total = torch.zeros(n, p, dtype=torch.float64)
    for layer in range(layers):
        pooled = reference.lnamd(tokens[layer], grid, degrees)
        for degree, z in zip(degrees, pooled, strict=True):
            assert close(z, case[f"lnamd_r{degree}"][:, :, layer])
            scores = reference.msm(z, None, k_min, k_max)
            if name == "four_images":  # NaN in the official code: no neighbour counts
                assert torch.isfinite(scores).all()
            else:
                assert close(scores, case[f"msm_r{degree}"][layer])
            total += scores / (layers * len(degrees))
    if name == "four_images":
        return
    assert close(total, case["patch_scores"])
    size = int(case["image_size"])
    maps = reference.upsample(total.reshape(n, *grid), (size, size))
    assert close(maps, case["anomaly_maps"])
    raw = maps.flatten(1).amax(1)
    assert close(raw, case["image_scores_raw"])
    classes = torch.from_numpy(case["cls_tokens"]).double()
    for key, neighbors in (("rscin_k1_2_3", (1, 2, 3)), ("rscin_k1_4_5", (1, 4, 5))):
        if key in case:
            assert close(reference.rscin(raw, classes, neighbors), case[key])


@pytest.mark.parametrize("product", ["bottle", "toothbrush", "macaroni2"])
def test_rscin_matches_the_official_code_on_clip_tokens(product: str) -> None:
    case = golden("rscin_clip_tokens")
    rescored = reference.rscin(
        torch.from_numpy(case[f"{product}_scores"]).double(),
        torch.from_numpy(case[f"{product}_cls"]).double(),
        case[f"{product}_k"].tolist(),
    )
    assert close(rescored, case[f"{product}_rescored"])


@pytest.mark.parametrize(
    ("topmin", "count", "wanted"),
    [
        ((0.0, 0.3), 10, (0, 3)),
        ((0.0, 0.3), 9, (0, 2)),
        ((0.0, 0.3), 1, (0, 1)),  # at least one neighbour
        ((0.0, 0.3), 3, (0, 1)),
        ((0.3, 0.0), 10, (0, 3)),  # reversed bounds swap
        ((1, 4), 8, (1, 4)),  # counts
        ((0.0, 50), 8, (0, 8)),  # no more than there are
        ((0.5, 0.5), 10, (4, 5)),  # never empty
        ((9, 9), 4, (3, 4)),
    ],
)
def test_interval(topmin: tuple[float, float], count: int, wanted: tuple[int, int]) -> None:
    assert reference.interval(topmin, count) == wanted


def test_lnamd_of_a_rectangle_against_loops() -> None:
    height, width, channels, degree = 3, 5, 4, 3
    tokens = torch.randn(
        2, height * width, channels, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )
    found = reference.lnamd(tokens, (height, width), [degree])[0]
    for n in range(2):
        values = tokens[n].numpy()
        values = (values - values.mean()) / np.sqrt(values.var() + 1e-5)
        maps = values.reshape(height, width, channels)
        for y in range(height):
            for x in range(width):
                total = np.zeros(channels)
                for v in range(max(0, y - 1), min(height, y + 2)):
                    for u in range(max(0, x - 1), min(width, x + 2)):
                        total += maps[v, u]
                mean = total / degree**2
                wanted = mean / np.linalg.norm(mean)
                np.testing.assert_allclose(found[n, y * width + x], wanted, atol=1e-12)


def test_lnamd_keeps_a_constant_image_at_zero() -> None:
    z = reference.lnamd(torch.full((1, 9, 4), 3.0, dtype=torch.float64), (3, 3), [1, 3])
    assert all((degree == 0).all() for degree in z)


def test_distances_near_zero_keep_their_digits() -> None:
    """The expansion |x|^2 + |y|^2 - 2xy in fp32 would give 0 or 5e-4 here."""
    generator = torch.Generator().manual_seed(1)
    z = torch.randn(1, 20, 64, dtype=torch.float64, generator=generator)
    z = torch.nn.functional.normalize(z, dim=2)
    near = z + 1e-7 * torch.randn(z.shape, dtype=torch.float64, generator=generator)
    found = reference.patch_to_image(torch.cat([z, near]))
    wanted = torch.linalg.vector_norm(z - near, dim=2)[0]
    assert torch.allclose(found[0, :, 1], wanted, rtol=1e-6, atol=0)
    assert torch.isinf(found[0, :, 0]).all()


def test_rscin_degenerate_batches() -> None:
    classes = torch.eye(3, dtype=torch.float64)
    constant = torch.full((3,), 0.7, dtype=torch.float64)
    assert torch.equal(reference.rscin(constant, classes, [1, 2, 3]), constant)
    scores = torch.tensor([0.0, 1.0], dtype=torch.float64)
    opposite = torch.tensor([[1.0, 0.0], [-1.0, 0.0]], dtype=torch.float64)
    # k = 2 would divide 0 by 0 if the negative product counted; k = 9 is clipped to N.
    assert torch.equal(reference.rscin(scores, opposite, [2, 9]), scores)


@st.composite
def batches(draw: st.DrawFn) -> Tensor:
    n = draw(st.integers(2, 6))
    p = draw(st.integers(1, 12))
    c = draw(st.integers(1, 20))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    z = torch.randn(n, p, c, dtype=torch.float64, generator=generator)
    return torch.nn.functional.normalize(z, dim=2)


@given(batches(), st.randoms(use_true_random=False))
@settings(max_examples=30, deadline=None)
def test_a_permuted_batch_gives_permuted_scores(z: Tensor, random: object) -> None:
    order = list(range(z.shape[0]))
    random.shuffle(order)  # type: ignore[attr-defined]
    k = reference.interval((0.0, 0.5), z.shape[0] - 1)
    scores = reference.msm(z, None, *k)
    assert torch.allclose(reference.msm(z[order], None, *k), scores[order], atol=1e-12)


@given(batches())
@settings(max_examples=30, deadline=None)
def test_pair_distances_are_symmetric(z: Tensor) -> None:
    """min over p and q of d(i, j) does not depend on which image asks."""
    least = reference.patch_to_image(z).amin(dim=1)  # [N, N]
    assert torch.allclose(least, least.T, atol=1e-12)


@given(batches(), st.integers(0, 2**31))
@settings(max_examples=30, deadline=None)
def test_a_rotation_of_the_channels_changes_nothing(z: Tensor, seed: int) -> None:
    c = z.shape[2]
    gaussian = torch.randn(c, c, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    rotation = torch.linalg.qr(gaussian).Q
    k = reference.interval((0.0, 0.3), z.shape[0] - 1)
    assert torch.allclose(
        reference.msm(z @ rotation, None, *k), reference.msm(z, None, *k), atol=1e-7
    )


@given(batches())
@settings(max_examples=20, deadline=None)
def test_the_batch_as_references_of_another_batch(z: Tensor) -> None:
    """Scoring one image against the rest as references is scoring it within the batch."""
    k = reference.interval((0.0, 0.3), z.shape[0] - 1)
    alone = reference.msm(z[:1], z[1:], *k)
    assert torch.allclose(alone[0], reference.msm(z, None, *k)[0], atol=1e-12)
