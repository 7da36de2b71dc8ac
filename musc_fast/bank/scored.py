"""Scores of new images against those of a bank."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from numpy.typing import NDArray
from torch import Tensor

from ..errors import InputError
from ..scoring.arguments import class_tokens, grid_of, map_size
from ..scoring.copies import Copy, find_copies
from ..scoring.layer_passes import mean_over_passes
from ..scoring.scores import BatchScores, make_scores
from ..settings import ScoringSettings
from .copies import of_held, scores_without
from .search import BankSearch
from .slots import Slots


@dataclass(frozen=True)
class Held:
    """The images of a bank, as new ones are scored against them.

    order: the slots filled, in the order in which their images were added.
    grid, image_size, settings: as for `score_batch`.
    """

    slots: Slots
    order: Sequence[int]
    grid: tuple[int, int] | None
    image_size: int | tuple[int, int] | None
    settings: ScoringSettings

    def score(
        self,
        layers: list[Tensor],
        cls_tokens: Tensor | NDArray[Any] | None,
        valid: Tensor | None,
    ) -> tuple[BatchScores, list[list[Tensor]]]:
        """The scores of layers [N, P, C], and LNAMD's results by layer and degree.

        valid: [N, P] bool, the patches that count; None: all.

        Raises InputError where no images are held.
        """
        if not self.order:
            raise InputError("the bank is empty: add images before scoring against them")
        classes = None if cls_tokens is None else class_tokens(cls_tokens, layers[0])
        images, patches = layers[0].shape[:2]
        grid = grid_of(self.grid, patches, 0)
        size = map_size(self.image_size, grid, images)
        search = BankSearch(self.settings, grid, images, self.slots.references)
        pooling = self.slots.pooling(layers[0])
        means = mean_over_passes(
            layers, pooling, search, valid=valid, on_progress=lambda done, total: None
        )
        copies = self.copies_of(layers)
        if copies:
            tokens = [layer[list(self.order)] for layer in self.slots.tokens]
            counted = self.slots.valid_of(self.order)
            scores_without(means, copies, layers, tokens, pooling, valid, counted)
        patch_scores = means.reshape(images, *grid)
        neighbors, reach = self.settings.neighbors, self.settings.reach
        scores = make_scores(patch_scores, size, classes, neighbors, valid, reach)
        return replace(scores, copies=tuple(copies)), search.pooled

    def copies_of(self, layers: list[Tensor]) -> list[Copy]:
        """The images of layers [N, P, C] that are copies of images held."""
        if self.settings.copies == "off" or not self.order:
            return []
        return of_held(layers, self.slots.tokens, self.order)

    def copies_in(self, layers: list[Tensor]) -> set[int]:
        """The images that are copies of images held, or of earlier ones of the same call."""
        if self.settings.copies == "off":
            return set()
        return {copy.image for copy in (*self.copies_of(layers), *find_copies(layers))}
