"""The loop of mutual scoring: the mean of MSM over layers and degrees.

A pass is MSM on one layer at one degree of LNAMD, or at the degrees' mean. The scores of the passes
are added in one fixed order, in float64, so that every way to run them (a batch, a bank, several
processes, after a kill) gives the same bits. What differs between those ways is how a pass is
searched: `PassSearch`.

The tokens have been checked when they come here; nothing looks at their values again.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from .. import reference
from ..backends.base import Operators
from ..backends.memory import in_large_pages
from ..progress import Progress
from ..scratch import reserve
from ..settings import ScoringSettings
from .checkpoint import Checkpoint
from .snamd import snamd
from .valid import check_search_takes, emptied, overwrite, without_ignored

Part = tuple[int, int]  # the images first to last - 1, which are scored and kept together
_BLOCK = 8 << 20  # bytes of results that LNAMD gives at a time where they are copied elsewhere
_FRACTIONS = 1000  # progress is told in thousandths of a pass


@dataclass(frozen=True)
class Pass:
    """The place of a pass: in the order of all passes, and of its layer and degree."""

    index: int
    layer: int
    degree: int


class PassSearch(Protocol):
    """How the scores of one pass are found.

    parts: the images that are scored and kept together; the parts cover the batch, some may be
        empty.
    """

    @property
    def parts(self) -> Sequence[Part]: ...

    def missing(self, absent: list[int]) -> list[int]:
        """The parts to search, by their places, where the checkpoint lacks the parts `absent`."""

    def scores(
        self, place: Pass, z: Tensor, todo: list[int], on_progress: Progress
    ) -> Iterator[Tensor]:
        """MSM of z [N, P, C], the pass's result of LNAMD -> [last - first, P] for each part."""


@dataclass(frozen=True)
class Pooling:
    """LNAMD of layers on one grid, at several degrees.

    A layer has one result for each degree; with settings that fuse the degrees of the features it
    has one alone, their normalised mean.

    folder: where the results go as mapped files, one at a time; None holds all results of a layer
        in memory.
    """

    operators: Operators
    grid: tuple[int, int]
    settings: ScoringSettings
    folder: str | None = None

    def pool(
        self, layer: Tensor, wanted: Sequence[bool], valid: Tensor | None = None
    ) -> Iterator[Tensor | None]:
        """The results of layer [N, P, C] one by one; may be None where one is not wanted.

        valid: [N, P] bool, the patches that count, see `scoring.valid`; None: all.
        """
        check_search_takes(self.settings, valid)
        if not any(wanted):
            yield from (None for _ in wanted)
        elif len(layer) == 0:  # a process without images
            yield from (layer.float() for _ in wanted)
        elif self.folder is None:
            yield from self.pool_in_memory(layer, valid)
        else:
            for degrees, needed in zip(self._degrees_of_results(), wanted, strict=True):
                if not needed:
                    yield None
                    continue
                z = self._pool_into_file(self.folder, layer, degrees, valid)
                overwrite(z, valid)
                yield z

    def pool_in_memory(self, layer: Tensor, valid: Tensor | None = None) -> list[Tensor]:
        """The results of layer [N, P, C] in memory; `valid` as for `pool`."""
        check_search_takes(self.settings, valid)
        if self._fused and self.settings.pooling == "lnamd":
            z = in_large_pages(torch.empty(layer.shape, dtype=torch.float32, device=layer.device))
            self._pool_into(z, layer, self.settings.degrees, valid)
            results = [z]
        else:
            results = self._pooled(layer, self.settings.degrees, valid)
        for z in results:
            overwrite(z, valid)
        return results

    @property
    def _fused(self) -> bool:
        return self.settings.degree_fusion == "features"

    def _degrees_of_results(self) -> list[tuple[int, ...]]:
        """The degrees that make up each result of a layer."""
        degrees = tuple(self.settings.degrees)
        return [degrees] if self._fused else [(degree,) for degree in degrees]

    def _pool_into_file(
        self, folder: str, layer: Tensor, degrees: Sequence[int], valid: Tensor | None
    ) -> Tensor:
        name = os.path.join(folder, "pooled")
        Path(name).unlink(missing_ok=True)  # the tensor of the pass before keeps its own mapping
        reserve(name, 4 * layer.numel())
        z = torch.from_file(
            name, shared=True, size=layer.numel(), dtype=torch.float32, device="cpu"
        ).view(layer.shape)
        self._pool_into(z, layer, degrees, valid)
        return z

    def _pool_into(
        self, z: Tensor, layer: Tensor, degrees: Sequence[int], valid: Tensor | None
    ) -> None:
        """Write one result of layer [N, P, C] into z, a block of images at a time."""
        block = max(1, _BLOCK // (4 * layer[0].numel() * len(degrees)))
        for first in range(0, len(layer), block):
            some = slice(first, first + block)
            counted = None if valid is None else valid[some]
            z[some] = self._result(layer[some], degrees, counted)

    def _result(self, layer: Tensor, degrees: Sequence[int], valid: Tensor | None) -> Tensor:
        """One result of a few images."""
        pooled = self._pooled(layer, degrees, valid)
        lnamd = self.settings.pooling == "lnamd"
        return reference.fuse_degrees(pooled) if self._fused and lnamd else pooled[0]

    def _pooled(self, layer: Tensor, degrees: Sequence[int], valid: Tensor | None) -> list[Tensor]:
        """LNAMD at some degrees, or SNAMD, which fuses them itself."""
        settings = self.settings
        layer = emptied(layer, valid, mean=settings.pooling == "lnamd")
        if settings.pooling == "lnamd":
            return self.operators.lnamd(layer, self.grid, degrees)
        return snamd(
            layer,
            self.grid,
            degrees,
            unit=settings.pooling == "snamd-unit",
            temperature=settings.temperature,
            fused=self._fused,
        )


@torch.no_grad()
def mean_over_passes(
    layers: Sequence[Tensor],
    pooling: Pooling,
    search: PassSearch,
    *,
    valid: Tensor | None = None,
    checkpoint: Checkpoint | None = None,
    first_image: int = 0,
    on_progress: Progress,
) -> Tensor:
    """Mean of MSM over all passes of layers [N, P, C] -> [N, P] float64.

    valid: [N, P] bool, the patches that count; the others score 0. None: all.
    checkpoint: where the scores of finished parts are kept, and taken from.
    first_image: the place of image 0 in the whole batch, by which the checkpoint names a part.
    """
    degrees = pooling.settings.searches_a_layer
    count = len(layers) * degrees
    total = torch.zeros(layers[0].shape[:2], dtype=torch.float64, device=layers[0].device)
    store = _PartStore(checkpoint, search.parts, first_image)
    for index, layer in enumerate(layers):
        places = [Pass(index * degrees + k, index, k) for k in range(degrees)]
        todo = [search.missing(store.absent(place.index)) for place in places]
        pooled = pooling.pool(layer, [bool(each) for each in todo], valid)
        for place, missing, z in zip(places, todo, pooled, strict=True):
            for part in sorted(set(range(len(search.parts))) - set(missing)):
                first, last = search.parts[part]
                if first < last:
                    total[first:last].add_(store.load(place.index, part).to(total.device))
            if missing:
                assert z is not None  # a pass with parts to search is pooled
                tell = _PassProgress(
                    on_progress, place.index, count, len(search.parts), len(missing)
                )
                found = search.scores(place, z, missing, tell)
                for part, scores in zip(missing, found, strict=True):
                    first, last = search.parts[part]
                    stored = store.keep(place.index, part, scores)
                    total[first:last].add_(stored.to(total.device))
                    tell.to_search -= 1
            on_progress(_FRACTIONS * (place.index + 1), count * _FRACTIONS)
    return without_ignored(total / count, valid)


@dataclass(frozen=True)
class _PartStore:
    """A checkpoint, if there is one, asked by the places of passes and parts."""

    checkpoint: Checkpoint | None
    parts: Sequence[Part]
    first_image: int

    def _name(self, part: int) -> Part:
        first, last = self.parts[part]
        return self.first_image + first, self.first_image + last

    def absent(self, index: int) -> list[int]:
        """The parts of a pass whose scores are not stored; an empty part has none to store."""
        return [
            part
            for part, (first, last) in enumerate(self.parts)
            if self.checkpoint is None
            or (first < last and not self.checkpoint.has(index, self._name(part)))
        ]

    def load(self, index: int, part: int) -> Tensor:
        """The stored scores of a part [last - first, P]."""
        assert self.checkpoint is not None  # without one every part is searched
        return self.checkpoint.load(index, self._name(part))

    def keep(self, index: int, part: int, scores: Tensor) -> Tensor:
        """Store the scores of a part; those that were stored before stay, and are returned."""
        if self.checkpoint is None or scores.shape[0] == 0:
            return scores
        if self.checkpoint.has(index, self._name(part)):
            return self.load(index, part)
        self.checkpoint.save(index, self._name(part), scores)
        return scores


@dataclass
class _PassProgress:
    """Progress within a pass, told as a share of all passes; each part begins at 0 anew."""

    on_progress: Progress
    index: int
    passes: int
    parts: int
    to_search: int

    def __call__(self, done: int, total: int) -> None:
        within = (self.parts - self.to_search + done / max(total, 1)) / self.parts
        self.on_progress(int(_FRACTIONS * (self.index + within)), self.passes * _FRACTIONS)
