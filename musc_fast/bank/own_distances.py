"""The distances among the images of a bank, kept up as images come and go.

A bank scores new images without them. They tell what each image of the bank itself scores against
the others, for two searches against the bank an image that is added, where the scores alone would
take one for each image held.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from ..backends.base import Operators
from ..progress import Progress
from ..scoring.repeats import scores_without_links
from ..scoring.scores import anomaly_map
from ..settings import SearchOptions
from .file import Entry

_BLOCK = 32  # images whose LNAMD is held at a time
_MEANS = 8  # images whose distances are copied at a time


@dataclass(frozen=True)
class LeaveOneOut:
    """What each image of a bank scores against the others, float32.

    entries: the images, in the order in which they were added.
    patch_scores: [len, H, W]. raw_image_scores: [len], the maxima of the anomaly maps.
    size: (h, w) of those.
    valid: [len, H, W] bool, the patches that count; None: all.
    """

    entries: list[Entry]
    patch_scores: Tensor
    raw_image_scores: Tensor
    size: tuple[int, int]
    valid: Tensor | None = None

    @classmethod
    def of(
        cls,
        entries: list[Entry],
        means: Tensor,
        size: tuple[int, int],
        valid: Tensor | None = None,
    ) -> LeaveOneOut:
        """The scores of means [len, H, W] float64 in the order of `entries`.

        size: of the anomaly maps, of which one at a time is held. valid: as the field.
        """
        counted = [None] * len(means) if valid is None else list(valid)
        raw = [
            anomaly_map(each, size, counts).amax().float()
            for each, counts in zip(means, counted, strict=True)
        ]
        return cls(entries, means.float(), torch.stack(raw), size, valid)

    @property
    def usual(self) -> float:
        """The median of the patch scores that count."""
        counted = self.patch_scores if self.valid is None else self.patch_scores[self.valid]
        return float(counted.median())

    def anomaly_map(self, place: int) -> Tensor:
        """The anomaly map [h, w] of the image at a place of `entries`."""
        counts = None if self.valid is None else self.valid[place]
        return anomaly_map(self.patch_scores[place].double(), self.size, counts).float()


# LNAMD of the images in some slots: one [n, P, C] a search.
Pooled = Callable[[Sequence[int]], list[Tensor]]


class OwnDistances:
    """Patch-to-image distances among the images of a bank, by slot.

    matrices: one [capacity, P, capacity] float32 for each search: the distance of each patch of the
        image in a slot to the nearest patch of the image in another; +inf to itself.
    capacity: the number of slots. operators, options: of the search.
    pooled: gives LNAMD's results of the images in slots.
    """

    def __init__(
        self, capacity: int, operators: Operators, options: SearchOptions, pooled: Pooled
    ) -> None:
        self._capacity, self._operators = capacity, operators
        self._options, self._pooled = options, pooled
        self.matrices: list[Tensor] = []

    @torch.no_grad()
    def renew(
        self,
        changed: Sequence[int],
        filled: int,
        on_progress: Progress = lambda done, total: None,
    ) -> None:
        """Find the distances of the images in the slots `changed` to the first `filled`, and back.

        The others are right already.
        """
        known = [slot for slot in range(filled) if slot not in set(changed)]
        for first in range(0, len(changed), _BLOCK):
            block = list(changed[first : first + _BLOCK])
            z = self._pooled(block)
            self._make_room(z)
            for matrix, own in zip(self.matrices, z, strict=True):
                found = self._operators.patch_to_image(own, None, self._options)
                _put(matrix, block, block, found)
            for start in range(0, len(known), _BLOCK):
                others = known[start : start + _BLOCK]
                for matrix, own, held in zip(self.matrices, z, self._pooled(others), strict=True):
                    there, back = self._operators.between(own, held, self._options)
                    _put(matrix, block, others, there)
                    _put(matrix, others, block, back)
            known += block
            on_progress(first + len(block), len(changed))

    @torch.no_grad()
    def means(self, filled: int, bounds: tuple[int, int]) -> Tensor:
        """Mean over the searches of the interval mean against the others -> [filled, P] float64.

        bounds: the ranks that the interval mean averages, as from `reference.interval`.
        """
        patches = self.matrices[0].shape[1]
        total = torch.zeros((filled, patches), dtype=torch.float64, device=self.matrices[0].device)
        for matrix in self.matrices:
            for first in range(0, filled, _MEANS):
                last = min(first + _MEANS, filled)
                some = matrix[first:last, :, :filled].contiguous()
                total[first:last] += self._operators.interval_mean(some, *bounds)
        return total / len(self.matrices)

    @torch.no_grad()
    def means_without_links(
        self,
        filled: int,
        bounds: tuple[int, int],
        topmin: tuple[float, float],
        grid: tuple[int, int],
    ) -> Tensor:
        """`means` without the links between images that share a defect.

        See `scoring.repeats`; what is left of a patch's distances has the ranks of `topmin`.
        """
        searches = []
        for matrix in self.matrices:
            rows = partial(_rows, matrix, filled)
            found, _ = scores_without_links(rows, filled, grid, self._operators, topmin, bounds)
            searches.append(found.double())
        return torch.stack(searches).mean(dim=0)

    def of(self, slots: Sequence[int]) -> list[Tensor]:
        """The distances among the images of some slots: one [n, P, n] a search."""
        return [matrix[slots][:, :, slots] for matrix in self.matrices]

    def put(self, distances: Sequence[Tensor]) -> None:
        """Take the distances [n, P, n] as those of the first slots."""
        self.matrices = []
        for each in distances:
            count, patches, _ = each.shape
            matrix = each.new_empty(self._capacity, patches, self._capacity)
            matrix[:count, :, :count] = each
            self.matrices.append(matrix)

    def _make_room(self, z: list[Tensor]) -> None:
        if not self.matrices:
            shape = (self._capacity, z[0].shape[1], self._capacity)
            self.matrices = [
                torch.empty(shape, dtype=torch.float32, device=own.device) for own in z
            ]


def wrong_distances(distances: Sequence[Tensor], shape: tuple[int, int, int], count: int) -> bool:
    """Whether these are not `count` matrices of distances of this shape [n, P, n]."""
    if len(distances) != count:
        return True
    for each in distances:
        if tuple(each.shape) != shape or each.dtype != torch.float32:
            return True
        own = each.diagonal(dim1=0, dim2=2)
        apart = each.masked_fill(
            torch.eye(len(each), dtype=torch.bool, device=each.device)[:, None], 0.0
        )
        if not bool((own == math.inf).all()) or not bool(torch.isfinite(apart).all()):
            return True
    return False


def _rows(matrix: Tensor, filled: int, images: Sequence[int]) -> Iterator[Tensor]:
    """The distances [P, filled] of the images in some slots, one after another."""
    yield from (matrix[image, :, :filled].contiguous() for image in images)


def _put(matrix: Tensor, rows: Sequence[int], columns: Sequence[int], found: Tensor) -> None:
    """Write found [n, P, m] to the rows and columns of a matrix."""
    at, to = (
        torch.tensor(places, dtype=torch.int64, device=matrix.device) for places in (rows, columns)
    )
    matrix[at[:, None], :, to[None]] = found.transpose(1, 2)
