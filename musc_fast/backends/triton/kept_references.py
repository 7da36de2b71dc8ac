"""References that stay on the device, rounded, for scoring one query after another."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from ...errors import BackendError
from ...settings import SearchOptions
from ..products import ieee_products
from .device import launching_on, limit_of, search_device, with_retry
from .rows import Rows
from .search import References, space_of
from .sides import RowRounding, Side, Spaces

Search = Callable[[Tensor, Tensor | References, int, int, SearchOptions], Tensor]
_ALIKE = 4  # query images up to which a search needs about the memory of one


class KeptReferences:
    """Up to `capacity` images [P, C]; `msm` equals `operators.msm` against them, to the bit.

    The space of the search is fitted to the images, and fitted anew when their number has doubled
    or as many have been replaced as there is room for. The space decides the speed alone. For each
    patch of the capacity 4 C bytes of the row are held, K + 12 bytes rounded, and in a subspace
    2 C + 2 K + 8 bytes of float16 rows. Only rows are kept where the images lie in host memory and
    are searched by a GPU, and where the rest does not fit its memory.

    search: `operators.msm`, for references that may be rounded.
    """

    def __init__(
        self, search: Search, capacity: int, patches: int, channels: int, device: torch.device
    ) -> None:
        self._search = search
        self._x = torch.empty(capacity, patches, channels, dtype=torch.float32, device=device)
        self._count = 0
        self._kept: References | None = None
        self._filled: References | None = None  # the images of `_kept` that are there
        self._limit: int | None = None  # bytes for the search of a few images
        self._rows_only = search_device(self._x) != self._x.device
        self._fitted = 0  # number of images when the space was fitted
        self._replaced = 0  # images put since the space was fitted

    def __len__(self) -> int:
        return self._count

    @property
    def images(self) -> Tensor:
        """The images [len, P, C] float32."""
        return self._x[: self._count]

    def put(self, slot: int, z: Tensor) -> None:
        """Make z [P, C] the image of `slot`: a filled slot, or the next."""
        self._x[slot] = z
        self._count = max(self._count, slot + 1)
        self._replaced += 1
        self._filled = None
        if self._kept is not None and not self._outgrown():
            kept, rows = self._kept, self._rows(slot, slot + 1)
            with launching_on(self._x.device), ieee_products():
                kept.side.put(slot, Side.of(rows.z, kept.spaces, rows, kept.rounding))

    def msm(self, z: Tensor, k_min: int, k_max: int, options: SearchOptions) -> Tensor:
        """As `operators.msm(z, references, k_min, k_max)`: z [N, P, C] -> [N, P] float32.

        A search that is not exact depends on the rounding, which is then fitted to z too.
        """
        references: Tensor | References | None = None
        if options.exact and not self._rows_only and z.device == self._x.device:
            references = self._ready(options.memory_limit)
        if references is None:
            return self._search(z, self._x[: self._count], k_min, k_max, options)
        if options.memory_limit is None and len(z) <= _ALIKE:
            options = replace(options, memory_limit=self._limit_of_few())
        return self._search(z, references, k_min, k_max, options)

    def _limit_of_few(self) -> int:
        """The limit of a search of few images, asked for once: the answer takes longer than most
        of the search's steps, and its plan is the same within any limit that suffices.
        """
        if self._limit is None:
            self._limit = max(1, limit_of(self._x.device, None))
        return self._limit

    def _outgrown(self) -> bool:
        return self._count >= 2 * self._fitted or self._replaced >= len(self._x)

    def _ready(self, memory_limit: int | None) -> References | None:
        """The rounded images in a space that suits the present ones; None where they do not fit."""
        if self._kept is None or self._outgrown():
            self._kept = self._filled = None  # their memory is free before the next is made
            self._limit = None
            try:
                with_retry(lambda _: self._fit(), self._x.device, memory_limit)
            except BackendError:
                self._rows_only = True
                return None
        assert self._kept is not None
        if self._filled is None:
            side = self._kept.side.images(0, self._count, self._rows(0, self._count))
            self._filled = References(side, self._kept.spaces, self._kept.rounding)
        return self._filled

    def _fit(self) -> None:
        rows = self._rows(0, self._count)
        references = None if self._count > 1 else rows.z
        with ieee_products():
            spaces = Spaces.of(space_of(rows.z, references, True, self._x.device))
            rounding = RowRounding(spaces.coarse)
            side = Side.of(rows.z, spaces, rows, rounding)
        self._kept = References(side.with_room(len(self._x)), spaces, rounding)
        self._fitted, self._replaced = self._count, 0

    def _rows(self, first: int, last: int) -> Rows:
        return Rows(self._x[first:last], self._x.device, None)
