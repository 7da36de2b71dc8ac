"""Mutual scoring over several processes and machines: each rank holds a share of the images."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

from ..backends.registry import resolve
from ..progress import Progress, check_progress, scoring_progress
from ..scoring.arguments import Tokens, in_files
from ..scoring.batch import score_batch
from ..scoring.checkpoint import Checkpoint, digest, parts_of
from ..scoring.scores import BatchScores, make_scores
from ..scoring.valid import Valid
from ..scratch import scratch_folder
from ..settings import DegreeFusion, Place, PoolingName, Similarity, Switch
from .ranks import TIMEOUT, Ranks, check_timeout, is_timeout
from .ring import Ring
from .shards import Given, Layout, agree_on_shard, collect_scores


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
    valid: Valid | None = None,
    reference_valid: Valid | None = None,
    degrees: Sequence[int] = (1, 3, 5),
    topmin: tuple[float, float] = (0.0, 0.3),
    neighbors: Sequence[int] = (1, 2, 3),
    backend: str = "auto",
    precision: str = "exact",
    memory_limit: int | None = None,
    max_references: int | None = None,
    degree_fusion: DegreeFusion = "scores",
    place: Place = "off",
    pooling: PoolingName = "lnamd",
    temperature: float = 1.0,
    similarity: Similarity = "class",
    copies: Switch = "off",
    repeats: Switch = "off",
    tiles: tuple[int, int] | None = None,
    tile_margin: int | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    progress: bool | Progress = False,
) -> BatchScores | None:
    """`score_batch` over the ranks of torch.distributed; every rank calls it with its own images.

    tokens, cls_tokens: this rank's images, as for `score_batch`; None where it has none. The batch
        is the images of rank 0, then those of rank 1, and so on.
    group: the ranks that take part; None: all.
    timeout: seconds to wait for another rank; the timeout must exceed the time by which one rank
        may fall behind in searching two shares.
    references: all of them on every rank; then no images are exchanged.
    valid: as for `score_batch`, of this rank's images.
    reference_valid: of all references, the same on every rank.
    memory_limit: bytes a rank, beyond input, LNAMD's results and output; None takes a share of
        what is free, divided among the ranks of a machine.
    checkpoint: a folder, the same for all ranks; it may be shared or local to each machine. Run
        again with as many ranks and the same images on each.
    The others are as in `score_batch`. max_references and place="auto" need references here, and
        copies and repeats, for which one process must see all images, are "off".

    Returns the scores of the whole batch on rank 0, None on the others. With the backends cpu and
    torch on the CPU and precision "exact" they are those of `score_batch` to the bit; the others
    agree within 1e-6, and "fast" within its own error.
    Raises InputError on every rank where an argument of one is wrong or the ranks disagree,
    DistributedError where a rank dies or falls behind.
    """
    ranks = Ranks(group, timeout if is_timeout(timeout) else TIMEOUT)
    layout = Layout(grid, prefix_tokens, image_size)
    keywords = {
        "degrees": degrees,
        "topmin": topmin,
        "neighbors": neighbors,
        "backend": backend,
        "precision": precision,
        "memory_limit": memory_limit,
        "max_references": max_references,
        "degree_fusion": degree_fusion,
        "place": place,
        "pooling": pooling,
        "temperature": temperature,
        "similarity": similarity,
        "copies": copies,
        "repeats": repeats,
        "tiles": tiles,
        "tile_margin": tile_margin,
    }

    def check() -> None:
        check_timeout(timeout)
        check_progress(progress)

    given = Given(tokens, cls_tokens, references, valid, reference_valid)
    shard = agree_on_shard(ranks, given, layout, keywords, check)
    with scoring_progress(progress if ranks.rank == 0 else False) as on_progress:
        own: BatchScores | None = None
        if references is None:
            in_file = tokens is not None and in_files(tokens)
            own = _score_ring(Ring(ranks, shard), in_file, checkpoint, on_progress)
        else:
            with ranks.together():
                if tokens is not None:
                    own = score_batch(
                        tokens,
                        references=references,
                        checkpoint=_rank_folder(checkpoint, ranks),
                        progress=on_progress,
                        valid=valid,
                        reference_valid=reference_valid,
                        **vars(layout),
                        **shard.settings.keywords(),
                    )
        result = collect_scores(ranks, shard, own)
    ranks.close()
    return result


def _rank_folder(checkpoint: str | os.PathLike[str] | None, ranks: Ranks) -> str | None:
    """The folder of this rank's own checkpoint, where nothing is shared but the references."""
    if checkpoint is None:
        return None
    return os.path.join(checkpoint, f"rank-{ranks.rank}-of-{ranks.size}")


def _score_ring(
    ring: Ring,
    in_file: bool,
    checkpoint: str | os.PathLike[str] | None,
    on_progress: Progress,
) -> BatchScores:
    """The scores of this rank's images against those of all ranks."""
    shard = ring.shard
    store = None if checkpoint is None else _checkpoint(checkpoint, ring)
    with scratch_folder(None if store is None else store.folder) as folder:
        means = ring.patch_scores(store, folder if in_file else None, on_progress)
        shaped, settings = means.view(-1, *shard.grid), shard.settings
        return make_scores(
            shaped, shard.size, None, settings.neighbors, shard.valid, settings.reach
        )


def _checkpoint(folder: str | os.PathLike[str], ring: Ring) -> Checkpoint:
    """The checkpoint of all ranks; parts are named by the places of their images in the batch."""
    shard, settings = ring.shard, ring.shard.settings
    # Without a memory limit a restarted run may have other rounds. That is safe: a stored part is
    # found by its images, and parts of other images are scored again. A part is kept small.
    ring.rounds = max(ring.rounds, len(parts_of(max(shard.counts), True)))
    # With the tokens, so that a run in which all patches count has the key of earlier releases.
    decided = [*shard.layers, *(() if shard.valid is None else (shard.valid,))]
    digests = ring.ranks.gather([digest(each) for each in decided])
    decisive = {
        "degrees": list(settings.degrees),
        "degree_fusion": settings.degree_fusion,
        "topmin": list(settings.topmin),
        "precision": settings.precision,
        "max_references": settings.max_references,
        **settings.unusual(),
        "grid": list(shard.grid),
        "counts": shard.counts,
        "digests": digests,
        "backend": resolve(settings.backend, shard.layers[0].device).name,
    }
    with ring.ranks.together():
        store = Checkpoint(folder, [], decisive)
    return store
