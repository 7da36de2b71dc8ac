"""The search over few channels and its second pass: CUDA C++ kernels where built, else Triton's.

Both give the same keys to the bit, and the same candidates in another order. The CUDA kernels
(`csrc/cuda`) take int8 operands of 64, 128 or 256 channels on sm_90, the only GPU they ran on.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...kernels import candidates, min_distance_few_channels
from .cuda_kernels import cuda_kernels, current_stream

CHANNELS = (64, 128, 256)


def takes_cuda_kernels(x: Tensor, y: Tensor) -> bool:
    """Whether the CUDA kernels multiply x [N, P, K] by y [M, Q, K]."""
    return (
        x.dtype == torch.int8
        and x.shape[2] in CHANNELS
        and x.is_contiguous()
        and y.is_contiguous()
        and (x.data_ptr() | y.data_ptr()) % 16 == 0
        and cuda_kernels(x.device) is not None
    )


def count_ranges(dtype: torch.dtype, depth: int, patches: int, device: torch.device) -> int:
    """Ranges of an image of `patches` patches that the first pass stores distances to; or none.

    The CUDA kernels store, for each patch and image, the least distance to each range of patches.

    dtype, depth: of the values of a row.
    """
    takes = dtype == torch.int8 and depth in CHANNELS
    module = cuda_kernels(device) if takes else None
    return 0 if module is None else -(-patches // module.RANGE)


def new_least(keys: Tensor, ranges: int) -> Tensor | None:
    """Room for the least distances beside keys [N, M, P]: [N, M, ranges, P]; None without ranges.

    They are the upper halves of float32.
    """
    if ranges == 0:
        return None
    images, others, patches = keys.shape
    return torch.empty(images, others, ranges, patches, dtype=torch.int16, device=keys.device)


def find_nearest(
    x: Tensor,
    x_norms: Tensor,
    y: Tensor,
    y_norms: Tensor,
    keys: Tensor,
    first: int = 0,
    *,
    triangle: bool = False,
    least: Tensor | None = None,
) -> None:
    """See `kernels.min_distance.find_nearest`, for at most 256 channels.

    least: of `new_least`; filled by the CUDA kernels.
    """
    if not takes_cuda_kernels(x, y):
        min_distance_few_channels.find_nearest_few_channels(
            x, x_norms, y, y_norms, keys, first, triangle=triangle
        )
        return
    pairs = _pairs(x, x_norms, y, y_norms, keys, least, first, triangle)
    cuda_kernels(x.device).find_nearest(pairs, stream=current_stream(x.device))


def list_candidates(
    x: Tensor,
    x_norms: Tensor,
    y: Tensor,
    y_norms: Tensor,
    keys: Tensor,
    limits: Tensor,
    room: int,
    first: int = 0,
    *,
    triangle: bool = False,
    least: Tensor | None = None,
) -> tuple[Tensor, Tensor, int]:
    """See `kernels.candidates.list_candidates`.

    least: what `find_nearest` has filled; the CUDA kernels need it.
    """
    if least is None or not takes_cuda_kernels(x, y):
        found: tuple[Tensor, Tensor, int] = candidates.list_candidates(
            x, x_norms, y, y_norms, keys, limits, room, first, triangle=triangle
        )
        return found
    slots = torch.empty(room, dtype=torch.int64, device=x.device)
    patches = torch.empty(room, dtype=torch.int32, device=x.device)
    counter = torch.zeros(1, dtype=torch.int64, device=x.device)
    cuda_kernels(x.device).list_candidates(
        _pairs(x, x_norms, y, y_norms, keys, least, first, triangle),
        limits=limits.data_ptr(),
        count=counter.data_ptr(),
        slots=slots.data_ptr(),
        patches=patches.data_ptr(),
        room=room,
        stream=current_stream(x.device),
    )
    count = int(counter)
    return slots[:count], patches[:count], count


def _pairs(
    x: Tensor,
    x_norms: Tensor,
    y: Tensor,
    y_norms: Tensor,
    keys: Tensor,
    least: Tensor | None,
    first: int,
    triangle: bool,
) -> Any:
    return cuda_kernels(x.device).Pairs(
        x=x.data_ptr(),
        y=y.data_ptr(),
        x_norms=x_norms.data_ptr(),
        y_norms=y_norms.data_ptr(),
        keys=keys.data_ptr(),
        least=0 if least is None else least.data_ptr(),
        images=x.shape[0],
        others=y.shape[0],
        patches=x.shape[1],
        other_patches=y.shape[1],
        channels=x.shape[2],
        all=keys.shape[1],
        first=first,
        triangle=triangle,
    )
