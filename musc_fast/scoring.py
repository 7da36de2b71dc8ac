"""From patch tokens to anomaly maps and image scores: LNAMD -> MSM -> maps -> RsCIN."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from . import ops, reference
from .backends import resolve
from .progress import stage_bars
from .sampling import check_max_references, sample_others, sample_references
from .tokens import Tokens, check_layers, class_tokens, grid_of, map_size, token_layers

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class BatchScores:
    """Scores of N images on an H x W grid of patches, float32, on the device of the tokens.

    patch_scores: [N, H, W], the mean distance over layers and degrees; higher is more anomalous.
    anomaly_maps: [N, h, w], patch scores upsampled to `image_size` (the grid itself without one).
    raw_image_scores: [N], the maximum of each anomaly map.
    image_scores: [N], raw scores after RsCIN (scaled to 0..1 over the batch) where class tokens
        were given, otherwise the raw scores.
    """

    patch_scores: Tensor
    anomaly_maps: Tensor
    raw_image_scores: Tensor
    image_scores: Tensor


@torch.no_grad()
def score_batch(
    tokens: Tokens,
    *,
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
    progress: bool | Progress = False,
) -> BatchScores:
    """Score the images of a batch against each other, or against `references`.

    tokens: patch tokens of one layer [N, prefix + P, C], or a sequence of such arrays, one a layer
        (C may differ by layer); torch or numpy, any floating dtype, finite.
    cls_tokens: [N, D] class tokens for RsCIN; None leaves the raw image scores.
    references: tokens of other images in the same form as `tokens`, scored against instead of the
        batch itself; needed for N = 1.
    grid: (H, W) with H W = P; None takes a square.
    prefix_tokens: leading tokens (class and register tokens) that are dropped.
    image_size: int or (h, w) of the anomaly maps; None keeps the grid.
    degrees: odd neighbourhood sides of LNAMD. topmin: interval of the sorted distances, fractions
        below 1, counts from 1. neighbors: the k of RsCIN.
    backend: "auto" or a name from `musc_fast.backends`. precision: "exact" (within 1e-5 of fp64)
        or "fast". memory_limit: bytes beyond input and output; None takes a share of what is free.
    max_references: score each image against this many others (or references) only, drawn by
        content with a fixed seed; N K work instead of N^2. None: all.
    progress: True draws a bar, a function is called with (done, total).

    Raises InputError naming the argument (and image and layer), what was found and what is wanted.
    Method: Li et al., MuSc, ICLR 2024.
    """
    layers = token_layers("tokens", tokens, prefix_tokens)
    others = None if references is None else token_layers("references", references, prefix_tokens)
    check_layers(layers, others)
    n, p = layers[0].shape[:2]
    shape = grid_of(grid, p, prefix_tokens)
    size = map_size(image_size, shape)
    ops.check_settings(degrees, topmin, neighbors, precision, memory_limit)
    check_max_references(max_references)
    resolve(backend, layers[0].device)
    classes = None if cls_tokens is None else class_tokens(cls_tokens, layers[0])

    lists: Tensor | None = None
    if max_references is not None and others is None:
        lists = sample_others(layers[0], max_references)
    elif max_references is not None and others is not None:
        chosen = sample_references(others[0], max_references)
        others = others if chosen is None else [layer[chosen] for layer in others]
    with reporter(progress) as report:
        patch_scores = _patch_scores(
            layers, others, lists, shape, degrees, topmin, backend, precision, memory_limit, report
        ).reshape(n, *shape)
    return finished(patch_scores, size, classes, neighbors)


def finished(
    patch_scores: Tensor,
    image_size: tuple[int, int],
    cls_tokens: Tensor | None,
    neighbors: Sequence[int],
) -> BatchScores:
    """Maps and image scores of patch scores [N, H, W] float64."""
    count = patch_scores.shape[0]
    maps = torch.empty((count, *image_size), dtype=torch.float32, device=patch_scores.device)
    for i in range(count):  # one fp64 map at a time
        maps[i] = reference.upsample(patch_scores[i : i + 1], image_size)[0]
    raw = maps.flatten(1).amax(dim=1)
    scores = raw.clone() if cls_tokens is None else ops.rscin(raw, cls_tokens, neighbors)
    return BatchScores(patch_scores.float(), maps, raw, scores)


def _patch_scores(
    layers: list[Tensor],
    others: list[Tensor] | None,
    lists: Tensor | None,
    grid: tuple[int, int],
    degrees: Sequence[int],
    topmin: tuple[float, float],
    backend: str,
    precision: str,
    memory_limit: int | None,
    report: Progress,
) -> Tensor:
    """Mean of MSM over layers and degrees -> [N, P] fp64, added in a fixed order."""
    steps = len(layers) * len(degrees)
    total = torch.zeros(layers[0].shape[:2], dtype=torch.float64, device=layers[0].device)
    for index, layer in enumerate(layers):
        pooled = ops.lnamd_all(layer, grid, degrees, backend=backend)
        pooled_others = (
            None if others is None else ops.lnamd_all(others[index], grid, degrees, backend=backend)
        )
        for rank in range(len(degrees)):
            first = (index * len(degrees) + rank) * 1000  # thousandths of a step
            total += ops.msm(
                pooled[rank],
                None if pooled_others is None else pooled_others[rank],
                topmin,
                lists=lists,
                backend=backend,
                precision=precision,
                memory_limit=memory_limit,
                progress=lambda done, of, first=first: report(  # type: ignore[misc]
                    first + 1000 * done // max(of, 1), steps * 1000
                ),
            )
            report(first + 1000, steps * 1000)
    return total / steps


@contextmanager
def reporter(progress: bool | Progress) -> Iterator[Progress]:
    """A progress function: the caller's, a bar on standard error, or nothing."""
    if callable(progress):
        yield progress
    elif not progress:
        yield lambda done, total: None
    else:
        with stage_bars() as bars:
            yield lambda done, total: bars("scoring", done, total)
