"""The launch that the three kernels over pairs of images share.

`min_distance`, `min_distance_few_channels` and `candidates` differ in what a program does with its
tile of distances. How many programs there are, which tile each takes (`tiles.locate`) and how the
operands arrive is the same for all three and lies here.

A kernel takes, in this order: x, y, their norms, keys, arguments of its own, N, M, P, Q, ALL and
FIRST; then the constants that `PairLaunch.run` fills in.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .devices import arch_of
from .tiles import Config, count_programs


@dataclass(frozen=True)
class PairLaunch:
    """A launch over the pairs of images of x [N, P, K] and y [M, Q, K].

    triangle: x and y are the same images, and each pair i < j is taken once.
    descriptors: tiles come by TMA (tensor descriptors), else by pointers.
    group: images of a block, see `tiles.locate`.
    programs: size of the grid; 0 where there is no pair.
    """

    x: Tensor
    y: Tensor
    config: Config
    triangle: bool
    descriptors: bool
    group: int
    programs: int

    def run(
        self,
        kernel: Any,
        x_norms: Tensor,
        y_norms: Tensor,
        keys: Tensor,
        first: int,
        *own: Any,
        **constants: bool,
    ) -> None:
        """Launch `kernel`, unless there is no pair.

        keys: [N, ALL, P]; image j of y is image `first` + j of ALL.
        own: the kernel's own arguments.
        constants: the kernel's own constants.
        """
        if self.programs == 0:
            return
        config, depth = self.config, self.x.shape[2]
        kernel[(self.programs,)](
            self._operand(self.x, config.BLOCK_P),
            self._operand(self.y, config.BLOCK_Q),
            x_norms,
            y_norms,
            keys,
            *own,
            self.x.shape[0],
            self.y.shape[0],
            self.x.shape[1],
            self.y.shape[1],
            keys.shape[1],
            first,
            K=depth,
            INTEGERS=self.x.dtype == torch.int8,
            TRIANGLE=self.triangle,
            GROUP=self.group,
            BLOCK_P=config.BLOCK_P,
            BLOCK_Q=config.BLOCK_Q,
            BLOCK_K=config.BLOCK_K,
            **constants,
            **config.launch(),
        )

    def _operand(self, x: Tensor, rows: int) -> Any:
        """What a kernel gets for x [N, P, K]: x, or a descriptor of tiles [rows, BLOCK_K]."""
        if not self.descriptors:
            return x
        from triton.tools.tensor_descriptor import TensorDescriptor

        return TensorDescriptor.from_tensor(x.view(-1, x.shape[2]), [rows, self.config.BLOCK_K])


def plan_pairs(
    x: Tensor,
    y: Tensor,
    config: Config,
    *,
    triangle: bool,
    descriptors: bool | None = None,
    whole_rows: bool = False,
) -> PairLaunch:
    """The launch over the pairs of images of x [N, P, K] and y [M, Q, K], at tiles of `config`.

    descriptors: None loads tiles by TMA wherever the device and the operands allow it.
    whole_rows: a program takes a row of tiles (all patches of an image of y), not one tile.
    """
    if descriptors is None:
        descriptors = _can_use_descriptors(arch_of(x.device), x, y)
    group = min(config.GROUP, max(x.shape[0], y.shape[0]))
    programs = count_programs(
        images=x.shape[0],
        others=y.shape[0],
        tiles_p=triton.cdiv(x.shape[1], config.BLOCK_P),
        tiles_q=1 if whole_rows else triton.cdiv(y.shape[1], config.BLOCK_Q),
        group=group,
        triangle=triangle,
    )
    return PairLaunch(x, y, config, triangle, descriptors, group, programs)


def _can_use_descriptors(arch: int, x: Tensor, y: Tensor) -> bool:
    """Whether TMA can load tiles of x and y: from Hopper on, where Triton takes descriptors.

    A row must be a multiple of 16 bytes, the data aligned to 16 bytes, and row numbers int32.
    """
    if arch < 90 or not hasattr(tl, "make_tensor_descriptor"):
        return False
    rows = max(x.shape[0] * x.shape[1], y.shape[0] * y.shape[1])
    aligned = x.shape[2] * x.dtype.itemsize % 16 == 0
    return aligned and rows < 2**31 and (x.data_ptr() | y.data_ptr()) % 16 == 0
