"""The rounded images of one side of a search, in memory that C++ reads by address."""

from __future__ import annotations

import torch
from torch import Tensor

from ... import _C
from ...scratch import scratch_file
from . import planning, scratch
from .space import SearchSpace


def default_isa() -> str:
    """The best instruction set that this processor and build have."""
    return next(iter(_C.instruction_sets()))


def as_float32(z: Tensor) -> Tensor:
    """z as contiguous float32 on the CPU; z itself where it is so already."""
    return z.detach().to(device="cpu", dtype=torch.float32).contiguous()


def words_of(space: SearchSpace, isa: str) -> int:
    """32-bit words of a rounded row.

    Raises ValueError where the processor or build has no instruction set `isa`.
    """
    return _C.words_of(isa, space.channels)


def _mapped(_: object, size: int, dtype: torch.dtype) -> Tensor:
    """As `torch.empty`, in a file without a name, whose pages the system may write out."""
    if size == 0:
        return torch.empty(0, dtype=dtype, device="cpu")
    with scratch_file(size * dtype.itemsize) as name:
        return torch.from_file(name, shared=True, size=size, dtype=dtype, device="cpu")


class RoundedImages:
    """x [images, rows, C] float32 rounded in `space`; `fill` rounds some of the images.

    `handle` points into the tensors of this object, and into x and the space. `mapped`: the rounded
    rows lie in a scratch file of the system's temporary folder, which is deleted with this object.
    """

    def __init__(self, x: Tensor, space: SearchSpace, isa: str, *, mapped: bool = False) -> None:
        images, rows, channels = x.shape
        padded = planning.padded(rows)
        self.x, self.space, self.isa = x, space, isa
        self.words = words_of(space, isa)
        allocate = _mapped if mapped else scratch.take
        self.left = allocate(self, images * padded * self.words, torch.int32)
        self.right = allocate(self, images * padded * self.words, torch.int32)
        self.inits = allocate(self, 2 * images * padded, torch.int32).view(2, images, padded)
        self.panel_errors = allocate(self, images * padded // planning.PANEL, torch.float32)
        bounds = allocate(self, images * rows * _C.BOUNDS, torch.float32)
        self.bounds = bounds.view(images, rows, _C.BOUNDS)
        self.fine = allocate(self, images * rows * space.fine_stride, torch.int16)
        self.rest = allocate(self, images * rows * space.rest_stride, torch.int8)
        self.handle = _C.RoundedImages(
            images=images,
            channels=channels,
            words=self.words,
            fine_stride=space.fine_stride,
            rest_stride=space.rest_stride,
            x=x,
            rows=rows,
            padded=padded,
            left=self.left,
            right=self.right,
            left_init=self.inits[0],
            right_init=self.inits[1],
            bounds=self.bounds,
            panel_errors=self.panel_errors,
            fine=self.fine if space.fine_stride else None,
            rest=self.rest if space.rest_stride else None,
        )

    def fill(self, first: int = 0, last: int | None = None) -> RoundedImages:
        """Round the images [first, last) of x; returns itself."""
        space, end = self.space.handle(), len(self.x) if last is None else last
        for begin in range(first, end, 64):  # Python notices Ctrl-C between two calls
            _C.quantise(
                isa=self.isa,
                space=space,
                images=self.handle,
                first=begin,
                count=min(64, end - begin),
                words=self.words,
                fine_stride=self.space.fine_stride,
                rest_stride=self.space.rest_stride,
                threads=torch.get_num_threads(),
            )
        return self

    def largest(self, images: int) -> int:
        """At least the largest |q|^2 of the rounded rows of the first `images` images."""
        # An init is -|q|^2 / 2, of padding far less; so only the real rows are read.
        return 2 * -int(self.inits[1, :images, : self.x.shape[1]].min()) + 1

    def largest_rho(self, images: int) -> float:
        """The largest rounding error of a row of the first `images` images."""
        return float(self.bounds[:images, :, 0].max())
