"""What a bank holds of its images, by slot: tokens, operands of the search, distances."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from .. import reference
from ..backends.base import KeptReferences, Operators
from ..backends.registry import resolve
from ..errors import InputError
from ..progress import Progress
from ..scoring.arguments import grid_of
from ..scoring.layer_passes import Pooling
from ..scoring.tiles import tiled
from ..scoring.valid import without_ignored
from ..settings import ScoringSettings
from .arguments import refuse_auto
from .own_distances import OwnDistances

_POOLED_TOGETHER = 8  # images, so that the results of all that are put are never held


class Slots:
    """Room for the images of a bank, used as it fills: slots 0 to n - 1 are filled.

    tokens: [capacity, P, C] a layer; references: for each layer the operands, one a search.
    distances: among the images; None where nobody has asked for them.
    valid: [capacity, P] bool, the patches that count; None while all do.
    """

    def __init__(
        self, capacity: int, grid: tuple[int, int] | None, scoring: ScoringSettings
    ) -> None:
        refuse_auto(scoring.place)
        self._capacity, self._grid, self._scoring = capacity, grid, scoring
        self.tokens: list[Tensor] = []
        self.references: list[list[KeptReferences]] = []
        self.distances: OwnDistances | None = None
        self.valid: Tensor | None = None

    @torch.no_grad()
    def put(
        self,
        layers: Sequence[Tensor],
        slots: Mapping[int, int],
        filled: int,
        pooled: Sequence[Sequence[Tensor]] | None,
        valid: Tensor | None = None,
    ) -> None:
        """Put images of layers [N, P, C] into slots; `filled` are then filled.

        slots: the image by its slot; of the others nothing is computed.
        pooled: LNAMD's results of the whole layers; None computes them, a few images at a time.
        valid: [N, P] bool, the patches that count; None: all.
        """
        self._make_room(layers)
        self._put_valid(valid, slots)
        distances, self.distances = self.distances, None
        for index, layer in enumerate(layers):
            self._put_layer(index, layer, slots, None if pooled is None else pooled[index])
        if distances is not None:
            distances.renew(sorted(slots), filled)
        self.distances = distances

    def _put_layer(
        self,
        index: int,
        layer: Tensor,
        slots: Mapping[int, int],
        pooled: Sequence[Tensor] | None,
    ) -> None:
        places = sorted(slots.items())
        for first in range(0, len(places), _POOLED_TOGETHER):
            some = places[first : first + _POOLED_TOGETHER]
            images = [image for _, image in some]
            tokens = layer[images]
            valid = self.valid_of([slot for slot, _ in some])
            results = (
                self.pooling(layer).pool_in_memory(tokens, valid)
                if pooled is None
                else [z[images] for z in pooled]
            )
            for place, (slot, _) in enumerate(some):
                self.tokens[index][slot] = tokens[place]
                for z, references in zip(results, self.references[index], strict=True):
                    references.put(slot, z[place])

    def _put_valid(self, valid: Tensor | None, slots: Mapping[int, int]) -> None:
        if valid is None and self.valid is None:
            return
        if self.valid is None:
            shape = (self._capacity, self.tokens[0].shape[1])
            self.valid = torch.ones(shape, dtype=torch.bool, device=self.tokens[0].device)
        for slot, image in slots.items():
            self.valid[slot] = True if valid is None else valid[image]

    def valid_of(self, slots: Sequence[int]) -> Tensor | None:
        """Which patches of the images in slots count, [n, P] bool; None where all do."""
        if self.valid is None:
            return None
        valid = self.valid[list(slots)]
        return None if bool(valid.all()) else valid

    def operators(self, layer: Tensor) -> Operators:
        """Those of the backend for the device of `layer`."""
        operators = resolve(self._scoring.backend, layer.device).operators()
        return tiled(operators, grid_of(self._grid, layer.shape[1], 0), self._scoring)

    def pooling(self, layer: Tensor) -> Pooling:
        """LNAMD of layers like this [N, P, C]."""
        grid = grid_of(self._grid, layer.shape[1], 0)
        return Pooling(self.operators(layer), grid, self._scoring)

    def means(self, filled: int, on_progress: Progress) -> Tensor:
        """Patch scores of each image against the others, [filled, P] float64 by slot.

        The interval mean is over the ranks that it has for a new image against all.
        """
        if self.distances is None:
            distances = self._no_distances()
            distances.renew(range(filled), filled, on_progress)
            self.distances = distances
        low, high = reference.interval(self._scoring.topmin, filled)
        high = min(high, filled - 1)
        bounds = min(low, high - 1), high
        if self._scoring.repeats == "off":
            means = self.distances.means(filled, bounds)
        else:
            grid = grid_of(self._grid, self.tokens[0].shape[1], 0)
            means = self.distances.means_without_links(filled, bounds, self._scoring.topmin, grid)
        return without_ignored(means, self.valid_of(range(filled)))

    def take_distances(self, distances: Sequence[Tensor]) -> None:
        """Take the distances [n, P, n] among the images held, one a search, if there are any.

        Raises InputError where they are of other searches or patches.
        """
        if not distances:
            return
        searches, patches = sum(map(len, self.references)), self.tokens[0].shape[1]
        if len(distances) != searches or {each.shape[1] for each in distances} != {patches}:
            raise InputError(
                f"distances: found {[list(each.shape) for each in distances]}, wanted {searches} "
                f"of {patches} patches"
            )
        own = self._no_distances()
        own.put(distances)
        self.distances = own

    def _no_distances(self) -> OwnDistances:
        operators = self.operators(self.tokens[0])
        options = self._scoring.search(grid_of(self._grid, self.tokens[0].shape[1], 0))
        return OwnDistances(self._capacity, operators, options, self._pooled)

    def _pooled(self, slots: Sequence[int]) -> list[Tensor]:
        """LNAMD's results [n, P, C] of the images in slots, one a search."""
        valid = self.valid_of(slots)
        return [
            z
            for layer in self.tokens
            for z in self.pooling(layer).pool_in_memory(layer[list(slots)], valid)
        ]

    def _make_room(self, layers: Sequence[Tensor]) -> None:
        """Memory for the tokens and operands, once the shapes are known."""
        if self.tokens:
            return
        for layer in layers:
            _, patches, channels = layer.shape
            self.tokens.append(layer.new_empty(self._capacity, patches, channels))
            operators = self.operators(layer)
            self.references.append(
                [
                    operators.keep_references(self._capacity, patches, channels, layer.device)
                    for _ in range(self._scoring.searches_a_layer)
                ]
            )
