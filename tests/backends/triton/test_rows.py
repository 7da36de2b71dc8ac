"""Rows on the device of the search, whole and in blocks."""

from __future__ import annotations

import pytest
import torch

from musc_fast.backends.triton.rows import Rows, copied_bytes


def test_copies() -> None:
    z = torch.zeros(3, 4, 5)
    assert copied_bytes(z, None) == 0
    assert copied_bytes(z.double(), None) == 3 * 4 * 5 * 4
    assert copied_bytes(z[:, 1:], z.half()[:, 1:]) == 3 * 3 * 5 * (4 + 2)


@pytest.mark.parametrize("block", [None, 1, 3, 5])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_blocks_are_all_images_in_order(block: int | None, dtype: torch.dtype) -> None:
    z = torch.randn(5, 4, 3).to(dtype)
    rows = Rows(z, torch.device("cpu"), block)
    firsts, parts = zip(*rows.blocks(), strict=True)
    assert firsts == tuple(range(0, 5, block or 5))
    found = torch.cat(parts)
    assert found.dtype == (torch.float32 if dtype == torch.float64 else dtype)
    assert torch.equal(found, z.to(found.dtype))
    assert torch.equal(rows.images(1, 3), found[1:3])
