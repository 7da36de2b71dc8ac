"""The original rows of images on the device of the search: held there, or streamed to it.

Streamed rows are copied from host memory in blocks of images, through two pinned buffers on a
second CUDA stream, so that the next block travels while the kernels use the last.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor


class Rows:
    """The rows z [N, P, C] for kernels on `device`: float16 and bfloat16 as they are, else float32.

    block: None copies all rows to the device; otherwise the rows stay where they are, and `block`
        images at a time are copied.
    """

    def __init__(self, z: Tensor, device: torch.device, block: int | None) -> None:
        self.device, self.block = device, block
        self.dtype = torch.float32 if z.dtype == torch.float64 else z.dtype
        self.shape = z.shape
        self.z = z if block is not None else z.to(device, self.dtype).contiguous()

    def images(self, first: int, last: int) -> Tensor:
        """Images first to last - 1 on the device."""
        if self.block is None and first == 0 and last == self.shape[0]:
            return self.z
        return self.z[first:last].to(self.device, self.dtype).contiguous()

    def blocks(self) -> Iterator[tuple[int, Tensor]]:
        """(first image, rows on the device), block by block; valid until the next block."""
        if self.block is None:
            yield 0, self.z
        elif self.device.type == "cuda":
            yield from self._streamed_blocks(self.block)
        else:
            for first in range(0, self.shape[0], self.block):
                yield first, self.images(first, first + self.block)

    def _streamed_blocks(self, block: int) -> Iterator[tuple[int, Tensor]]:
        shape = (block, *self.shape[1:])
        pinned = [
            torch.empty(shape, dtype=self.dtype, device="cpu", pin_memory=True) for _ in range(2)
        ]
        buffers = [torch.empty(shape, dtype=self.dtype, device=self.device) for _ in range(2)]
        cuda: Any = torch.cuda  # its streams and events are untyped
        copying = cuda.Stream(self.device)
        using = cuda.current_stream(self.device)
        copying.wait_stream(using)  # `buffers` may reuse memory that is still being read
        arrived = [cuda.Event(), cuda.Event()]
        used = [cuda.Event(), cuda.Event()]
        firsts = range(0, self.shape[0], block)

        def send(index: int) -> None:
            part = self.z[firsts[index] : firsts[index] + block]
            slot, count = index % 2, part.shape[0]
            if index >= 2:
                arrived[slot].synchronize()  # the pinned buffer is free again
                copying.wait_event(used[slot])
            pinned[slot][:count].copy_(part)
            with torch.cuda.stream(copying):
                buffers[slot][:count].copy_(pinned[slot][:count], non_blocking=True)
                arrived[slot].record(copying)

        send(0)
        try:
            for index, first in enumerate(firsts):
                if index + 1 < len(firsts):
                    send(index + 1)
                slot = index % 2
                using.wait_event(arrived[slot])
                yield first, buffers[slot][: min(block, self.shape[0] - first)]
                used[slot].record(using)
        finally:
            using.wait_stream(copying)  # before the buffers go back to the allocator


def copied_bytes(z: Tensor, references: Tensor | None) -> int:
    """Bytes of the copies that `Rows` makes of inputs on the device: float64 or not contiguous."""
    sides = [z] if references is None else [z, references]
    return sum(
        side.numel() * (4 if side.dtype == torch.float64 else side.itemsize)
        for side in sides
        if side.dtype == torch.float64 or not side.is_contiguous()
    )
