"""Scores of references against each other, as a scale for new images scored against them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from .. import reference
from ..errors import InputError
from ..progress import Progress
from ..settings import ScoringSettings
from .batch import score_batch
from .copies import find_copies
from .scores import BatchScores
from .valid import Valid


def leave_one_out(
    tokens: Sequence[Tensor],
    settings: ScoringSettings,
    *,
    grid: tuple[int, int] | None = None,
    prefix_tokens: int = 0,
    image_size: int | tuple[int, int] | None = None,
    valid: Valid | None = None,
    progress: bool | Progress = False,
) -> BatchScores:
    """Raw scores of n images, each against the n - 1 others.

    The interval mean is over the ranks that it has for a new image against all n. A new image that
    is as good as they are has one image more to choose its nearest from, so it scores no higher
    than it would in their place. (With `max_references` the images are drawn, and this holds in
    the mean alone.)

    tokens: [n, prefix + P, C] a layer.
    The other arguments are those of `score_batch`. Raises InputError for fewer than two images.
    """
    images = len(tokens[0])
    if images < 2:
        raise InputError(
            f"references: found {images}, wanted 2 or more, to score one by the others"
        )
    if settings.copies != "off":  # which count once
        images -= len(find_copies([layer[:, prefix_tokens:] for layer in tokens]))
    count = min(images, settings.max_references or images)
    low, high = reference.interval(settings.topmin, count)
    counts = (float(low), float(high))  # not shares
    ranks = replace(settings, topmin=counts, similarity="class")
    # Raw scores are a scale; none is smoothed.
    return score_batch(
        tokens,
        grid=grid,
        prefix_tokens=prefix_tokens,
        image_size=image_size,
        valid=valid,
        progress=progress,
        **ranks.keywords(),
    )
