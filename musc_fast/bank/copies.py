"""Copies of the images of a bank: which they are, and their scores without those."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from torch import Tensor

from ..scoring.batch import run_passes
from ..scoring.copies import Copy, copies_of
from ..scoring.distinct import Distinct
from ..scoring.layer_passes import Pooling


def of_held(layers: Sequence[Tensor], tokens: Sequence[Tensor], slots: Sequence[int]) -> list[Copy]:
    """The images of layers [N, P, C] that are copies of images held.

    tokens: [capacity, P, C] a layer. slots: those filled; `of` of a copy is a place among them.
    """
    held = [layer[: len(slots)] for layer in tokens]
    return [replace(copy, of=slots.index(copy.of)) for copy in copies_of(layers, held, slots)]


def scores_without(
    means: Tensor,
    copies: Sequence[Copy],
    layers: Sequence[Tensor],
    references: list[Tensor],
    pooling: Pooling,
    valid: Tensor | None,
    reference_valid: Tensor | None,
) -> None:
    """Write the scores of copies against all references but their own into means [N, P] float64.

    What the bank has prepared of its images serves all of them alone, so that their LNAMD is
    computed anew: a copy is rare.

    valid, reference_valid: [N, P] and [M, P] bool, the patches that count; None: all.
    """
    images = [copy.image for copy in copies]
    own = [replace(copy, image=place) for place, copy in enumerate(copies)]
    counted = None if valid is None else valid[images]
    tokens = [layer[images] for layer in layers]
    batch = Distinct(tokens, references, own, None, None, counted, reference_valid)
    run = partial(run_passes, pooling, pooling.settings, None, lambda done, total: None)
    means[images] = batch.scores(run)[0]
