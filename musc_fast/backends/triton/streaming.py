"""LNAMD and the interval mean: CUDA C++ kernels where built and fitting, else Triton's.

The CUDA kernels (`csrc/cuda/lnamd.cu`, `csrc/cuda/interval_mean.cu`) take float32 on sm_90, the GPU
that they were written for. Sums run in another order than in Triton's, so last bits may differ.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ...kernels import interval_mean, lnamd
from .cuda_kernels import cuda_kernels, current_stream

ROWS = 13  # rows of the grid that a block walks down
LAG = 2  # images between the sums of an image and its aggregation
_MOST_CHANNELS = 2048
_DEGREES = (1, 3, 5)


def _has_cuda_kernels(x: Tensor) -> bool:
    return x.dtype == torch.float32 and x.numel() > 0 and cuda_kernels(x.device) is not None


def aggregates_by_cuda(tokens: Tensor, degrees: Sequence[int]) -> bool:
    """Whether the CUDA kernel takes tokens [N, P, C] and these degrees."""
    p, c = tokens.shape[1:]
    return (
        _has_cuda_kernels(tokens)
        and len(degrees) > 0
        and all(r in _DEGREES for r in degrees)
        and c % 4 == 0
        and c <= _MOST_CHANNELS
        and tokens.stride(2) == 1
        and (tokens.stride(0) | tokens.stride(1)) % 4 == 0
        and tokens.data_ptr() % 16 == 0
        and 0 < tokens.stride(1) * (p + 8) < 2**31
    )


def aggregate_neighbourhoods(
    tokens: Tensor,
    grid: tuple[int, int],
    degrees: Sequence[int],
    *,
    rows: int = ROWS,
    lag: int = LAG,
) -> list[Tensor]:
    """See `kernels.lnamd.aggregate_neighbourhoods`.

    rows, lag: of the CUDA kernel; results depend on `rows` in their last bits.
    """
    if not aggregates_by_cuda(tokens, degrees):
        pooled: list[Tensor] = lnamd.aggregate_neighbourhoods(tokens, grid, degrees)
        return pooled
    n, p, c = tokens.shape
    device = tokens.device
    tiles = cuda_kernels(device).count_tiles(*grid, channels=c, rows=rows)
    sums = torch.empty(n, 4, tiles, dtype=torch.float64, device=device)
    count = torch.zeros(1 + n, dtype=torch.int32, device=device)
    found = {r: torch.empty(n, p, c, dtype=torch.float32, device=device) for r in set(degrees)}
    cuda_kernels(device).aggregate_neighbourhoods(
        x=tokens.data_ptr(),
        stride_n=tokens.stride(0),
        stride_p=tokens.stride(1),
        sums=sums.data_ptr(),
        count=count.data_ptr(),
        **{f"out_{r}": found[r].data_ptr() if r in found else 0 for r in _DEGREES},
        images=n,
        height=grid[0],
        width=grid[1],
        channels=c,
        rows=rows,
        lag=min(lag, n),
        stream=current_stream(device),
    )
    return [found[r] for r in degrees]


def averages_by_cuda(x: Tensor) -> bool:
    """Whether the CUDA kernel takes rows x [B, R, M]."""
    return _has_cuda_kernels(x) and x.shape[2] <= cuda_kernels(x.device).MOST_COLUMNS


def average_interval(x: Tensor, k_min: int, k_max: int, *, squared: bool = False) -> Tensor:
    """See `kernels.interval_mean.average_interval`."""
    if averages_by_cuda(x):
        return _launch(x, k_min, k_max, squared=squared, kth=False)
    means: Tensor = interval_mean.average_interval(x, k_min, k_max, squared=squared)
    return means


def select_kth(x: Tensor, k: int) -> Tensor:
    """See `kernels.interval_mean.select_kth`."""
    if averages_by_cuda(x):
        return _launch(x, k - 1, k, squared=False, kth=True)
    values: Tensor = interval_mean.select_kth(x, k)
    return values


def _launch(x: Tensor, k_min: int, k_max: int, *, squared: bool, kth: bool) -> Tensor:
    out = torch.empty(x.shape[:2], dtype=torch.float32, device=x.device)
    cuda_kernels(x.device).average_interval(
        x=x.data_ptr(),
        out=out.data_ptr(),
        stride_b=x.stride(0),
        stride_r=x.stride(1),
        stride_m=x.stride(2),
        batch=x.shape[0],
        rows=x.shape[1],
        columns=x.shape[2],
        k_min=k_min,
        k_max=k_max,
        squared=squared,
        kth=kth,
        stream=current_stream(x.device),
    )
    return out
