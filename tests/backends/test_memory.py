"""Large pages under fresh memory."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from musc_fast import _C
from musc_fast.backends import memory
from musc_fast.backends.memory import LARGE, in_large_pages

CHOICE = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def large_bytes() -> int:
    """Bytes of this process that lie in large pages."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("AnonHugePages")).split()[1])


@pytest.mark.skipif(
    not CHOICE.exists() or "[madvise]" not in CHOICE.read_text(),
    reason="the system does not ask for advice on large pages",
)
def test_fresh_memory_lies_in_large_pages() -> None:
    before = large_bytes()
    tensor = in_large_pages(torch.empty(16, 1 << 20, dtype=torch.float32))
    tensor.fill_(1.0)
    assert large_bytes() - before > tensor.nbytes // 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bool])
def test_values_stay(dtype: torch.dtype) -> None:
    whole = torch.arange(3 * LARGE // 2) % 5
    given = whole.to(dtype)
    assert in_large_pages(given) is given
    assert torch.equal(given, whole.to(dtype))


def test_only_large_tensors_of_the_cpu_are_touched(monkeypatch: pytest.MonkeyPatch) -> None:
    advised: list[int] = []
    monkeypatch.setattr(_C, "advise_huge_pages", lambda tensor: advised.append(tensor.numel()))
    for size in (0, 1, LARGE - 1, LARGE):
        in_large_pages(torch.empty(size, dtype=torch.uint8))
    in_large_pages(torch.empty(LARGE, dtype=torch.uint8, device="meta"))
    assert advised == [LARGE]
    monkeypatch.setattr(memory, "_C", None)
    in_large_pages(torch.empty(LARGE, dtype=torch.uint8))
    assert advised == [LARGE]
