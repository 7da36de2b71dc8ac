"""From patch tokens to anomaly maps and image scores: LNAMD -> MSM -> maps -> RsCIN."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from .. import ops, reference
from ..backends.registry import resolve
from ..progress import stage_bars
from ..settings import ScoringSettings
from .arguments import Tokens, check_layers, class_tokens, grid_of, in_files, map_size, token_layers
from .sampling import sample_others, sample_references
from .token_files import Checkpoint, dataset_files, parts_of, pooled_file, scratch

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
    tokens: Tokens | Dataset[Any],
    *,
    cls_tokens: Tensor | NDArray[Any] | None = None,
    references: Tokens | Dataset[Any] | None = None,
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
) -> BatchScores:
    """Score the images of a batch against each other, or against `references`.

    tokens: patch tokens of one layer [N, prefix + P, C], or a sequence of such arrays, one a layer
        (C may differ by layer); torch or numpy, any floating dtype, finite. A layer may also be
        the path of a .npy or .safetensors file: it is mapped, not loaded, and LNAMD's results are
        scratch files then, so that memory does not grow with N P C. Or a torch Dataset whose items
        are single images, [prefix + P, C] or a sequence of them, one a layer: it is read once, one
        image at a time, into such files.
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
    checkpoint: a folder for finished parts; the same call goes on where a killed one was, and
        gives the same bits. It is left there when the run is complete.
    progress: True draws a bar, a function is called with (done, total).

    Raises InputError naming the argument (and image and layer), what was found and what is wanted.
    Method: Li et al., MuSc, ICLR 2024.
    """
    with scratch(None if checkpoint is None else Path(checkpoint)) as folder:
        if isinstance(tokens, Dataset):
            tokens = dataset_files("tokens", tokens, folder)
        if isinstance(references, Dataset):
            references = dataset_files("references", references, folder)
        layers = token_layers("tokens", tokens, prefix_tokens)
        others = (
            None if references is None else token_layers("references", references, prefix_tokens)
        )
        check_layers(layers, others)
        n, p = layers[0].shape[:2]
        shape = grid_of(grid, p, prefix_tokens)
        size = map_size(image_size, shape)
        ScoringSettings(
            degrees, topmin, neighbors, backend, precision, memory_limit, max_references
        )
        resolve(backend, layers[0].device)
        classes = None if cls_tokens is None else class_tokens(cls_tokens, layers[0])

        lists: Tensor | None = None
        if max_references is not None and others is None:
            lists = sample_others(layers[0], max_references)
        elif max_references is not None and others is not None:
            chosen = sample_references(others[0], max_references)
            others = others if chosen is None else [layer[chosen] for layer in others]
        settings: dict[str, Any] = {
            "grid": list(shape),
            "degrees": [int(r) for r in degrees],
            "topmin": list(topmin),
            "precision": precision,
            "max_references": max_references,
            "backend": resolve(backend, layers[0].device).name,
        }
        kept = (
            None
            if checkpoint is None
            else Checkpoint(checkpoint, [*layers, *(others or ())], settings)
        )
        with reporter(progress) as report:
            run = _Run(
                shape,
                tuple(degrees),
                topmin,
                lists,
                backend,
                precision,
                memory_limit,
                kept,
                report,
                folder if in_files(tokens) else None,
            )
            patch_scores = _patch_scores(layers, others, run).reshape(n, *shape)
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


@dataclass(frozen=True)
class _Run:
    """The settings of one run; `folder`: for LNAMD's results where the tokens are files."""

    grid: tuple[int, int]
    degrees: tuple[int, ...]
    topmin: tuple[float, float]
    lists: Tensor | None
    backend: str
    precision: str
    memory_limit: int | None
    checkpoint: Checkpoint | None
    report: Progress
    folder: str | None


def _patch_scores(layers: list[Tensor], others: list[Tensor] | None, run: _Run) -> Tensor:
    """Mean of MSM over layers and degrees -> [N, P] fp64, added in a fixed order."""
    images = layers[0].shape[0]
    parts = parts_of(images, run.checkpoint is not None)
    steps = len(layers) * len(run.degrees)
    total = torch.zeros(layers[0].shape[:2], dtype=torch.float64, device=layers[0].device)
    for index, layer in enumerate(layers):
        references = None if others is None else others[index]
        for step, pooled, pooled_others in _steps(index, layer, references, parts, run):
            for part, scores in _parts(step, steps, parts, pooled, pooled_others, run):
                total[part[0] : part[1]] += scores.to(total.device)
            run.report(1000 * (step + 1), steps * 1000)
    return total / steps


def _steps(
    index: int,
    layer: Tensor,
    references: Tensor | None,
    parts: list[tuple[int, int]],
    run: _Run,
) -> Iterator[tuple[int, Tensor | None, Tensor | None]]:
    """The layer's step numbers with LNAMD's results, None where a checkpoint has all of a step."""
    first = index * len(run.degrees)
    kept = run.checkpoint
    complete = [
        kept is not None and all(kept.has(first + rank, part) for part in parts)
        for rank in range(len(run.degrees))
    ]
    if all(complete):
        yield from ((first + rank, None, None) for rank in range(len(run.degrees)))
        return
    pooled_others = (
        None
        if references is None
        else ops.lnamd_all(references, run.grid, run.degrees, backend=run.backend)
    )
    every = (
        ops.lnamd_all(layer, run.grid, run.degrees, backend=run.backend)
        if run.folder is None
        else None
    )
    for rank, degree in enumerate(run.degrees):
        pooled = every[rank] if every is not None else None
        if run.folder is not None and not complete[rank]:
            pooled = pooled_file(run.folder, layer, run.grid, degree, run.backend)
        yield first + rank, pooled, None if pooled_others is None else pooled_others[rank]


def _parts(
    step: int,
    steps: int,
    parts: list[tuple[int, int]],
    pooled: Tensor | None,
    pooled_others: Tensor | None,
    run: _Run,
) -> Iterator[tuple[tuple[int, int], Tensor]]:
    """The scores of every part of a step: those of the checkpoint, then the others."""
    kept = run.checkpoint
    done = [part for part in parts if kept is not None and kept.has(step, part)]
    for part in done:
        assert kept is not None
        yield part, kept.load(step, part)
    todo = [part for part in parts if part not in done]
    if not todo:
        return
    assert pooled is not None
    place = len(done)

    def tell(part_done: int, of: int) -> None:  # in thousandths of a step
        share = (place + part_done / max(of, 1)) / len(parts)
        run.report(int(1000 * (step + share)), steps * 1000)

    found = ops.msm_parts(
        pooled,
        todo,
        pooled_others,
        run.topmin,
        lists=run.lists,
        backend=run.backend,
        precision=run.precision,
        memory_limit=run.memory_limit,
        progress=tell,
    )
    for part, scores in zip(todo, found, strict=True):
        if kept is not None:
            kept.save(step, part, scores)
        place += 1
        yield part, scores


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
