"""The loop over layers and degrees: the order of the sum, what is pooled, what is kept."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from musc_fast.backends import resolve
from musc_fast.progress import Progress
from musc_fast.scoring.checkpoint import Checkpoint
from musc_fast.scoring.layer_passes import Part, Pass, Pooling, mean_over_passes
from musc_fast.settings import ScoringSettings

LAYERS = [torch.randn(5, 6, 4, generator=torch.Generator().manual_seed(k)) for k in (0, 1)]
DEGREES = (1, 3)


class NumberedSearch:
    """Scores that tell pass and image: 10 pass + image in every patch."""

    def __init__(self, parts: list[Part]) -> None:
        self.parts = parts
        self.searched: list[tuple[int, list[int]]] = []
        self.pooled: list[Tensor] = []

    def missing(self, absent: list[int]) -> list[int]:
        return absent

    def scores(
        self, place: Pass, z: Tensor, todo: list[int], on_progress: Progress
    ) -> Iterator[Tensor]:
        self.searched.append((place.index, todo))
        self.pooled.append(z.clone())
        for part in todo:
            first, last = self.parts[part]
            on_progress(1, 2)
            numbers = torch.arange(first, last, dtype=torch.float32) + 10 * place.index
            on_progress(2, 2)
            yield numbers[:, None].expand(-1, z.shape[1])


def pooling(folder: Path | None = None) -> Pooling:
    operators = resolve("reference", "cpu").operators()
    settings = ScoringSettings(DEGREES)
    return Pooling(operators, (2, 3), settings, None if folder is None else str(folder))


def run(search: NumberedSearch, checkpoint: Checkpoint | None = None, **more: Path) -> Tensor:
    return mean_over_passes(
        LAYERS,
        pooling(**more),
        search,
        checkpoint=checkpoint,
        on_progress=lambda done, total: None,
    )


def test_mean_over_all_passes() -> None:
    search = NumberedSearch([(0, 2), (2, 5)])
    found = run(search)
    assert found.dtype == torch.float64
    wanted = torch.arange(5, dtype=torch.float64)[:, None] + 15  # (0 + 10 + 20 + 30) / 4
    assert torch.equal(found, wanted.expand(-1, 6))
    assert search.searched == [(k, [0, 1]) for k in range(4)]


def test_pooling_in_files_is_pooling_in_memory(tmp_path: Path) -> None:
    inside, outside = NumberedSearch([(0, 5)]), NumberedSearch([(0, 5)])
    run(inside)
    run(outside, folder=tmp_path)
    assert len(inside.pooled) == 4
    for a, b in zip(inside.pooled, outside.pooled, strict=True):
        assert torch.equal(a, b)


def test_stored_parts_are_not_searched_again(tmp_path: Path) -> None:
    parts = [(0, 2), (2, 2), (2, 5)]  # a part may be empty
    whole = run(NumberedSearch(parts), Checkpoint(tmp_path, LAYERS, {}))
    for name in ("part-001-2-5.npy", "part-003-0-2.npy", "part-003-2-5.npy"):
        (tmp_path / name).unlink()
    again = NumberedSearch(parts)
    assert torch.equal(run(again, Checkpoint(tmp_path, LAYERS, {})), whole)
    assert again.searched == [(1, [2]), (3, [0, 2])]


def test_what_was_stored_before_counts(tmp_path: Path) -> None:
    """A process that searches a part with others keeps the scores that it stored before."""

    class Together(NumberedSearch):
        def missing(self, absent: list[int]) -> list[int]:
            return [0, 1]

    checkpoint = Checkpoint(tmp_path, LAYERS, {})
    run(NumberedSearch([(0, 2), (2, 5)]), checkpoint)
    checkpoint.save(0, (0, 2), torch.full((2, 6), 100.0))
    found = run(Together([(0, 2), (2, 5)]), checkpoint)
    assert found[0, 0] == (100 + 10 + 20 + 30) / 4
    assert found[4, 0] == 4 + 15


def test_progress_rises_to_its_total() -> None:
    seen: list[tuple[int, int]] = []
    mean_over_passes(
        LAYERS,
        pooling(),
        NumberedSearch([(0, 2), (2, 5)]),
        on_progress=lambda done, total: seen.append((done, total)),
    )
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[0] == (250, 4000)  # half of the first of two parts
    assert seen[-1] == (4000, 4000)


@pytest.mark.parametrize("images", [0, 3])
def test_nothing_is_pooled_that_is_not_wanted(images: int) -> None:
    layer = LAYERS[0][:images]
    assert list(pooling().pool(layer, [False, False])) == [None, None]
    results = list(pooling().pool(layer, [True, False]))
    assert results[0] is not None
    assert results[0].shape == layer.shape
