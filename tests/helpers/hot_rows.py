"""Rows and the comparison with fp64 for the tests of the matmul and the Triton backend."""

from __future__ import annotations

import torch
from torch import Tensor


def hot_rows(n: int, p: int, c: int, seed: int = 0) -> Tensor:
    """Normalised rows with a hot channel, a duplicate image and a near-duplicate."""
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(n, p, c, generator=generator)
    z[..., c // 3] *= 100
    if n > 2:
        z[1] = z[0]
        z[2] = z[0] + 1e-4 * z[2]
    return torch.nn.functional.normalize(z, dim=2)


def largest_error(found: Tensor, wanted: Tensor) -> float:
    """The largest difference of finite entries; infinite entries must be at the same places."""
    assert found.dtype == torch.float32
    assert found.shape == wanted.shape
    assert torch.equal(torch.isinf(found), torch.isinf(wanted))
    return float((found - wanted).nan_to_num(0, 0, 0).abs().max())
