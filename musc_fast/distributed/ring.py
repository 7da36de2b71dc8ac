"""MSM over a ring of ranks: each unordered pair of their shares is searched once.

By `ops.between`: a rank keeps its own direction's distances and sends the other's back to their
owner. After half a round every rank has the distances of its images to all others. Where those
exceed the memory limit, the images are scored in rounds of fewer queries; pairs of images in
different rounds are then searched twice, as in one process.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from .. import ops
from ..backends.memory import free_memory
from ..errors import InputError
from ..scoring import token_files as large
from ..scoring.batch import Progress
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

    def __init__(
        self,
        ranks: Ranks,
        shard: Shard,
        topmin: tuple[float, float],
        backend: str,
        precision: str,
        memory_limit: int | None,
        report: Progress,
    ) -> None:
        self.ranks, self.shard, self.topmin, self.report = ranks, shard, topmin, report
        self.backend = backend
        own, limit = None, memory_limit
        if limit is None:
            here = shard.hosts.count(shard.hosts[ranks.rank])
            limit = _free(shard.layers[0].device, here)
        most, patches = max(shard.counts), shard.layers[0].shape[1]
        channels = max(layer.shape[2] for layer in shard.layers)
        for rounds in range(1, most + 1):
            needed = round_bytes(-(-most // rounds), patches, sum(shard.counts), channels)
            if 2 * needed <= limit:
                own = rounds
                break
        rounds_of = ranks.gather(own)
        if None in rounds_of:
            raise InputError(
                f"memory_limit: scoring over {ranks.size} ranks needs at least "
                f"{2 * needed / 2**20:.0f} MiB a rank beyond input and output; raise it or take "
                "more ranks"
            )
        self.rounds = max(rounds_of)
        self.how: dict[str, Any] = {
            "backend": backend,
            "precision": precision,
            "memory_limit": limit // 2,
        }

    def chunk(self, rank: int, part: int) -> tuple[int, int]:
        """First and last of the images of `rank` that take part in a round."""
        count = self.shard.counts[rank]
        return count * part // self.rounds, count * (part + 1) // self.rounds

    def patch_scores(
        self, degrees: tuple[int, ...], kept: large.Checkpoint | None, in_files: bool
    ) -> Tensor:
        """Mean of MSM over layers and degrees -> [n, P] fp64, added in the order of one process."""
        layers = self.shard.layers
        steps = len(layers) * len(degrees)
        total = torch.zeros(layers[0].shape[:2], dtype=torch.float64, device=layers[0].device)
        with large.scratch(kept.folder if kept else None) as folder:
            for index, layer in enumerate(layers):
                todo = {
                    rank: self._missing(index * len(degrees) + rank, kept)
                    for rank in range(len(degrees))
                }
                pooled = self._pooled(layer, degrees, todo, folder if in_files else None)
                for rank in range(len(degrees)):
                    step = index * len(degrees) + rank
                    z = next(pooled)
                    for part in range(self.rounds):
                        first, last = self.chunk(self.ranks.rank, part)
                        total[first:last] += self._part(step, steps, part, z, todo[rank], kept)
        return total / steps

    def _pooled(
        self,
        layer: Tensor,
        degrees: tuple[int, ...],
        todo: dict[int, list[int]],
        folder: str | None,
    ) -> Iterator[Tensor]:
        """LNAMD of the own images, degree by degree; the layer itself where it is not needed."""
        if len(layer) == 0 or not any(todo.values()):
            yield from (layer.float() for _ in degrees)
        elif folder is None:
            yield from ops.lnamd_all(layer, self.shard.grid, degrees, backend=self.backend)
        else:
            for degree in degrees:
                yield large.pooled_file(folder, layer, self.shard.grid, degree, self.backend)

    def _place(self, part: int) -> tuple[int, int]:
        """The own images of a round by their places in the batch."""
        start = self.shard.starts()[self.ranks.rank]
        first, last = self.chunk(self.ranks.rank, part)
        return start + first, start + last

    def _missing(self, step: int, kept: large.Checkpoint | None) -> list[int]:
        """The rounds of a step that some rank has not kept: all ranks do them together."""
        if kept is None:
            return list(range(self.rounds))
        places = [self._place(part) for part in range(self.rounds)]
        lacks = [first < last and not kept.has(step, (first, last)) for first, last in places]
        told = self.ranks.gather(lacks)
        return [part for part in range(self.rounds) if any(lacks[part] for lacks in told)]

    def _part(
        self,
        step: int,
        steps: int,
        part: int,
        z: Tensor,
        todo: list[int],
        kept: large.Checkpoint | None,
    ) -> Tensor:
        """The scores of the own images of a round [q, P]: kept ones, or found with all ranks."""
        place = self._place(part)
        scores: Tensor | None = None
        if part in todo:
            scores = self._round(step, steps, part, z)
        if kept is not None and place[0] < place[1]:
            if kept.has(step, place):
                scores = kept.load(step, place).to(z.device)
            elif scores is not None:
                kept.save(step, place, scores)
        self.report(((step * self.rounds) + part + 1) * self.rounds, steps * self.rounds**2)
        return z.new_empty(0, z.shape[1]) if scores is None else scores

    def _round(self, step: int, steps: int, part: int, z: Tensor) -> Tensor:
        """MSM of the own images of a round against all images -> [q, P]."""
        first, last = self.chunk(self.ranks.rank, part)
        queries = z[first:last]
        shape = (last - first, z.shape[1], sum(self.shard.counts))
        distances = torch.full(shape, math.inf, dtype=torch.float32, device=z.device)
        for other in range(self.rounds):
            if other == part:
                self._both_ways(part, queries, distances)
            else:
                self._one_way(other, queries, z, distances)
            done = (step * self.rounds + part) * self.rounds + other + 1
            self.report(done, steps * self.rounds**2)
        means = [  # image by image: the check of the distances copies them
            ops.interval_mean(each[None], self.topmin, backend=self.backend) for each in distances
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
                found = ops.patch_to_image(queries, block, **self.how)
                distances[:, :, self._columns(source, part)] = found

    def _both_ways(self, part: int, queries: Tensor, distances: Tensor) -> None:
        """Distances of the queries of all ranks among each other, each pair searched once."""
        ranks, patches = self.ranks, queries.shape[1]
        sizes = self._sizes(part)
        landing: tuple[Any, Tensor, slice, slice] | None = None
        for source, block in ranks.ring(queries, sizes, ranks.size // 2):
            if source == ranks.rank:
                if len(queries) > 1:
                    own = ops.patch_to_image(queries, **self.how)
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
                found, back = ops.between(mine, others, **self.how)
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
