"""The rounded operands of one side of a search, in memory that C++ reads by address."""

from __future__ import annotations

import tempfile

import torch
from torch import Tensor

from ... import _C
from . import planning, scratch
from .space import Space

BOUNDS = 6  # 32-bit fields of `Bounds` in csrc/cpu/kernels.hpp


def default_isa() -> str:
    """The best instruction set that this processor and build have."""
    return next(iter(_C.instruction_sets()))


def prepared(z: Tensor) -> Tensor:
    """z as contiguous float32 on the CPU, itself where it is that already."""
    return z.detach().to(device="cpu", dtype=torch.float32).contiguous()


def strides(space: Space) -> tuple[int, int]:
    """Elements of a fine row and of a rest row, whole vectors; 0 where the space has none."""
    fine = -(-space.channels // 32) * 32 if space.fine_scale else 0
    return fine, 0 if space.back is None else -(-space.mean.shape[0] // 64) * 64


def words_of(space: Space, isa: str) -> int:
    """32-bit words of a rounded row. Raises ValueError for an instruction set not to be had."""
    return _C.words_of(isa, space.channels)


def _mapped(_: object, size: int, dtype: torch.dtype) -> Tensor:
    """As `torch.empty`, in a file that has no name any more: the system may drop its pages."""
    if size == 0:
        return torch.empty(0, dtype=dtype)
    with tempfile.NamedTemporaryFile(prefix="musc_fast-") as file:
        return torch.from_file(file.name, shared=True, size=size, dtype=dtype)


class Side:
    """Operands of x [images, rows, C] float32 in `space`; `fill` makes those of some images.

    `handle` points into the tensors held here, and into x. `mapped`: they lie in a scratch file of
    the system's temporary folder, which goes with them.
    """

    def __init__(self, x: Tensor, space: Space, isa: str, *, mapped: bool = False) -> None:
        images, rows, _ = x.shape
        padded = planning.padded(rows)
        self.x, self.space, self.isa = x, space, isa
        self.words = words_of(space, isa)
        room = _mapped if mapped else scratch.take
        self.left = room(self, images * padded * self.words, torch.int32)
        self.right = room(self, images * padded * self.words, torch.int32)
        self.inits = room(self, 2 * images * padded, torch.int32).view(2, images, padded)
        self.deltas = room(self, images * padded // planning.PANEL, torch.float32)
        self.bounds = room(self, images * rows * BOUNDS, torch.float32).view(images, rows, BOUNDS)
        fine_stride, rest_stride = strides(space)
        self.fine = room(self, images * rows * fine_stride, torch.int16)
        self.rest = room(self, images * rows * rest_stride, torch.int8)
        self.handle = _C.Operands(
            left=self.left.data_ptr(),
            right=self.right.data_ptr(),
            left_init=self.inits[0].data_ptr(),
            right_init=self.inits[1].data_ptr(),
            bounds=self.bounds.data_ptr(),
            deltas=self.deltas.data_ptr(),
            x=x.data_ptr(),
            rows=rows,
            padded=padded,
            fine=self.fine.data_ptr(),
            rest=self.rest.data_ptr(),
        )

    def fill(self, first: int = 0, last: int | None = None) -> Side:
        """Round the images [first, last) of x; returns itself."""
        end = len(self.x) if last is None else last
        for begin in range(first, end, 64):  # Ctrl-C works in between
            self._fill(begin, min(64, end - begin))
        return self

    def largest(self, images: int) -> int:
        """The largest |q|^2 of a row of the first `images` images."""
        # Padding has inits far below; rows are whole images, so look at the real ones.
        return 2 * -int(self.inits[1, :images, : self.x.shape[1]].min()) + 1

    def largest_rho(self, images: int) -> float:
        """The largest rounding error of a row of the first `images` images."""
        return float(self.bounds[:images, :, 0].max())

    def _fill(self, first: int, count: int) -> None:
        space, (_, rows, channels) = self.space, self.x.shape
        padded = self.inits.shape[2]
        fine_stride, rest_stride = strides(space)
        at = first * padded * 4
        _C.quantise(
            isa=self.isa,
            x=self.x[first].data_ptr(),
            mean=space.mean.data_ptr(),
            basis=0 if space.basis is None else space.basis.data_ptr(),
            signs=0 if space.signs is None else space.signs.data_ptr(),
            images=count,
            rows=rows,
            channels=channels,
            prefix=space.prefix,
            tail=space.tail,
            tail_centre=space.tail_centre,
            scale=space.scale,
            basis_error=space.basis_error,
            words=self.words,
            padded=padded,
            left=self.left.data_ptr() + at * self.words,
            right=self.right.data_ptr() + at * self.words,
            left_init=self.inits[0].data_ptr() + at,
            right_init=self.inits[1].data_ptr() + at,
            bounds=self.bounds[first].data_ptr(),
            deltas=self.deltas.data_ptr() + at // planning.PANEL,
            threads=torch.get_num_threads(),
            fine=self.fine.data_ptr() + 2 * first * rows * fine_stride if fine_stride else 0,
            fine_stride=fine_stride,
            fine_scale=space.fine_scale,
            fine_levels=space.fine_levels,
            back=0 if space.back is None else space.back.data_ptr(),
            rest=self.rest.data_ptr() + first * rows * rest_stride if rest_stride else 0,
            rest_stride=rest_stride,
            rest_scale=space.rest_scale,
        )
