"""A run started by torchrun: joining the ranks, and scoring image files over them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from time import perf_counter

import torch
import torch.distributed as dist

from ..errors import ImageError, InputError
from ..features.extraction import BatchFeatures, unreadable
from ..musc import MuSc
from ..progress import StageProgress
from ..scoring.scores import BatchScores
from .ranks import TIMEOUT, Ranks
from .scoring import score_shard


def launched() -> tuple[int, int]:
    """This process's rank and the number of ranks, from torchrun's environment; (0, 1) without."""
    try:
        rank, size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    except ValueError:
        return 0, 1
    return (rank, size) if size > 1 else (0, 1)


@contextmanager
def joined(timeout: float = TIMEOUT) -> Iterator[int]:
    """Yield this process's rank, torch.distributed initialised where torchrun started several."""
    rank, size = launched()
    if size == 1:
        yield 0
        return
    if not dist.is_available():
        raise InputError("this build of torch has no torch.distributed; run without torchrun")
    backend = "gloo"
    if torch.cuda.is_available():
        backend = "nccl"
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    dist.init_process_group(backend, timeout=timedelta(seconds=timeout))
    yield rank
    # Not after an error, when other ranks may wait for this one: the process ends then anyway.
    dist.destroy_process_group()


def score_over_ranks(
    musc: MuSc,
    paths: Sequence[Path],
    references: Sequence[Path] | None,
    *,
    skip_bad: bool,
    progress: StageProgress = lambda stage, done, total: None,
) -> tuple[BatchFeatures, BatchFeatures | None, BatchScores] | None:
    """Extract and score image files, a contiguous share on each rank.

    On rank 0 what `MuSc.extract` tells of all images (without their tokens), the features of the
    references, which every rank extracts, and the scores; None on the other ranks. Errors of one
    rank are raised on all.
    """
    ranks = Ranks()
    bounds = [len(paths) * k // ranks.size for k in range(ranks.size + 1)]
    begin, end = bounds[ranks.rank], bounds[ranks.rank + 1]
    own, error = _extracted(musc, paths[begin:end], progress)
    about = None if own is None else replace(own, tokens=(), cls_tokens=None)
    told = ranks.gather((error, about))
    whole = _whole([each for _, each in told], bounds)
    reasons = [text for text, _ in told if text is not None]
    if reasons:
        raise ImageError("\n".join(reasons))
    if whole.bad and not skip_bad:
        raise unreadable(whole.bad, len(paths), can_skip=True)
    others = None
    if references is not None:
        others = musc.extract(
            references,
            skip_bad=skip_bad,
            progress=lambda _, done, total: progress("reference features", done, total),
        )
    start = perf_counter()
    scores = score_shard(
        None if own is None else own.tokens,
        cls_tokens=None if own is None or not musc.use_cls else own.cls_tokens,
        references=None if others is None else others.tokens,
        grid=musc.backbone.grid,
        prefix_tokens=musc.backbone.prefix_tokens,
        image_size=musc.backbone.image_size,
        progress=lambda done, total: progress("scoring", done, total),
        **musc.settings.keywords(),
    )
    ranks.close()
    musc.timings["features"] = whole.seconds + (0.0 if others is None else others.seconds)
    musc.timings["scoring"] = perf_counter() - start
    if scores is None:
        return None
    if own is not None:  # whether there are class tokens is what run.json tells
        whole = replace(whole, cls_tokens=own.cls_tokens)
    return whole, others, scores


def _extracted(
    musc: MuSc, paths: Sequence[Path], progress: StageProgress
) -> tuple[BatchFeatures | None, str | None]:
    """The features of this rank's images, or what is wrong with all of them."""
    if not paths:
        return None, None
    try:
        return musc.extract(paths, skip_bad=True, progress=progress), None
    except ImageError as error:
        return None, str(error)


def _whole(parts: Sequence[BatchFeatures | None], bounds: Sequence[int]) -> BatchFeatures:
    """What the ranks tell of their images, joined; the slowest rank's seconds."""
    there = [(begin, part) for begin, part in zip(bounds, parts, strict=False) if part is not None]
    return BatchFeatures(
        tokens=(),
        cls_tokens=None,
        names=tuple(name for _, part in there for name in part.names),
        sources=tuple(begin + source for begin, part in there for source in part.sources),
        sizes=tuple(size for _, part in there for size in part.sizes),
        bad=tuple(bad for _, part in there for bad in part.bad),
        seconds=max((part.seconds for _, part in there), default=0.0),
    )
