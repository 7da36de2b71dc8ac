"""What the ranks of a run agree on before it, and what they bring together after it."""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from .. import ops
from ..backends.registry import resolve
from ..errors import InputError
from ..scoring.arguments import (
    Tokens,
    check_layers,
    class_tokens,
    grid_of,
    map_size,
    same_layers,
    token_layers,
)
from ..scoring.checkpoint import digest
from ..scoring.place import check_all_count
from ..scoring.scores import BatchScores
from ..scoring.valid import Valid, valid_patches, valid_references
from ..settings import ScoringSettings
from .ranks import Ranks


@dataclass(frozen=True)
class Shard:
    """This rank's share of a batch, and what all ranks know of the whole batch.

    layers: [n, P, C] of this rank. classes: [n, D] or None.
    counts, hosts: the images and the host name of each rank.
    grid, size: (H, W) of the patches and (h, w) of the anomaly maps.
    valid: [n, P] bool, the patches of this rank that count; None: all.
    """

    layers: list[Tensor]
    classes: Tensor | None
    counts: list[int]
    hosts: list[str]
    grid: tuple[int, int]
    size: tuple[int, int]
    settings: ScoringSettings
    valid: Tensor | None

    def starts(self) -> list[int]:
        """The place of each rank's first image in the batch."""
        return [sum(self.counts[:rank]) for rank in range(len(self.counts))]


@dataclass(frozen=True)
class Layout:
    """How the tokens lie: the arguments of these names of `score_batch`."""

    grid: tuple[int, int] | None
    prefix_tokens: int
    image_size: int | tuple[int, int] | None


@dataclass(frozen=True)
class Given:
    """What a rank is given to score: the arguments of these names of `score_shard`."""

    tokens: Tokens | None
    cls_tokens: Tensor | NDArray[Any] | None
    references: Tokens | None
    valid: Valid | None
    reference_valid: Valid | None


@dataclass(frozen=True)
class _Reply:
    """What a rank tells the others before the run.

    error: what is wrong with its arguments. shapes: [P, C] of its layers. classes: D or None.
    references: the digests of their layers and valid patches; None: there are none.
    """

    error: str | None
    images: int
    host: str
    call: tuple[Layout, ScoringSettings | None]
    references: tuple[str, ...] | None
    shapes: list[list[int]]
    classes: int | None


def agree_on_shard(
    ranks: Ranks,
    given: Given,
    layout: Layout,
    keywords: Mapping[str, Any],
    check: Callable[[], object],
) -> Shard:
    """Check the arguments of all ranks.

    keywords: those of `ScoringSettings`.
    check: raises where another argument of this rank is wrong.

    Raises InputError on every rank where the arguments of one are wrong or the ranks disagree.
    """
    layers: list[Tensor] = []
    classes: Tensor | None = None
    valid: Tensor | None = None
    settings: ScoringSettings | None = None
    digests: tuple[str, ...] | None = None
    error: Exception | None = None
    try:
        check()
        settings = _check_settings(keywords, given.references is not None)
        if given.tokens is not None:
            layers, classes = _check_tokens(
                given.tokens, given.cls_tokens, layout, settings.backend
            )
            valid = valid_patches("valid", given.valid, layers[0])
        elif given.valid is not None:
            raise InputError("valid: given without tokens; leave it out")
        others = None
        if given.references is not None:
            others = token_layers("references", given.references, layout.prefix_tokens)
            check_layers(layers or others, others)
        counted = valid_references(given.reference_valid, others)
        check_all_count(settings, all_count=valid is None and counted is None)
        if settings.place == "auto" and others is not None and len(others[0]) < 2:
            raise InputError(
                'place: "auto" over several ranks wants two references or more to decide by; give '
                'a number of places or "off"'
            )
        if others is not None:
            decided = [*others, *(() if counted is None else (counted,))]
            digests = tuple(digest(each) for each in decided)
    except Exception as found:  # whatever it is, the other ranks are told
        error = found
    own = _Reply(
        None if error is None else str(error) or type(error).__name__,
        len(layers[0]) if layers else 0,
        socket.gethostname(),
        (layout, settings),
        digests,
        [list(layer.shape[1:]) for layer in layers],
        None if classes is None else classes.shape[1],
    )
    replies = ranks.gather(own)
    if error is not None:
        raise error
    first = _compare(replies)
    if not layers:
        layers = [
            torch.empty(0, *shape, dtype=torch.float32, device=ranks.device)
            for shape in first.shapes
        ]
        if first.classes is not None:
            classes = torch.empty(0, first.classes, dtype=torch.float32, device=ranks.device)
    grid = grid_of(layout.grid, layers[0].shape[1], layout.prefix_tokens)
    size = map_size(layout.image_size, grid, sum(each.images for each in replies))
    counts, hosts = [each.images for each in replies], [each.host for each in replies]
    assert settings is not None  # else there was an error
    return Shard(layers, classes, counts, hosts, grid, size, settings, valid)


def _check_settings(keywords: Mapping[str, Any], with_references: bool) -> ScoringSettings:
    if keywords["max_references"] is not None and not with_references:
        raise InputError(
            "max_references: over several ranks every image is scored against all others; "
            "leave it out, or score in one process"
        )
    if keywords["place"] == "auto" and not with_references:
        raise InputError(
            'place: "auto" looks at images of the whole batch, of which each rank has a share; '
            'give a number of places or "off"'
        )
    if keywords["similarity"] != "class":
        raise InputError(
            "similarity: over several ranks images are compared by their class tokens alone; leave "
            "it out, or score in one process"
        )
    settings = ScoringSettings(**keywords)
    for name in ("copies", "repeats"):
        if keywords[name] != "off":
            raise InputError(
                f"{name}: no rank sees all images, so that none can be found; use "
                f'{name}="off", or score in one process'
            )
    return settings


def _check_tokens(
    tokens: Tokens, cls_tokens: Tensor | NDArray[Any] | None, layout: Layout, backend: str
) -> tuple[list[Tensor], Tensor | None]:
    """The layers and class tokens of this rank."""
    layers = token_layers("tokens", tokens, layout.prefix_tokens)
    same_layers(layers)
    grid_of(layout.grid, layers[0].shape[1], layout.prefix_tokens)
    resolve(backend, layers[0].device)
    classes = None if cls_tokens is None else class_tokens(cls_tokens, layers[0]).float()
    return layers, classes


def _compare(replies: list[_Reply]) -> _Reply:
    """The reply of the first rank that has images; InputError where another contradicts it."""
    for rank, reply in enumerate(replies):
        if reply.error is not None:
            raise InputError(f"rank {rank}: {reply.error}")
    images = sum(reply.images for reply in replies)
    filled = [rank for rank, reply in enumerate(replies) if reply.images]
    if not filled or (images < 2 and replies[0].references is None):
        raise InputError(
            f"tokens: found {images} images on {len(replies)} ranks, wanted at least 2, or "
            "references"
        )
    first = replies[filled[0]]
    for rank, reply in enumerate(replies):
        if reply.references != replies[0].references:
            raise InputError(
                f"references: rank {rank} was given others than rank 0; every rank needs all of "
                "them, in one order"
            )
    for rank, reply in enumerate(replies):
        found, wanted = ((each.call, each.shapes, each.classes) for each in (reply, first))
        if reply.call != first.call or (reply.images and found != wanted):
            raise InputError(
                f"rank {rank} was called with other settings, layers or class tokens than rank "
                f"{filled[0]}: {found} and {wanted}"
            )
    return first


def collect_scores(ranks: Ranks, shard: Shard, own: BatchScores | None) -> BatchScores | None:
    """The scores of the whole batch on rank 0, None on the other ranks."""
    like, counts = shard.layers[0], shard.counts
    if own is None or like.shape[0] == 0:
        own = BatchScores(
            like.new_empty(0, *shard.grid, dtype=torch.float32),
            like.new_empty(0, *shard.size, dtype=torch.float32),
            *(like.new_empty(0, dtype=torch.float32) for _ in range(2)),
            place=shard.settings.reach,
        )
    patches = ranks.collect(own.patch_scores, counts)
    maps = ranks.collect(own.anomaly_maps, counts)
    raw = ranks.collect(own.raw_image_scores, counts)
    classes = None if shard.classes is None else ranks.collect(shard.classes, counts)
    if patches is None or maps is None or raw is None:
        return None
    scores = raw.clone() if classes is None else ops.rscin(raw, classes, shard.settings.neighbors)
    return BatchScores(patches, maps, raw, scores, place=own.place)
