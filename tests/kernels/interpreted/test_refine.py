"""Refinement against differences in fp64."""

from __future__ import annotations

import pytest
import torch

from musc_fast.kernels.refine import recompute


@pytest.mark.parametrize("c", [40, 384, 1024])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_values(c: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(c)
    x = torch.randn(3, 7, c, generator=generator).to(dtype)
    y = torch.randn(2, 9, c, generator=generator).to(dtype)
    y[1, 4] = x[2, 3]
    y[1, 5] = (x[2, 3] + 1e-3).to(dtype)
    truth = torch.cdist(x.double()[:, None], y.double()[None]).square()  # [N, M, P, Q]
    slots = torch.randint(0, 3 * 2 * 7, (37,), generator=generator)
    q = torch.randint(0, 9, (37,), generator=generator, dtype=torch.int32)
    slots[0], q[0] = (2 * 2 + 1) * 7 + 3, 5
    out = torch.full((3, 2, 7), torch.inf)
    recompute(x, y, slots, q, out)
    wanted = torch.full((42,), torch.inf, dtype=torch.float64)
    candidates = truth.view(42, 9)[slots, q.long()]
    wanted.scatter_reduce_(0, slots, candidates, "amin")
    assert torch.equal(torch.isinf(out.view(-1)), torch.isinf(wanted))
    assert torch.allclose(out.view(-1).double(), wanted, rtol=1e-6, atol=1e-12)
    recompute(x, y, slots[:1], torch.tensor([4]), out)
    assert out[2, 1, 3] == 0
    recompute(x, y, slots[:0], q[:0], out)
