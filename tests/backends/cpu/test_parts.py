"""Lists of references, parts of a batch, two sets at once, kept references: all the same bits."""

from __future__ import annotations

import cases
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from musc_fast.backends.cpu import operators as native
from musc_fast.backends.cpu.options import Outputs, SearchSettings
from musc_fast.backends.cpu.search import run_search
from musc_fast.settings import SearchOptions

IMAGES = 9


def lists_of(seed: int, each: int) -> torch.Tensor:
    """For every image `each` others, ascending, drawn with a seed."""
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for i in range(IMAGES):
        others = torch.tensor([j for j in range(IMAGES) if j != i])
        rows.append(others[torch.randperm(IMAGES - 1, generator=generator)[:each]].sort().values)
    return torch.stack(rows).int()


@given(seed=st.integers(0, 1000), each=st.integers(1, IMAGES - 1), chunk=st.integers(1, IMAGES))
@settings(max_examples=15, deadline=None)
def test_lists_take_their_columns(seed: int, each: int, chunk: int) -> None:
    z = cases.features(IMAGES, 60, 64)
    z[4] = z[3]
    lists = lists_of(seed, each)
    every = native.patch_to_image(z)
    wanted = every.gather(2, lists[:, None, :].expand(-1, 60, -1).long())
    k_max = max(1, each // 2)
    found = torch.empty(IMAGES, 60)
    run_search(z, None, 0, k_max, Outputs(means=found), SearchSettings(chunk=chunk), lists)
    assert torch.equal(found, native.interval_mean(wanted, 0, k_max))
    nearest = tuple(
        torch.empty(IMAGES, 60, 1, dtype=t) for t in (torch.float, torch.long, torch.long)
    )
    run_search(z, None, 0, 1, Outputs(nearest=nearest), SearchSettings(), lists)
    assert bool((nearest[1] == lists[:, None, :]).any(dim=2).all())


def test_lists_of_references() -> None:
    z, others = cases.features(3, 40, 64), cases.features(5, 50, 64, seed=1)
    lists = torch.tensor([[0, 2], [1, 4], [2, 3]]).int()
    found = native.msm(z, others, 0, 2, lists=lists)
    for i in range(3):
        assert torch.equal(found[i], native.msm(z[i : i + 1], others[lists[i].long()], 0, 2)[0])


@pytest.mark.parametrize("parts", [[(0, 9)], [(0, 4), (4, 5), (5, 9)], [(6, 8)]])
def test_parts(parts: list[tuple[int, int]]) -> None:
    z = cases.features(IMAGES, 60, 64)
    expected = native.msm(z, None, 0, 3)
    found = list(native.msm_parts(z, None, 0, 3, parts))
    for (first, last), part in zip(parts, found, strict=True):
        assert torch.equal(part, expected[first:last])


@pytest.mark.parametrize("channels", [64, 384])
@pytest.mark.parametrize(("n", "m", "p", "q"), [(1, 1, 1, 1), (3, 5, 37, 60), (5, 2, 130, 40)])
def test_between(n: int, m: int, p: int, q: int, channels: int) -> None:
    a, b = cases.features(n, p, channels, seed=1), cases.features(m, q, channels, seed=2)
    b[0, 0] = a[0, 0]
    there, back = native.between(a, b)
    assert torch.equal(there, native.patch_to_image(a, b))
    assert torch.equal(back, native.patch_to_image(b, a))
    small = native.between(a, b, SearchOptions(memory_limit=140 << 20))
    assert torch.equal(small[0], there)
    assert torch.equal(small[1], back)


def test_kept_references_replace_and_grow() -> None:
    every = cases.features(14, 50, 64)
    query = cases.features(2, 50, 64, seed=3)
    kept = native.KeptReferences(6, 50, 64)
    held: dict[int, int] = {}
    for step in range(14):
        slot = step if step < 6 else (step * 5) % 6
        kept.put(slot, every[step])
        held[slot] = step
        count = len(kept)
        k_max = max(1, count // 3)
        references = every[[held[slot] for slot in range(count)]]
        assert torch.equal(kept.msm(query, 0, k_max), native.msm(query, references, 0, k_max))


def test_the_mean_does_not_depend_on_the_order() -> None:
    generator = torch.Generator().manual_seed(0)
    distances = torch.rand(40, 3, 200, generator=generator) * torch.logspace(-6, 0, 200)
    expected = native.interval_mean(distances, 10, 150)
    for _ in range(5):
        order = torch.randperm(200, generator=generator)
        assert torch.equal(native.interval_mean(distances[..., order], 10, 150), expected)
