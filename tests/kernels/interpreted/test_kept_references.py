"""Kept references give the bits of a search that keeps nothing."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hot_rows import hot_rows
from torch import Tensor

from musc_fast.backends.rounded_images import RoundingSpace, fit_space
from musc_fast.backends.triton import device, kept_references, search, sides
from musc_fast.backends.triton.operators import OPERATORS, msm
from musc_fast.settings import SearchOptions

EXACT = SearchOptions("exact")


@pytest.mark.parametrize(("components", "patches_for_few"), [(None, 1), (15, 1), (15, 4096)])
def test_replaced_and_grown(
    components: int | None, patches_for_few: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "_PATCHES_FOR_FEW", patches_for_few)
    fits = []

    def space_of(z: Tensor, references: Tensor | None, *_: Any) -> RoundingSpace:
        fits.append(len(z))
        return fit_space(z, references, torch.int8, components)

    monkeypatch.setattr(kept_references, "space_of", space_of)
    every, query = hot_rows(8, 3, 40), hot_rows(1, 2, 40, seed=3)
    kept = OPERATORS.keep_references(4, 3, 40, torch.device("cpu"))
    held: dict[int, int] = {}
    for step, slot in enumerate((0, 1, 2, 3, 1, 0, 2, 3)):
        kept.put(slot, every[step])
        held[slot] = step
        assert len(kept) == len(held)
        if step in (4, 6):  # a search takes its time
            continue
        others = every[[held[k] for k in range(len(kept))]]
        bounds = (0, max(1, len(kept) - 1))
        assert torch.equal(kept.msm(query, *bounds, EXACT), msm(query, others, *bounds))
    # The space is fitted when the images have doubled, and after as many as there is room for.
    assert fits == [1, 2, 4, 4]


def test_a_query_rounds_no_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = OPERATORS.keep_references(3, 6, 40, torch.device("cpu"))
    images, query = hot_rows(3, 6, 40), hot_rows(2, 6, 40, seed=1)
    for slot, image in enumerate(images):
        kept.put(slot, image)
    first = kept.msm(query, 0, 2, EXACT)
    rounded = []
    real = search.Side.of

    def counted(z: Tensor, *rest: Any) -> search.Side:
        rounded.append(z.shape)
        return real(z, *rest)

    monkeypatch.setattr(search.Side, "of", staticmethod(counted))
    assert torch.equal(kept.msm(query, 0, 2, EXACT), first)
    assert rounded == [query.shape]


@pytest.mark.parametrize("patches_for_few", [1, 4096])
def test_a_query_of_few_patches_rounds_once_less(
    patches_for_few: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "_PATCHES_FOR_FEW", patches_for_few)
    monkeypatch.setattr(
        kept_references, "space_of", lambda z, *_: fit_space(z, None, torch.int8, 15)
    )
    images, query = hot_rows(3, 6, 40), hot_rows(1, 6, 40, seed=1)
    kept = OPERATORS.keep_references(3, 6, 40, torch.device("cpu"))
    for slot, image in enumerate(images):
        kept.put(slot, image)
    first = kept.msm(query, 0, 2, EXACT)
    rounded = []
    real = sides.quantise_rows

    def counted(x: Tensor, mean: Tensor, dtype: torch.dtype, *rest: Any, **named: Any) -> Any:
        rounded.append((dtype, x.shape))
        return real(x, mean, dtype, *rest, **named)

    monkeypatch.setattr(sides, "quantise_rows", counted)
    assert torch.equal(kept.msm(query, 0, 2, EXACT), first)
    few = [(torch.float16, (6, 32))] if patches_for_few == 1 else []
    assert rounded == [(torch.int8, (6, 32)), *few, (torch.float16, (6, 40))]


def test_a_query_asks_for_the_free_memory_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def limit_of(_: torch.device, memory_limit: int | None) -> int:
        asked.append(memory_limit)
        return 1 << 30 if memory_limit is None else memory_limit

    for module in (device, kept_references, search):
        monkeypatch.setattr(module, "limit_of", limit_of)
    images, query = hot_rows(3, 6, 40), hot_rows(5, 6, 40, seed=1)
    kept = OPERATORS.keep_references(3, 6, 40, torch.device("cpu"))
    for slot, image in enumerate(images):
        kept.put(slot, image)
    kept.msm(query[:1], 0, 2, EXACT)
    assert asked.count(None) == 2  # to fit the space, and for the search
    asked.clear()
    kept.put(1, images[2])
    kept.msm(query[1:2], 0, 2, EXACT)
    assert asked == [1 << 30] * 2
    kept.msm(query, 0, 2, EXACT)
    assert asked.count(None) == 1  # many images need more memory: what is free counts anew
    asked.clear()
    kept.msm(query[:1], 0, 2, SearchOptions("exact", memory_limit=1 << 29))
    assert set(asked) == {1 << 29}


def test_a_fast_search_is_that_without_keeping() -> None:
    kept = OPERATORS.keep_references(3, 6, 40, torch.device("cpu"))
    images, query = hot_rows(3, 6, 40), hot_rows(1, 6, 40, seed=1)
    for slot, image in enumerate(images):
        kept.put(slot, image)
    fast = SearchOptions("fast")
    assert torch.equal(kept.msm(query, 0, 2, fast), msm(query, images, 0, 2, fast))


def test_where_rounded_rows_do_not_fit_the_rows_alone_are_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(*_: Any) -> None:
        raise torch.OutOfMemoryError

    kept = OPERATORS.keep_references(2, 6, 40, torch.device("cpu"))
    images, query = hot_rows(2, 6, 40), hot_rows(1, 6, 40, seed=1)
    for slot, image in enumerate(images):
        kept.put(slot, image)
    monkeypatch.setattr(kept_references, "space_of", full)
    assert torch.equal(kept.msm(query, 0, 1, EXACT), msm(query, images, 0, 1))
