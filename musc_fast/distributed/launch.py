"""Processes started by torchrun: joining them, and sharing image files among them."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from ..errors import ImageError, InputError, MuscFastWarning
from ..features.batch_images import unreadable
from ..features.extraction import BatchFeatures, join_valid
from ..musc import MuSc
from ..progress import StageProgress
from ..registration import Alignment, Frames
from ..scoring.scores import BatchScores
from ..settings import ScoringSettings
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
def joined(timeout: float = TIMEOUT) -> Iterator[None]:
    """Hold torch.distributed initialised where torchrun started several ranks.

    With CUDA this process's current device becomes the one of its local rank, so a model loaded
    within the block on "cuda" lies there.

    timeout: seconds that a rank waits for another.

    Raises InputError where torch was built without torch.distributed.
    """
    if launched()[1] == 1:
        yield
        return
    if not dist.is_available():
        raise InputError("this build of torch has no torch.distributed; run without torchrun")
    backend = "gloo"
    if torch.cuda.is_available():
        backend = "nccl"
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    dist.init_process_group(backend, timeout=timedelta(seconds=timeout))
    yield
    # After an error the group is not destroyed: that could wait for ranks that wait for this one.
    # The process ends then anyway.
    dist.destroy_process_group()


def extract_share(
    ranks: Ranks,
    musc: MuSc,
    paths: Sequence[Path],
    *,
    skip_bad: bool,
    white: float | None = None,
    alignment: Alignment | None = None,
    on_progress: StageProgress,
) -> tuple[BatchFeatures, BatchFeatures | None]:
    """Extract this rank's contiguous share of the image files `paths`; every rank passes all paths.

    Returns a summary of all images and this rank's features. The summary has no tokens, and class
    tokens [0, D] where the backbone has any. The features are None where the share has no image.

    Raises ImageError on every rank where none of one rank's images can be read, or where any image
    cannot be read and `skip_bad` is False.

    white, alignment: of all images, see `Extractor.white_of` and `alignment_of`; None: `paths` are
        the batch.
    """
    white = musc.extractor.white_of(paths) if white is None else white
    alignment = musc.extractor.alignment_of(paths, white=white) if alignment is None else alignment
    bounds = [len(paths) * rank // ranks.size for rank in range(ranks.size + 1)]
    own_paths = paths[bounds[ranks.rank] : bounds[ranks.rank + 1]]
    share, error = None, None
    if own_paths:
        try:
            share = musc.extract(
                own_paths, skip_bad=True, white=white, alignment=alignment, progress=on_progress
            )
        except ImageError as found:
            error = str(found)
    summary = None
    if share is not None:
        classes = (
            None
            if share.cls_tokens is None
            else share.cls_tokens.new_empty(0, share.cls_tokens.shape[1])
        )
        valid = None if share.valid is None else share.valid.cpu()
        summary = replace(share, tokens=(), cls_tokens=classes, valid=valid)
    replies = ranks.gather((error, summary))
    errors = [text for text, _ in replies if text is not None]
    if errors:
        raise ImageError("\n".join(errors))
    batch = _join_summaries([summary for _, summary in replies], bounds)
    if batch.bad and not skip_bad:
        raise unreadable(batch.bad, len(paths))
    return batch, share


def check_alone(settings: ScoringSettings) -> None:
    """Raise InputError for what several ranks cannot do, before they extract features."""
    if settings.repeats != "off":
        raise InputError(
            "repeats: no process of several sees all images; leave repeats out, or run without "
            "torchrun"
        )


def score_share(
    musc: MuSc,
    share: BatchFeatures | None,
    references: BatchFeatures | None,
    *,
    on_progress: StageProgress,
) -> BatchScores | None:
    """`MuSc.score_features` over the ranks, of each rank's share from `extract_share`.

    Copies are not looked for, which rank 0 says in a warning where they are to be.
    Returns the scores of the whole batch on rank 0, None on the other ranks.
    """
    if musc.settings.copies != "off" and launched()[0] == 0:
        warnings.warn(
            "copies: not looked for by several processes; a picture that is there twice hides its "
            "defects",
            MuscFastWarning,
            stacklevel=2,
        )
    return score_shard(
        None if share is None else share.tokens,
        cls_tokens=share.cls_tokens if share is not None and musc.use_cls else None,
        references=None if references is None else references.tokens,
        grid=musc.extractor.tiling.grid,
        prefix_tokens=musc.backbone.prefix_tokens,
        image_size=musc.extractor.tiling.image_size,
        valid=None if share is None else share.valid,
        reference_valid=None if references is None else references.valid,
        progress=lambda done, total: on_progress("scoring", done, total),
        **{**musc.settings.keywords(), "copies": "off"},
    )


def _join_summaries(
    summaries: Sequence[BatchFeatures | None], bounds: Sequence[int]
) -> BatchFeatures:
    """The summaries of all ranks as one; `seconds` is that of the slowest rank."""
    starts = bounds[: len(summaries)]
    parts = [
        (start, part) for start, part in zip(starts, summaries, strict=True) if part is not None
    ]
    classes = [part.cls_tokens for _, part in parts if part.cls_tokens is not None]
    return BatchFeatures(
        tokens=(),
        cls_tokens=classes[0] if classes else None,
        names=tuple(name for _, part in parts for name in part.names),
        sources=tuple(start + source for start, part in parts for source in part.sources),
        sizes=tuple(size for _, part in parts for size in part.sizes),
        bad=tuple(bad for _, part in parts for bad in part.bad),
        seconds=max((part.seconds for _, part in parts), default=0.0),
        tiling=parts[0][1].tiling,
        white=parts[0][1].white if parts else None,
        notes=tuple(note for _, part in parts for note in part.notes),
        frames=Frames.join([part.frames for _, part in parts]),
        valid=join_valid([part for _, part in parts]),
    )
