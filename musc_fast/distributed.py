"""Mutual scoring over several processes and machines: each rank holds a share of the images.

The shares go round in a ring of ranks. Each unordered pair of shares is searched once, by
`ops.between`: a rank keeps its own direction's distances and sends the other's back to their
owner. After half a round every rank has the distances of its images to all others. Where those
exceed the memory limit, the images are scored in rounds of fewer queries; pairs of images in
different rounds are then searched twice, as in one process.
"""

from __future__ import annotations

import math
import os
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

from . import large, ops, planning
from .backends import resolve
from .checks import check_settings
from .errors import InputError, MuscFastError
from .ranks import TIMEOUT, Ranks
from .scoring import BatchScores, Progress, finished, reporter, score_batch
from .tokens import Tokens, class_tokens, grid_of, in_files, map_size, same_layers, token_layers

_SHARE = 0.5  # of the free memory, where no limit is given


def score_shard(
    tokens: Tokens | None,
    *,
    group: dist.ProcessGroup | None = None,
    timeout: float = TIMEOUT,
    cls_tokens: Tensor | NDArray[Any] | None = None,
    references: Tokens | None = None,
    grid: tuple[int, int] | None = None,
    prefix_tokens: int = 0,
    image_size: int | tuple[int, int] | None = None,
    degrees: Sequence[int] = (1, 3, 5),
    topmin: tuple[float, float] = (0.0, 0.3),
    neighbors: Sequence[int] = (1, 2, 3),
    backend: str = "auto",
    precision: str = "exact",
    memory_limit: int | None = None,
    max_references: int | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    progress: bool | Progress = False,
) -> BatchScores | None:
    """`score_batch` over the ranks of torch.distributed; every rank calls it with its own images.

    tokens, cls_tokens: this rank's images, as for `score_batch`; None where it has none. The batch
        is the images of rank 0, then those of rank 1, and so on.
    group: the ranks that take part; None: all. timeout: seconds to wait for another rank; it must
        exceed the time by which one rank may fall behind in searching two shares.
    references: all of them on every rank; then no images are exchanged.
    memory_limit: bytes a rank, beyond input, LNAMD's results and output; None takes a share of
        what is free, divided among the ranks of a machine.
    checkpoint: a folder, the same for all ranks; it may be shared or local to each machine. Run
        again with as many ranks and the same images on each.
    The others are as in `score_batch`. max_references needs references here.

    Returns the scores of the whole batch on rank 0, None on the others. With the backends cpu and
    torch on the CPU and precision "exact" they are those of `score_batch` to the bit; the others
    agree within 1e-6, and "fast" within its own error.
    Raises InputError on every rank where an argument of one is wrong or the ranks disagree,
    DistributedError where a rank dies or falls behind.
    """
    ranks = Ranks(group, timeout)
    how: dict[str, Any] = {
        "grid": grid, "prefix_tokens": prefix_tokens, "image_size": image_size,
        "degrees": tuple(degrees), "topmin": tuple(topmin), "backend": backend,
        "precision": precision, "memory_limit": memory_limit, "max_references": max_references,
    }  # fmt: skip
    with reporter(progress if ranks.rank == 0 else False) as report:
        with_references = references is not None
        shard = _agreed(ranks, tokens, cls_tokens, with_references, {**how, "neighbors": neighbors})
        own: BatchScores | None
        if references is not None:
            own = None
            if tokens is not None:
                place = None
                if checkpoint is not None:
                    place = os.path.join(checkpoint, f"rank-{ranks.rank}-of-{ranks.size}")
                own = score_batch(
                    tokens, references=references, checkpoint=place, progress=report, **how
                )
        else:
            run = _Ring(ranks, shard, topmin, backend, precision, memory_limit, report)
            kept = None if checkpoint is None else _checkpoint(checkpoint, run, how)
            patches = run.patch_scores(tuple(degrees), kept, in_files(tokens or ()))
            own = finished(patches.view(-1, *shard.grid), shard.size, None, neighbors)
        result = _collected(ranks, shard, own, neighbors)
    ranks.close()
    return result


@dataclass(frozen=True)
class _Shard:
    """This rank's layers [n, P, C], and what it knows of the others: images of each rank."""

    layers: list[Tensor]
    classes: Tensor | None
    counts: list[int]
    grid: tuple[int, int]
    size: tuple[int, int]
    hosts: list[str]

    def starts(self) -> list[int]:
        """The place of each rank's first image in the batch."""
        return [sum(self.counts[:rank]) for rank in range(len(self.counts))]


def _agreed(
    ranks: Ranks,
    tokens: Tokens | None,
    cls_tokens: Tensor | NDArray[Any] | None,
    with_references: bool,
    how: dict[str, Any],
) -> _Shard:
    """Check the arguments of all ranks; raise on all of them where one's are wrong."""
    layers: list[Tensor] = []
    classes: Tensor | None = None
    error: MuscFastError | None = None
    try:
        if how["max_references"] is not None and not with_references:
            raise InputError(
                "max_references: over several ranks every image is scored against all others; "
                "leave it out, or score in one process"
            )
        check_settings(
            how["degrees"], how["topmin"], how["neighbors"], how["precision"], how["memory_limit"]
        )
        if tokens is not None:
            layers = token_layers("tokens", tokens, how["prefix_tokens"])
            same_layers(layers)
            grid_of(how["grid"], layers[0].shape[1], how["prefix_tokens"])
            resolve(how["backend"], layers[0].device)
            if cls_tokens is not None:
                classes = class_tokens(cls_tokens, layers[0]).float()
    except MuscFastError as found:
        error = found
    shapes = [list(layer.shape[1:]) for layer in layers]
    about = (how, with_references, shapes, None if classes is None else classes.shape[1])
    told = ranks.gather((error and str(error), len(layers[0]) if layers else 0, about,
                         socket.gethostname()))  # fmt: skip
    if error is not None:
        raise error
    for rank, (wrong, _, _, _) in enumerate(told):
        if wrong is not None:
            raise InputError(f"rank {rank}: {wrong}")
    counts = [count for _, count, _, _ in told]
    filled = [rank for rank in range(ranks.size) if counts[rank]]
    if not filled or (sum(counts) < 2 and not with_references):
        raise InputError(
            f"tokens: found {sum(counts)} images on {ranks.size} ranks, wanted at least 2, or "
            "references"
        )
    first = told[filled[0]][2]
    for rank in range(ranks.size):
        mine = told[rank][2]
        if mine[:2] != first[:2] or (counts[rank] and mine != first):
            raise InputError(
                f"rank {rank} was called with other settings, layers or class tokens than rank "
                f"{filled[0]}: {mine} and {first}"
            )
    if not layers:
        device = "cuda" if dist.get_backend(ranks._group) == "nccl" else "cpu"
        layers = [torch.empty(0, *shape, device=device) for shape in first[2]]
        classes = None if first[3] is None else torch.empty(0, first[3], device=device)
    shape = grid_of(how["grid"], layers[0].shape[1], how["prefix_tokens"])
    size = map_size(how["image_size"], shape)
    return _Shard(layers, classes, counts, shape, size, [host for *_, host in told])


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


class _Ring:
    """The scores of this rank's images against those of all ranks."""

    def __init__(
        self,
        ranks: Ranks,
        shard: _Shard,
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
            "backend": backend, "precision": precision, "memory_limit": limit // 2
        }  # fmt: skip

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
        for source, block in self.ranks.ring(
            z[first:last], self._sizes(part), self.ranks.size - 1
        ):  # fmt: skip
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


def _checkpoint(
    folder: str | os.PathLike[str], run: _Ring, how: dict[str, Any]
) -> large.Checkpoint:  # fmt: skip
    """The checkpoint of all ranks; parts are named by places in the batch."""
    # Rounds depend on free memory where no limit is given: those of the first run are no matter,
    # for a part is found by its images; but a part a process keeps is not too large.
    run.rounds = max(run.rounds, max(run.shard.counts) // large._PART)
    digests = run.ranks.gather([large._digest(layer) for layer in run.shard.layers])
    settings = {
        **{key: how[key] for key in ("degrees", "topmin", "precision", "max_references")},
        "grid": list(run.shard.grid), "counts": run.shard.counts, "digests": digests,
        "backend": resolve(run.backend, run.shard.layers[0].device).name,
    }  # fmt: skip
    kept, error = None, None
    try:
        kept = large.Checkpoint(folder, [], settings)
    except MuscFastError as found:
        error = found
    wrong = run.ranks.gather(error and str(error))
    if error is not None:
        raise error
    if any(wrong):
        raise InputError(f"another rank: {next(text for text in wrong if text)}")
    assert kept is not None
    return kept


def _collected(
    ranks: Ranks, shard: _Shard, own: BatchScores | None, neighbors: Sequence[int]
) -> BatchScores | None:
    """The whole batch's scores on rank 0."""
    like, counts = shard.layers[0], shard.counts
    if own is None or like.shape[0] == 0:
        own = BatchScores(
            like.new_empty(0, *shard.grid, dtype=torch.float32),
            like.new_empty(0, *shard.size, dtype=torch.float32),
            *(like.new_empty(0, dtype=torch.float32) for _ in range(2)),
        )
    patches = ranks.collect(own.patch_scores, counts)
    maps = ranks.collect(own.anomaly_maps, counts)
    raw = ranks.collect(own.raw_image_scores, counts)
    classes = None if shard.classes is None else ranks.collect(shard.classes, counts)
    if patches is None or maps is None or raw is None:
        return None
    scores = raw.clone() if classes is None else ops.rscin(raw, classes, neighbors)
    return BatchScores(patches, maps, raw, scores)


def _free(device: torch.device, ranks: int) -> int:
    """Bytes this rank may use: a share of what is free, on a CPU divided among its machine's."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0] * _SHARE)
    return int(planning.free_memory() * _SHARE / ranks)
