"""The search over all channels: a CUDA C++ kernel for 16-bit rows where built, else Triton's.

The CUDA kernel is `csrc/cuda/find_nearest_16.cu`. Both pack keys alike, and take the smaller index
of equal distances; sums of products may be rounded otherwise, within the same bound.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...kernels import min_distance
from .cuda_kernels import cuda_kernels, current_stream

_PATCHES = 128  # with fewer, tiles hold many pairs of images, each of which takes a pass
_ROWS = 1 << 30  # the kernel counts rows in 32 bits


def takes_cuda_kernel(x: Tensor, y: Tensor) -> bool:
    """Whether the CUDA kernel multiplies x [N, P, K] by y [M, Q, K]."""
    return (
        x.dtype in (torch.float16, torch.bfloat16)
        and min(x.shape[1], y.shape[1]) >= _PATCHES
        and max(x.shape[0] * x.shape[1], y.shape[0] * y.shape[1]) < _ROWS
        and x.shape[2] % 8 == 0  # rows of 16 bytes, for the copy engine
        and x.is_contiguous()
        and y.is_contiguous()
        and (x.data_ptr() | y.data_ptr()) % 16 == 0
        and cuda_kernels(x.device) is not None
    )


def find_nearest(
    x: Tensor,
    x_norms: Tensor,
    y: Tensor,
    y_norms: Tensor,
    keys: Tensor,
    first: int = 0,
    *,
    triangle: bool = False,
) -> None:
    """See `kernels.min_distance.find_nearest`."""
    if not takes_cuda_kernel(x, y):
        min_distance.find_nearest(x, x_norms, y, y_norms, keys, first, triangle=triangle)
        return
    cuda_kernels(x.device).find_nearest_16(
        x=x.data_ptr(),
        y=y.data_ptr(),
        x_norms=x_norms.data_ptr(),
        y_norms=y_norms.data_ptr(),
        keys=keys.data_ptr(),
        images=x.shape[0],
        others=y.shape[0],
        patches=x.shape[1],
        other_patches=y.shape[1],
        channels=x.shape[2],
        all=keys.shape[1],
        first=first,
        triangle=triangle,
        bfloat=x.dtype == torch.bfloat16,
        stream=current_stream(x.device),
    )
