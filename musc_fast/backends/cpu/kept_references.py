"""References whose rounded operands are kept, for scoring one query after another."""

from __future__ import annotations

import torch
from torch import Tensor

from ...settings import DEFAULT_OPTIONS, SearchOptions
from . import planning, scratch
from .operands import Side, default_isa, prepared, strides
from .search import Outputs, Search, Settings
from .space import Workload, choose_space


class KeptReferences:
    """Up to `capacity` images [P, C]; `msm` equals that of `native.msm` against them, to the bit.

    The space of the search is fitted to the images and fitted anew when they have become twice as
    many, or all others: it decides the speed alone.
    """

    def __init__(self, capacity: int, patches: int, channels: int) -> None:
        self._x = torch.empty(capacity, patches, channels)  # touched as it fills
        self._count = 0
        self._side: Side | None = None
        self._fitted = 0  # images when the space was fitted
        self._replaced = 0  # since then

    def __len__(self) -> int:
        return self._count

    def put(self, slot: int, z: Tensor) -> None:
        """Make z [P, C] the image of `slot`: an old one, or the next."""
        self._x[slot] = prepared(z)
        self._count = max(self._count, slot + 1)
        self._replaced += 1
        if self._side is not None:
            self._side.fill(slot, slot + 1)

    def msm(
        self,
        z: Tensor,
        k_min: int,
        k_max: int,
        options: SearchOptions = DEFAULT_OPTIONS,
    ) -> Tensor:
        """As `native.msm(z, references, k_min, k_max)`: z [N, P, C] -> [N, P] float32."""
        z = prepared(z)
        if options.memory_limit is not None:
            scratch.release()
        side = self._ready(k_max)
        settings = Settings(
            certified=options.exact,
            memory_limit=options.memory_limit,
            progress=options.on_progress,
        )
        plan = planning.plan_search(
            z.shape[0],
            z.shape[1],
            0,  # their operands are there already
            self._x.shape[1],
            side.words,
            2 * strides(side.space)[0] + strides(side.space)[1],
            columns=self._count,
            symmetric=False,
            memory_limit=options.memory_limit,
            threads=torch.get_num_threads(),
        )
        left = Side(z, side.space, side.isa).fill()
        search = Search(left, side, plan, settings, references=self._count)
        out = torch.empty(z.shape[:2])
        search.run(0, len(z), k_min, k_max, Outputs(means=out))
        return out

    def _ready(self, k_max: int) -> Side:
        """The operands, in a space that suits the images held now."""
        outgrown = self._count >= 2 * self._fitted or self._replaced >= len(self._x)
        if self._side is None or outgrown:
            filled = self._x[: self._count]
            work = Workload(self._count, False, k_max, planning.SEGMENTS[3])
            space = choose_space(filled, None, work, isa=default_isa())
            self._side = Side(self._x, space, default_isa()).fill(0, self._count)
            self._fitted, self._replaced = self._count, 0
        return self._side
