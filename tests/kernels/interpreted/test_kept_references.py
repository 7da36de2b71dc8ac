"""Kept references give the bits of a search that keeps nothing."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hot_rows import hot_rows
from torch import Tensor

from musc_fast.backends.rounded_images import RoundingSpace, fit_space
from musc_fast.backends.triton import kept_references, search
from musc_fast.backends.triton.operators import OPERATORS, msm
from musc_fast.settings import SearchOptions

EXACT = SearchOptions("exact")


@pytest.mark.parametrize("components", [None, 15])
def test_replaced_and_grown(components: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    fits = []

    def space_of(z: Tensor, references: Tensor | None, *_: Any) -> RoundingSpace:
        fits.append(len(z))
        return fit_space(z, references, torch.int8, components)

    monkeypatch.setattr(kept_references, "space_of", space_of)
    every, query = hot_rows(9, 6, 40), hot_rows(1, 5, 40, seed=3)
    kept = OPERATORS.keep_references(4, 6, 40, torch.device("cpu"))
    held: dict[int, int] = {}
    for step, slot in enumerate((0, 1, 2, 3, 1, 0, 2, 3)):
        kept.put(slot, every[step])
        held[slot] = step
        assert len(kept) == len(held)
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
