"""Memory that searches hand on: taken once, given back with its owner, never shared."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest
import torch

from musc_fast.backends.cpu import operators as native
from musc_fast.backends.cpu import scratch
from musc_fast.settings import SearchOptions

SIZE = 8 << 20


class Owner:
    pass


@pytest.fixture(autouse=True)
def nothing_kept() -> Iterator[None]:
    gc.collect()
    scratch.release()
    yield
    scratch.release()


def test_the_next_owner_gets_the_memory_and_not_before() -> None:
    first, second = Owner(), Owner()
    one = scratch.take(first, SIZE, torch.uint8)
    two = scratch.take(second, SIZE, torch.uint8)
    assert one.data_ptr() != two.data_ptr()
    address = one.data_ptr()
    del first
    third = Owner()
    three = scratch.take(third, SIZE // 4 - 5, torch.int32)
    assert three.data_ptr() == address
    assert three.shape == (SIZE // 4 - 5,)


def test_neither_far_too_large_nor_too_small_blocks_are_reused() -> None:
    owner = Owner()
    address = scratch.take(owner, SIZE, torch.uint8).data_ptr()
    del owner
    for size in (SIZE // 4, SIZE + 64):
        other = Owner()
        assert scratch.take(other, size, torch.uint8).data_ptr() != address


def test_no_more_than_the_bound_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    assert scratch._most() >= 256 << 20
    monkeypatch.setattr(scratch, "_most", lambda: 3 * SIZE)
    owners = [Owner() for _ in range(5)]
    for owner in owners:
        scratch.take(owner, SIZE, torch.uint8)
    del owner, owners
    gc.collect()
    assert sum(len(block) for block in scratch._free) == 3 * SIZE
    scratch.release()
    assert not scratch._free


def test_results_do_not_depend_on_what_the_memory_held() -> None:
    z = torch.nn.functional.normalize(
        torch.randn(16, 700, 384, generator=torch.Generator().manual_seed(3)), dim=2
    )
    first = native.msm(z, None, 0, 2)
    for block in scratch._free:
        block.fill_(255)
    assert scratch._free, "a search of this size hands its memory on"
    assert torch.equal(native.msm(z, None, 0, 2), first)
    limited = native.msm(z, None, 0, 2, SearchOptions(memory_limit=1 << 30))
    assert torch.equal(limited, first)
