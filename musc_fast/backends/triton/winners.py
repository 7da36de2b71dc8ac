"""Distances of the winners of the search: by a CUDA C++ kernel where built, else by Triton's.

Both give the same distances to the bit. Which winners are passed over can differ by the rounding of
the bounds, which changes no result.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...kernels import winners
from .cuda_kernels import cuda_kernels, current_stream

_CHANNELS = range(68, 1025, 4)  # that the CUDA kernel takes


def recompute_winners(
    x: Tensor,
    y: Tensor,
    keys: Tensor,
    kth: Tensor | None,
    out: Tensor,
    x_errors: Tensor,
    y_errors: Tensor,
    error: Tensor,
    scale: float,
    first: int = 0,
    *,
    integers: bool,
    certified: bool,
) -> None:
    """See `kernels.winners.recompute_winners`."""
    module = cuda_kernels(x.device)
    tensors = [x, y, keys, out, x_errors, y_errors, *([] if kth is None else [kth])]
    takes = x.dtype == y.dtype == torch.float32 and x.shape[2] in _CHANNELS
    if module is None or not takes or not all(each.is_contiguous() for each in tensors):
        winners.recompute_winners(
            *(x, y, keys, kth, out, x_errors, y_errors, error, scale, first),
            integers=integers,
            certified=certified,
        )
        return
    module.recompute_winners(
        x=x.data_ptr(),
        y=y.data_ptr(),
        keys=keys.data_ptr(),
        kth=0 if kth is None else kth.data_ptr(),
        x_errors=x_errors.data_ptr(),
        y_errors=y_errors.data_ptr(),
        error=error.data_ptr(),
        out=out.data_ptr(),
        images=x.shape[0],
        held=y.shape[0],
        others=keys.shape[1],
        patches=x.shape[1],
        other_patches=y.shape[1],
        channels=x.shape[2],
        first=first,
        scale_squared=scale**2,
        integers=integers,
        certified=certified,
        stream=current_stream(x.device),
    )
