"""The search and its second pass against distances in fp64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from musc_fast.kernels.candidates import list_candidates
from musc_fast.kernels.min_distance import (
    LOST_BITS,
    TRUNCATION,
    UNSET,
    decode_keys,
    find_nearest,
    new_keys,
)
from musc_fast.kernels.min_distance_few_channels import find_nearest_few_channels
from musc_fast.kernels.tiles import Config

SMALL = Config(BLOCK_P=16, BLOCK_Q=16, BLOCK_K=16, GROUP=2, num_warps=4, num_stages=1)
CPU = torch.device("cpu")


def operands(n: int, p: int, k: int, dtype: torch.dtype, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, p, k, generator=generator)
    if n > 2:
        x[2] = x[0]
    if dtype == torch.int8:
        x = (30 * x).round().clamp(-127, 127)
        return x.to(dtype), x.square().sum(2).int()
    x = x.to(dtype)
    return x, x.float().square().sum(2)


def truth(x: Tensor, y: Tensor) -> Tensor:
    """Squared distances [N, M, P, Q] float64 of operands."""
    a, b = x.double(), y.double()
    return (a[:, None, :, None] - b[None, :, None]).square().sum(-1)


CASES = [
    (torch.float32, 2, 1, 40),
    (torch.float16, 3, 37, 48),
    (torch.float16, 2, 20, 384),
    (torch.int8, 3, 21, 64),
]


@pytest.mark.parametrize(("dtype", "n", "p", "k"), CASES)
@pytest.mark.parametrize("config", [SMALL, None])
def test_batch_and_references(
    dtype: torch.dtype, n: int, p: int, k: int, config: Config | None
) -> None:
    x, norms = operands(n, p, k, dtype)
    y, y_norms = operands(3, p + 5, k, dtype, seed=1)
    tolerance = 0 if dtype == torch.int8 else 1e-3
    for others, other_norms, triangle in ((x, norms, True), (y, y_norms, False)):
        squared = truth(x, others)
        keys = new_keys(n, others.shape[0], p, CPU)
        find_nearest(x, norms, others, other_norms, keys, triangle=triangle, config=config)
        found, index = decode_keys(keys, dtype == torch.int8)
        pairs = ~torch.eye(n, dtype=torch.bool) if triangle else torch.ones(n, 3, dtype=torch.bool)
        assert torch.isinf(found[~pairs]).all()
        wanted = squared.amin(3)
        lost = 0 if dtype == torch.int8 else TRUNCATION - 1
        assert bool((found - wanted <= tolerance)[pairs].all())
        assert bool((wanted - found <= tolerance + lost * wanted)[pairs].all())
        at = squared.gather(3, index.long().clamp_max(others.shape[1] - 1)[..., None])[..., 0]
        assert bool((at - wanted <= tolerance + lost * wanted)[pairs].all())
        if dtype == torch.int8:  # ties go to the first
            assert torch.equal(index[pairs].long(), squared.argmin(3)[pairs])


def test_chunks_and_groupings_agree_to_the_bit() -> None:
    # Whole numbers, whose sums are exact in any order: the interpreter multiplies with numpy's
    # BLAS, and on some processors that adds up x y^T in another order than y x^T.
    whole_numbers, squares = operands(4, 21, 48, torch.int8)
    x, norms = whole_numbers.half(), squares.float()
    whole = new_keys(4, 4, 21, CPU)
    find_nearest(x, norms, x, norms, whole, triangle=True, config=SMALL)
    parts = new_keys(4, 4, 21, CPU)
    other = Config(32, 64, 16, 3, 4, 1)
    head, tail = parts[:2], parts[2:]
    find_nearest(x[:2], norms[:2], x[:2], norms[:2], head, triangle=True, config=other)
    find_nearest(x[:2], norms[:2], x[2:], norms[2:], head, 2, config=other)
    find_nearest(x[2:], norms[2:], x[2:], norms[2:], tail, 2, triangle=True, config=other)
    find_nearest(x[2:], norms[2:], x[:2], norms[:2], tail, 0, config=other)
    assert torch.equal(whole, parts)


@pytest.mark.parametrize("tile", [(16, 16), (16, 64), (64, 32), (128, 256)])
@pytest.mark.parametrize("size", [1, 40])
def test_truncated_keys_depend_on_no_tile(tile: tuple[int, int], size: int) -> None:
    # Whole numbers in float16, whose sums are exact; `size` 40 gives sums of more than 15 bits,
    # of which keys lose some, so that a smaller patch index wins against a nearer patch.
    generator = torch.Generator().manual_seed(size)
    x = torch.randint(-2 * size, 2 * size + 1, (3, 70, 48), generator=generator).half()
    x[1, 7] = x[0, 3]
    x[2, ::5] = x[2, 0]
    norms = x.float().square().sum(2)
    keys = new_keys(3, 3, 70, CPU)
    find_nearest(x, norms, x, norms, keys, triangle=True, config=Config(*tile, 16, 2, 4, 1))
    exact = truth(x, x).float()
    kept = (exact.view(torch.int32) & -(1 << LOST_BITS)).view(torch.float32)
    assert bool((kept != exact).any()) == (size > 1)
    wanted, index = kept.amin(3), kept.argmin(3)  # the first of equals
    found, found_index = decode_keys(keys, False)
    pairs = ~torch.eye(3, dtype=torch.bool)
    assert torch.equal(found[pairs], wanted[pairs])
    assert torch.equal(found_index[pairs].long(), index[pairs])
    assert bool((exact.amin(3) < TRUNCATION * found)[pairs & (found > 0).all(2)].all())


@pytest.mark.parametrize("tile", [(16, 16), (32, 64)])
def test_negative_distances_decode_to_zero(tile: tuple[int, int]) -> None:
    # Norms that are too small stand for rounding; any of the negative entries may win, but in
    # every tiling the same.
    x = torch.eye(16, 32).half().repeat(2, 3, 1)
    norms = x.float().square().sum(2) - torch.linspace(0.1, 0.2, 96).view(2, 48)
    keys = new_keys(2, 2, 48, CPU)
    find_nearest(x, norms, x, norms, keys, triangle=True, config=Config(*tile, 16, 2, 4, 1))
    usual = new_keys(2, 2, 48, CPU)
    find_nearest(x, norms, x, norms, usual, triangle=True)
    assert torch.equal(keys, usual)
    found, index = decode_keys(keys, False)
    assert not found[0, 1].any()
    assert torch.equal(index[0, 1] % 16, torch.arange(48, dtype=torch.int32) % 16)


@pytest.mark.parametrize("dtype", [torch.float16, torch.int8])
def test_descriptors_load_the_same_tiles(dtype: torch.dtype) -> None:
    x, norms = operands(3, 21, 64, dtype)
    config = Config(16, 16, 32, 2, 4, 1)
    wanted, found = (new_keys(3, 3, 21, CPU) for _ in range(2))
    arguments = (x, norms, x, norms)
    for keys, descriptors in ((wanted, False), (found, True)):
        find_nearest(*arguments, keys, triangle=True, config=config, descriptors=descriptors)
    assert torch.equal(found, wanted)
    limits = torch.full(wanted.shape, 1e4)
    lists = [
        list_candidates(*arguments, wanted, limits, 5000, config=config, descriptors=descriptors)
        for descriptors in (False, True)
    ]
    pairs = [sorted(zip(s.tolist(), q.tolist(), strict=True)) for s, q, _ in lists]
    assert len(pairs[0]) > 5
    assert pairs[0] == pairs[1]


@pytest.mark.parametrize(("dtype", "n", "p", "k"), [(torch.float16, 3, 37, 48), CASES[3]])
def test_few_channels_give_the_same_keys(dtype: torch.dtype, n: int, p: int, k: int) -> None:
    x, norms = operands(n, p, k, dtype)
    y, y_norms = operands(2, p + 20, k, dtype, seed=1)
    config = Config(16, 32, 64, 2, 4, 1)
    for others, other_norms, triangle in ((x, norms, True), (y, y_norms, False)):
        wanted, found = (new_keys(n, others.shape[0], p, CPU) for _ in range(2))
        arguments = (x, norms, others, other_norms)
        find_nearest(*arguments, wanted, triangle=triangle, config=SMALL)
        find_nearest_few_channels(*arguments, found, triangle=triangle, config=config)
        if dtype == torch.int8:
            assert torch.equal(found, wanted)
        else:  # one product of all channels adds in another order
            pairs = wanted != UNSET
            assert torch.equal(found != UNSET, pairs)
            distances = [decode_keys(keys, False)[0][pairs] for keys in (found, wanted)]
            assert torch.allclose(*distances, rtol=TRUNCATION - 1 + 1e-5, atol=1e-4)


@pytest.mark.parametrize(("dtype", "n", "p", "k"), [(torch.float16, 3, 20, 32), CASES[3]])
@pytest.mark.parametrize("triangle", [True, False])
def test_candidates(dtype: torch.dtype, n: int, p: int, k: int, triangle: bool) -> None:
    x, norms = operands(n, p, k, dtype)
    squared = truth(x, x)
    keys = new_keys(n, n, p, CPU)
    find_nearest(x, norms, x, norms, keys, triangle=triangle, config=SMALL)
    winner = decode_keys(keys, dtype == torch.int8)[1].long()
    limits = (squared.amin(3) * 1.2 + 0.01).float()
    limits[:, 1] = -torch.inf
    limits[torch.eye(n, dtype=torch.bool)] = -torch.inf
    wanted = squared <= limits[..., None]
    wanted.scatter_(3, winner.clamp_max(p - 1)[..., None], False)
    assert int(wanted.sum()) > 5
    slots, q, count = list_candidates(
        x, norms, x, norms, keys, limits, 5000, triangle=triangle, config=SMALL
    )
    assert count == int(wanted.sum())
    listed = torch.zeros_like(wanted)
    listed.view(-1, p)[slots, q.long()] = True
    assert torch.equal(listed, wanted)
    few = list_candidates(x, norms, x, norms, keys, limits, 3, triangle=triangle, config=SMALL)
    assert few[2] == count
    assert few[0].shape[0] == 3
