"""What the ranks of a run agree on before it, and what they bring together after it."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from .. import ops
from ..backends.registry import resolve
from ..errors import InputError, MuscFastError
from ..scoring.arguments import Tokens, class_tokens, grid_of, map_size, same_layers, token_layers
from ..scoring.batch import BatchScores
from ..settings import ScoringSettings
from .ranks import Ranks


@dataclass(frozen=True)
class Shard:
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


def agreed(
    ranks: Ranks,
    tokens: Tokens | None,
    cls_tokens: Tensor | NDArray[Any] | None,
    with_references: bool,
    how: dict[str, Any],
) -> Shard:
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
        ScoringSettings(
            how["degrees"],
            how["topmin"],
            how["neighbors"],
            how["backend"],
            how["precision"],
            how["memory_limit"],
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
    told = ranks.gather(
        (error and str(error), len(layers[0]) if layers else 0, about, socket.gethostname())
    )
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
        layers = [torch.empty(0, *shape, device=ranks.device) for shape in first[2]]
        classes = None if first[3] is None else torch.empty(0, first[3], device=ranks.device)
    shape = grid_of(how["grid"], layers[0].shape[1], how["prefix_tokens"])
    size = map_size(how["image_size"], shape)
    return Shard(layers, classes, counts, shape, size, [host for *_, host in told])


def collected(
    ranks: Ranks, shard: Shard, own: BatchScores | None, neighbors: Sequence[int]
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
