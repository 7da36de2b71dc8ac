"""The search of new images against those of a bank."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from .. import reference
from ..backends.base import KeptReferences
from ..progress import Progress
from ..scoring.layer_passes import Part, Pass
from ..settings import ScoringSettings


class BankSearch:
    """MSM of new images against the bank's; `pooled` holds their LNAMD by layer and degree."""

    def __init__(
        self,
        settings: ScoringSettings,
        grid: tuple[int, int],
        images: int,
        references: list[list[KeptReferences]],
    ) -> None:
        self.parts: list[Part] = [(0, images)]
        self.pooled: list[list[Tensor]] = [[] for _ in references]
        self._settings, self._grid, self._references = settings, grid, references

    def missing(self, absent: list[int]) -> list[int]:
        """The parts to search: all, for a bank has no checkpoint."""
        return absent

    def scores(
        self, place: Pass, z: Tensor, todo: list[int], on_progress: Progress
    ) -> Iterator[Tensor]:
        """MSM of z [N, P, C] against the references -> [N, P]."""
        self.pooled[place.layer].append(z)
        references = self._references[place.layer][place.degree]
        bounds = reference.interval(self._settings.topmin, len(references))
        yield references.msm(z, *bounds, self._settings.search(self._grid, on_progress))
