"""Rows of images on the device of the search: resident, or streamed from host memory.

A streamed side is copied in blocks of images through two pinned buffers on a second CUDA stream,
so that the next block travels while the last is used.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor


class Rows:
    """The original rows z [N, P, C] for `device`, float32 (float16 and bfloat16 stay).

    With `block` the rows stay where they are and come `block` images at a time; without, they are
    held on the device whole.
    """

    def __init__(self, z: Tensor, device: torch.device, block: int | None) -> None:
        self.device, self.block = device, block
        self.dtype = torch.float32 if z.dtype == torch.float64 else z.dtype
        self.shape = z.shape
        self.z = z if block is not None else z.to(device, self.dtype).contiguous()

    def images(self, first: int, last: int) -> Tensor:
        """Images first to last - 1 on the device."""
        return self.z[first:last].to(self.device, self.dtype).contiguous()

    def blocks(self) -> Iterator[tuple[int, Tensor]]:
        """(first image, rows on the device) until all have passed; valid until the next."""
        if self.block is None:
            yield 0, self.z
        elif self.device.type == "cuda":
            yield from self._streamed(self.block)
        else:
            for first in range(0, self.shape[0], self.block):
                yield first, self.images(first, first + self.block)

    def _streamed(self, block: int) -> Iterator[tuple[int, Tensor]]:
        shape = (block, *self.shape[1:])
        host = [torch.empty(shape, dtype=self.dtype, pin_memory=True) for _ in range(2)]
        held = [torch.empty(shape, dtype=self.dtype, device=self.device) for _ in range(2)]
        cuda: Any = torch.cuda  # its streams and events are untyped
        copying = cuda.Stream(self.device)
        using = cuda.current_stream(self.device)
        copying.wait_stream(using)  # `held` may reuse memory that is still being read
        arrived = [cuda.Event(), cuda.Event()]
        used = [cuda.Event(), cuda.Event()]
        firsts = range(0, self.shape[0], block)

        def send(index: int) -> None:
            part = self.z[firsts[index] : firsts[index] + block]
            slot, count = index % 2, part.shape[0]
            if index >= 2:
                arrived[slot].synchronize()  # the pinned buffer is free again
                copying.wait_event(used[slot])
            host[slot][:count].copy_(part)
            with torch.cuda.stream(copying):
                held[slot][:count].copy_(host[slot][:count], non_blocking=True)
                arrived[slot].record(copying)

        send(0)
        try:
            for index, first in enumerate(firsts):
                if index + 1 < len(firsts):
                    send(index + 1)
                slot = index % 2
                using.wait_event(arrived[slot])
                yield first, held[slot][: min(block, self.shape[0] - first)]
                used[slot].record(using)
        finally:
            using.wait_stream(copying)  # before the buffers go back to the allocator
