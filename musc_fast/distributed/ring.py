"""MSM over a ring of ranks: each unordered pair of their shares is searched once.

A rank keeps the distances of its own images and sends those of the visiting images back to their
owner. After half a round every rank has the distances of its images to all images. Where those
distances exceed the memory limit, the images are scored in rounds of fewer queries; pairs of images
in different rounds are then searched twice, as in one process.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from .. import reference
from ..backends.memory import free_memory
from ..backends.registry import resolve
from ..errors import InputError
from ..progress import Progress
from ..scoring.checkpoint import Checkpoint
from ..scoring.layer_passes import Part, Pass, Pooling, mean_over_passes
from ..scoring.tiles import tiled
from ..settings import SearchOptions
from .ranks import Ranks
from .shards import Shard

_SHARE = 0.5  # of the free memory, where no limit is given


def round_bytes(queries: int, patches: int, images: int, channels: int) -> int:
    """Bytes a rank holds in a round: distances, both directions of a pair of blocks, the blocks."""
    return 4 * queries * patches * (images + 4 * queries + 4 * channels)


def ring_bytes(images: int, ranks: int, patches: int, channels: int) -> float:
    """Bytes a rank sends, on average, for one layer and degree scored in one round.

    `images` on each rank. Blocks go half round the ring, and the distances of every pair of blocks
    but the own go back to their owner once.
    """
    steps = ranks // 2
    block = 4 * images * patches * channels
    pairs = (ranks - 1) / 2  # of blocks, a rank: those of the last step of an even ring are halved
    return steps * block + pairs * 4 * images * images * patches


class Ring:
    """The scores of this rank's images against those of all ranks."""

    def __init__(self, ranks: Ranks, shard: Shard) -> None:
        self.ranks, self.shard = ranks, shard
        settings = shard.settings
        limit = settings.memory_limit
        if limit is None:
            here = shard.hosts.count(shard.hosts[ranks.rank])
            limit = _free(shard.layers[0].device, here)
        self.rounds = self._agree_on_rounds(limit)
        # A rank without images computes nothing, so the backend need not run on its machine.
        name = settings.backend if len(shard.layers[0]) else "reference"
        operators = resolve(name, shard.layers[0].device).operators()
        self._operators = tiled(operators, shard.grid, settings)
        self._options = SearchOptions(
            settings.precision, limit // 2, window=settings.window(shard.grid)
        )
        self._bounds = reference.interval(settings.topmin, sum(shard.counts) - 1)
        self._checkpointed = False

    def _agree_on_rounds(self, limit: int) -> int:
        """The number of rounds in which every rank stays within its limit of bytes."""
        own, shard = None, self.shard
        most, patches = max(shard.counts), shard.layers[0].shape[1]
        channels = max(layer.shape[2] for layer in shard.layers)
        for rounds in range(1, most + 1):
            needed = round_bytes(-(-most // rounds), patches, sum(shard.counts), channels)
            if 2 * needed <= limit:
                own = rounds
                break
        rounds_of: list[int | None] = self.ranks.gather(own)
        agreed = [rounds for rounds in rounds_of if rounds is not None]
        if len(agreed) < len(rounds_of):
            raise InputError(
                f"memory_limit: scoring over {self.ranks.size} ranks needs at least "
                f"{2 * needed / 2**20:.0f} MiB a rank beyond input and output; raise it or take "
                "more ranks"
            )
        return max(agreed)

    @property
    def parts(self) -> list[Part]:
        """The own images by rounds; a round may have none."""
        return [self.chunk(self.ranks.rank, part) for part in range(self.rounds)]

    def chunk(self, rank: int, part: int) -> tuple[int, int]:
        """First and last of the images of `rank` that take part in a round."""
        count = self.shard.counts[rank]
        return count * part // self.rounds, count * (part + 1) // self.rounds

    def patch_scores(
        self, checkpoint: Checkpoint | None, folder: str | None, on_progress: Progress
    ) -> Tensor:
        """Mean of MSM over layers and degrees -> [n, P] fp64, added in the order of one process.

        folder: for LNAMD's results where the tokens are files; None holds them in memory.
        """
        self._checkpointed = checkpoint is not None
        pooling = Pooling(self._operators, self.shard.grid, self.shard.settings, folder)
        return mean_over_passes(
            self.shard.layers,
            pooling,
            self,
            valid=self.shard.valid,
            checkpoint=checkpoint,
            first_image=self.shard.starts()[self.ranks.rank],
            on_progress=on_progress,
        )

    def missing(self, absent: list[int]) -> list[int]:
        """The rounds that the checkpoint of some rank lacks: all ranks do them together."""
        if not self._checkpointed:
            return absent
        lacking = self.ranks.gather(absent)
        return [part for part in range(self.rounds) if any(part in each for each in lacking)]

    def scores(
        self, place: Pass, z: Tensor, todo: list[int], on_progress: Progress
    ) -> Iterator[Tensor]:
        """MSM of the own images of each round against all images -> [q, P]."""
        for part in todo:
            yield self._round(part, z, on_progress)

    def _round(self, part: int, z: Tensor, on_progress: Progress) -> Tensor:
        first, last = self.chunk(self.ranks.rank, part)
        queries = z[first:last]
        shape = (last - first, z.shape[1], sum(self.shard.counts))
        distances = torch.full(shape, math.inf, dtype=torch.float32, device=z.device)
        for other in range(self.rounds):
            if other == part:
                self._both_ways(part, queries, distances)
            else:
                self._one_way(other, queries, z, distances)
            on_progress(other + 1, self.rounds)
        means = [  # image by image, for a backend may copy what it averages
            self._operators.interval_mean(each[None], *self._bounds) for each in distances
        ]
        return torch.cat(means) if means else z.new_empty(0, z.shape[1])

    def _columns(self, rank: int, part: int, cut: slice = slice(None)) -> slice:
        """Where the distances to the images of a chunk lie."""
        first, last = self.chunk(rank, part)
        begin, end, _ = cut.indices(last - first)
        start = self.shard.starts()[rank] + first
        return slice(start + begin, start + end)

    def _sizes(self, part: int) -> list[int]:
        chunks = (self.chunk(rank, part) for rank in range(self.ranks.size))
        return [last - first for first, last in chunks]

    def _one_way(self, part: int, queries: Tensor, z: Tensor, distances: Tensor) -> None:
        """Distances of the queries to the images of another round, of all ranks."""
        first, last = self.chunk(self.ranks.rank, part)
        for source, block in self.ranks.ring(z[first:last], self._sizes(part), self.ranks.size - 1):
            if len(queries) and len(block):
                found = self._operators.patch_to_image(queries, block, self._options)
                distances[:, :, self._columns(source, part)] = found

    def _both_ways(self, part: int, queries: Tensor, distances: Tensor) -> None:
        """Distances of the queries of all ranks among each other, each pair searched once."""
        ranks, patches = self.ranks, queries.shape[1]
        sizes = self._sizes(part)
        landing: tuple[Any, Tensor, slice, slice] | None = None
        for source, block in ranks.ring(queries, sizes, ranks.size // 2):
            if source == ranks.rank:
                if len(queries) > 1:
                    own = self._operators.patch_to_image(queries, None, self._options)
                    distances[:, :, self._columns(source, part)] = own
                continue
            step = (ranks.rank - source) % ranks.size
            origin = (ranks.rank + step) % ranks.size
            rows, cut, got_rows, got_cut = _shares(
                ranks.rank, source, origin, len(queries), sizes[source]
            )
            back = None
            mine, others = queries[rows], block[cut]
            if len(mine) and len(others):
                found, back = self._operators.between(mine, others, self._options)
                distances[rows, :, self._columns(source, part, cut)] = found
            if landing is not None:
                _land(landing, distances)
            columns = self._columns(origin, part, got_cut)
            room = distances.new_empty(
                len(queries[got_rows]), patches, columns.stop - columns.start
            )
            landing = (ranks.exchange(back, source, room, origin), room, got_rows, columns)
        if landing is not None:
            _land(landing, distances)


def _land(landing: tuple[Any, Tensor, slice, slice], distances: Tensor) -> None:
    exchange, room, rows, columns = landing
    exchange.wait()
    distances[rows, :, columns] = room


def _shares(
    rank: int, source: int, origin: int, own: int, visiting: int
) -> tuple[slice, slice, slice, slice]:
    """What of (own images, visiting block) this rank searches, and what it is sent by `origin`.

    Two ranks that face each other in an even ring hold each other's blocks at the same time: the
    lower searches the first half of its images, the upper all of its own against the rest.
    """
    every = slice(None)
    if source != origin:
        return every, every, every, every
    if rank < source:
        half = (own + 1) // 2
        return slice(0, half), every, slice(half, None), every
    half = (visiting + 1) // 2
    return every, slice(half, None), every, slice(0, half)


def _free(device: torch.device, ranks: int) -> int:
    """Bytes this rank may use: a share of what is free, on a CPU divided among its machine's."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0] * _SHARE)
    return int(free_memory() * _SHARE / ranks)
