"""The plain search in fp32 or bf16: symmetric tiles with fused maxima, and no certificate.

Its distances are those of the expansion |x|^2 + |y|^2 - 2xy, so it is no operator of a backend.
Benchmarks compare the certified search with it.
"""

from __future__ import annotations

from time import perf_counter

import torch
from torch import Tensor

from musc_fast.backends.cpu import planning
from musc_fast.backends.cpu.rounded_images import as_float32, default_isa

from .bench_extension import bench_extension

_SEGMENT = 768


def plain_kinds() -> tuple[str, ...]:
    """The kinds that this processor can run."""
    return ("fp32", "bf16") if bench_extension().has_bf16() else ("fp32",)


def plain_distances(
    z: Tensor, kind: str = "fp32", seconds: dict[str, float] | None = None
) -> Tensor:
    """Distance of each patch to the nearest patch of every other image -> [N, P, N] float32.

    z: [N, P, C], C even. Its mean row is subtracted first.
    kind: precision of the inner products, "fp32" or "bf16".
    seconds: receives the time of the search alone, under "search".
    """
    z = as_float32(z)
    images, patches, channels = z.shape
    padded = planning.padded(patches)
    rows = torch.zeros(images, padded, channels)
    rows[:, :patches] = z - z.mean(dim=(0, 1))
    words = rows.bfloat16() if kind == "bf16" else rows
    # Norms of the rounded rows, so that the distance of a row to itself would be zero.
    init = words.float().square().sum(2) * -0.5
    init[:, patches:] = -1e30
    packed = words.view(torch.int32)
    count = packed.shape[2]
    left = packed.contiguous()
    panels = packed.view(images, padded // planning.PANEL, planning.PANEL, count)
    right = panels.transpose(2, 3).contiguous()
    segments = -(-padded // _SEGMENT)
    best = torch.full((images, images, segments, padded), torch.inf)
    pairs = images * (images - 1) // 2
    start = perf_counter()
    batch = 8 * torch.get_num_threads()
    for begin in range(0, pairs, batch):  # Python notices Ctrl-C between two calls
        bench_extension().search_plain(
            isa=default_isa(),
            kind=kind,
            left=left.data_ptr(),
            right=right.data_ptr(),
            init=init.data_ptr(),
            images=images,
            words=count,
            padded=padded,
            segment=_SEGMENT,
            begin=begin,
            end=min(begin + batch, pairs),
            best=best.data_ptr(),
            threads=torch.get_num_threads(),
        )
    if seconds is not None:
        seconds["search"] = perf_counter() - start
    return (best.amin(2)[:, :, :patches] * 2).clamp_min(0).sqrt().transpose(1, 2).contiguous()
