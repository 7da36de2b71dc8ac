"""References that stay rounded, for scoring one query after another."""

from __future__ import annotations

import torch
from torch import Tensor

from ...settings import DEFAULT_OPTIONS, SearchOptions
from ..memory import in_large_pages
from . import planning, scratch
from .costs import Workload
from .options import Outputs, SearchSettings
from .rounded_images import RoundedImages, as_float32, default_isa
from .search import Search
from .space import choose_space


class KeptReferences:
    """Up to `capacity` images [P, C]; `msm` equals `operators.msm` against them, to the bit.

    The space of the search is fitted to the images, and fitted anew when their number has doubled
    or as many have been replaced as there is room for. The space decides the speed alone.
    """

    def __init__(self, capacity: int, patches: int, channels: int) -> None:
        shape = (capacity, patches, channels)
        # Pages are used as it fills.
        self._x = in_large_pages(torch.empty(shape, dtype=torch.float32, device="cpu"))
        self._count = 0
        self._rounded: RoundedImages | None = None
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
        self._x[slot] = as_float32(z)
        self._count = max(self._count, slot + 1)
        self._replaced += 1
        if self._rounded is not None:
            self._rounded.fill(slot, slot + 1)

    def msm(
        self,
        z: Tensor,
        k_min: int,
        k_max: int,
        options: SearchOptions = DEFAULT_OPTIONS,
    ) -> Tensor:
        """As `operators.msm(z, references, k_min, k_max)`: z [N, P, C] -> [N, P] float32."""
        z = as_float32(z)
        if options.memory_limit is not None:
            scratch.release()
        rounded = self._ready(k_max)
        plan = planning.plan_search(
            images=z.shape[0],
            patches=z.shape[1],
            references=0,  # the memory of the rounded references is in use already
            reference_patches=self._x.shape[1],
            words=rounded.words,
            extra=rounded.space.closer_bytes,
            columns=self._count,
            symmetric=False,
            memory_limit=options.memory_limit,
            threads=torch.get_num_threads(),
        )
        queries = RoundedImages(z, rounded.space, rounded.isa).fill()
        settings = SearchSettings.of(options)
        search = Search(queries, rounded, plan, settings, reference_count=self._count)
        out = torch.empty(z.shape[:2], dtype=torch.float32, device="cpu")
        search.run(0, len(z), k_min, k_max, Outputs(means=out))
        return out

    def _ready(self, k_max: int) -> RoundedImages:
        """The rounded images, in a space that suits the present ones."""
        outgrown = self._count >= 2 * self._fitted or self._replaced >= len(self._x)
        if self._rounded is None or outgrown:
            filled = self._x[: self._count]
            work = Workload(
                references=self._count,
                symmetric=False,
                k_max=k_max,
                segment=planning.LONG_SEGMENT,
            )
            space = choose_space(filled, None, work, isa=default_isa())
            self._rounded = RoundedImages(self._x, space, default_isa()).fill(0, self._count)
            self._fitted, self._replaced = self._count, 0
        return self._rounded
