"""What the bindings check of the tensors that they are given, before they touch memory."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from musc_fast import _C
from musc_fast.backends.cpu.calls import Summaries, refine, search_pairs
from musc_fast.backends.cpu.options import Outputs, SearchSettings
from musc_fast.backends.cpu.rounded_images import default_isa
from musc_fast.backends.cpu.search import prepare

F32: Any = {"dtype": torch.float32, "device": "cpu"}


def lnamd(tokens: torch.Tensor, out: torch.Tensor) -> None:
    _C.lnamd(
        isa=default_isa(),
        tokens=tokens,
        images=2,
        height=3,
        width=4,
        channels=5,
        degrees=[1],
        out=[out],
        threads=1,
    )


FINE = torch.zeros(2, 12, 5, **F32)


@pytest.mark.parametrize(
    ("bad", "found"),
    [
        (torch.zeros(2, 12, 5, dtype=torch.float16, device="cpu"), "dtype"),
        (torch.zeros(2, 12, 5, dtype=torch.float64, device="cpu"), "dtype"),
        (torch.zeros(2, 12, 5, dtype=torch.int32, device="cpu"), "dtype"),
        (torch.zeros(2, 12, 5, dtype=torch.float32, device="meta"), "cpu"),
        (torch.zeros(2, 12, 4, **F32), "120 elements, found 96"),
        (torch.zeros(2, 5, 12, **F32).transpose(1, 2), "contiguous"),
    ],
)
def test_tensors_of_another_kind_size_or_place_are_refused(bad: torch.Tensor, found: str) -> None:
    lnamd(FINE, torch.empty_like(FINE))
    with pytest.raises(ValueError, match=found):
        lnamd(bad, torch.empty_like(FINE))
    with pytest.raises(ValueError, match=found):
        lnamd(FINE, bad)


def test_sizes_that_overflow_are_refused() -> None:
    with pytest.raises(ValueError, match="too large"):
        _C.interval_mean(
            distances=FINE, out=FINE, rows=1 << 40, count=1 << 40, k_min=0, k_max=1, threads=1
        )


def test_pairs_and_lists_beyond_the_images_are_refused() -> None:
    z = torch.randn(4, 20, 32, generator=torch.Generator().manual_seed(0))
    search = prepare(z, None, 3, SearchSettings())
    size = _C.summary_bytes(20, -(-32 // search.plan.segment)) // 2
    data = torch.zeros(4 * 4 * size, dtype=torch.int16, device="cpu")
    best = Summaries(data, 0, 4)
    for pair in ([4, 0, 1, -1], [0, 4, 1, -1], [0, 0, 4, -1], [0, 1, 1, 4], [-1, 0, 1, -1]):
        pairs = torch.tensor([pair], dtype=torch.int32, device="cpu")
        with pytest.raises(ValueError, match="of a pair"):
            search_pairs(search.sides, pairs, best, best)
    short = Summaries(data[: 3 * 4 * size], 0, 4)
    with pytest.raises(ValueError, match="query of a pair"):
        search_pairs(search.sides, torch.tensor([[3, 0, 0, -1]], dtype=torch.int32), short, short)

    def finish(end: int = 4, lists: torch.Tensor | None = None, rows: int = 4) -> None:
        refine(
            search.sides,
            begin=0,
            end=end,
            k_min=0,
            k_max=3,
            best=best,
            outputs=Outputs(means=torch.empty(rows, 20, **F32)),
            row=0,
            counters=_C.Counters(),
            reference_lists=lists,
            symmetric=lists is None,
        )

    with pytest.raises(ValueError, match="queries to finish"):
        finish(end=5)
    with pytest.raises(ValueError, match="80 elements, found 60"):
        finish(rows=3)
    with pytest.raises(ValueError, match="reference_lists"):
        finish(lists=torch.full((4, 4), 9, dtype=torch.int32, device="cpu"))
