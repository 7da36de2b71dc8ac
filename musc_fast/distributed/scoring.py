"""Mutual scoring over several processes and machines: each rank holds a share of the images."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

from ..backends.registry import resolve
from ..errors import InputError, MuscFastError
from ..scoring import token_files as large
from ..scoring.arguments import Tokens, in_files
from ..scoring.batch import BatchScores, Progress, finished, reporter, score_batch
from .ranks import TIMEOUT, Ranks
from .ring import Ring
from .shards import agreed, collected


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
        "grid": grid,
        "prefix_tokens": prefix_tokens,
        "image_size": image_size,
        "degrees": tuple(degrees),
        "topmin": tuple(topmin),
        "backend": backend,
        "precision": precision,
        "memory_limit": memory_limit,
        "max_references": max_references,
    }
    with reporter(progress if ranks.rank == 0 else False) as report:
        with_references = references is not None
        shard = agreed(ranks, tokens, cls_tokens, with_references, {**how, "neighbors": neighbors})
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
            run = Ring(ranks, shard, topmin, backend, precision, memory_limit, report)
            kept = None if checkpoint is None else _checkpoint(checkpoint, run, how)
            patches = run.patch_scores(tuple(degrees), kept, in_files(tokens or ()))
            own = finished(patches.view(-1, *shard.grid), shard.size, None, neighbors)
        result = collected(ranks, shard, own, neighbors)
    ranks.close()
    return result


def _checkpoint(folder: str | os.PathLike[str], run: Ring, how: dict[str, Any]) -> large.Checkpoint:
    """The checkpoint of all ranks; parts are named by places in the batch."""
    # Rounds depend on free memory where no limit is given: those of the first run are no matter,
    # for a part is found by its images; but a part a process keeps is not too large.
    run.rounds = max(run.rounds, len(large.parts_of(max(run.shard.counts), True)))
    digests = run.ranks.gather([large.digest(layer) for layer in run.shard.layers])
    settings = {
        **{key: how[key] for key in ("degrees", "topmin", "precision", "max_references")},
        "grid": list(run.shard.grid),
        "counts": run.shard.counts,
        "digests": digests,
        "backend": resolve(run.backend, run.shard.layers[0].device).name,
    }
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
