"""The distances among the images of a batch, of which a bounded part is held at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ..backends.base import Operators
from ..settings import SearchOptions

_BYTES = 512 << 20  # of distances that are held where no limit is given


class AllDistances:
    """The distances [P, N] of the patches of each image of z [N, P, C] to all images of z.

    options: of the search. Half of a memory limit is for the distances, half for the search.

    Where all of them fit they are computed once, each pair for both of its images; where not, some
    images at a time, whenever they are asked for.
    """

    def __init__(self, z: Tensor, operators: Operators, options: SearchOptions) -> None:
        limit = options.memory_limit
        each = 4 * z.shape[1] * z.shape[0]
        self._some = max(1, (_BYTES if limit is None else limit // 2) // each)
        self._z, self._operators = z, operators
        self._tell = options.on_progress
        self._options = replace(
            options, memory_limit=None if limit is None else max(1, limit // 2), on_progress=None
        )
        self._all: Tensor | None = None

    def rows(self, images: Sequence[int]) -> Iterator[Tensor]:
        """The distances of some images, one after another; +inf to the image itself."""
        if self._some >= len(self._z):
            if self._all is None:
                options = replace(self._options, on_progress=self._tell)
                self._all = self._operators.patch_to_image(self._z, None, options)
            yield from (self._all[image] for image in images)
            return
        for first in range(0, len(images), self._some):
            block = list(images[first : first + self._some])
            found = self._operators.patch_to_image(self._z[block], self._z, self._options)
            for row, image in zip(found, block, strict=True):
                row[:, image] = torch.inf
                yield row
            if self._tell is not None and len(images) == len(self._z):
                self._tell(first + len(block), len(images))
