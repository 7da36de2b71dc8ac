"""The summary of a pair of images: unmarked segments score no better than `outside`."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from musc_fast import _C
from musc_fast.backends.cpu import planning

SCALE = 0.002


def summary(
    bench: ModuleType,
    isa: str,
    scores: Tensor,
    rows: int,
    rho: Tensor,
    largest_rho: float,
    shift: int,
) -> dict[str, Tensor]:
    """Of scores [segments, padded] (0 to 65535): nearest, first, the bits and what is outside."""
    segments, padded = scores.shape
    kept = torch.zeros(scores.numel() + planning.LANES, dtype=torch.int32)
    kept[: scores.numel()] = scores.flatten()
    kept = kept.to(torch.uint16)
    bounds = torch.zeros(rows, _C.BOUNDS)
    bounds[:, 0] = rho
    lanes = -(-rows // planning.LANES) * planning.LANES
    best = torch.empty(planning.score_bytes(rows, 1, segments * 16, 16) // 2, dtype=torch.uint16)
    bench.summarise(
        isa=isa,
        scores=kept.data_ptr(),
        segments=segments,
        padded=padded,
        rows=rows,
        bounds=bounds.data_ptr(),
        rho=largest_rho,
        scale=SCALE,
        ratio=1.0,
        shift=shift,
        best=best.data_ptr(),
    )
    numbers = best[: 4 * lanes].to(torch.int64).view(4, lanes)[:, :rows]
    words = best[4 * lanes :].view(torch.int32).view(2, segments, lanes // 32, 1)
    bits = (words >> torch.arange(32, dtype=torch.int32) & 1).view(2, segments, lanes)[..., :rows]
    names = ("nearest", "first", "outside", "close_outside")
    return dict(zip(names, numbers, strict=True)) | {"near": bits[0], "close": bits[1]}


@pytest.mark.parametrize("isa", _C.instruction_sets())
@given(
    seed=st.integers(0, 10**6),
    segments=st.integers(1, 90),
    rows=st.integers(1, 100),
    shift=st.integers(0, 6),
    spread=st.sampled_from([1, 30, 3000, 65535]),
)
@settings(max_examples=25, deadline=None)
def test_what_is_left_out_is_beyond_the_bound(
    bench: ModuleType, isa: str, seed: int, segments: int, rows: int, shift: int, spread: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    padded = planning.padded(rows)
    base = int(torch.randint(0, 65536 - spread + 1, (1,), generator=generator))
    scores = base + torch.randint(0, spread, (segments, padded), generator=generator)
    rho = 0.01 * (0.8 + 0.4 * torch.rand(rows, generator=generator))
    found = summary(bench, isa, scores, rows, rho, 0.012, shift)
    scores = scores[:, :rows]
    assert torch.equal(scores.gather(0, found["first"][None])[0], scores.amin(0))
    assert torch.equal(found["nearest"], scores.amin(0))
    for name, least in (("near", "outside"), ("close", "close_outside")):
        left_out = torch.where(found[name] == 0, scores, 1 << 16).amin(0)
        # A limit below `outside` takes the segments of the bits alone.
        assert (found[least] <= left_out).all(), name


def test_most_segments_are_left_out(bench: ModuleType) -> None:
    """Else a summary that keeps everything would pass."""
    scores = torch.randint(20000, 60000, (86, 64), generator=torch.Generator().manual_seed(0))
    rho = torch.full((64,), 0.01)
    for isa in _C.instruction_sets():
        found = summary(bench, isa, scores, 64, rho, 0.01, 2)
        assert found["close"].sum(0).min() >= 1
        assert found["near"].double().mean() < 0.2
        assert found["outside"].min() > 20000
