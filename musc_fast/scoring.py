"""From patch tokens to anomaly maps and image scores: LNAMD -> MSM -> maps -> RsCIN."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeGuard

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from . import ops, reference
from .backends import resolve
from .errors import InputError
from .progress import stage_bars

Tokens = Tensor | NDArray[Any] | Sequence[Tensor] | Sequence[NDArray[Any]]
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
    progress: True draws a bar, a function is called with (done, total).

    Raises InputError naming the argument (and image and layer), what was found and what is wanted.
    Method: Li et al., MuSc, ICLR 2024.
    """
    layers = _layers("tokens", tokens, prefix_tokens)
    others = None if references is None else _layers("references", references, prefix_tokens)
    _check_layers(layers, others)
    n, p = layers[0].shape[:2]
    shape = _grid(grid, p, prefix_tokens)
    size = _image_size(image_size, shape)
    ops.check_settings(degrees, topmin, neighbors, precision, memory_limit)
    resolve(backend, layers[0].device)
    classes = None if cls_tokens is None else _class_tokens(cls_tokens, layers[0])

    with _reporter(progress) as report:
        patch_scores = _patch_scores(
            layers, others, shape, degrees, topmin, backend, precision, memory_limit, report
        ).reshape(n, *shape)
    maps = torch.empty((n, *size), dtype=torch.float32, device=patch_scores.device)
    for i in range(n):  # one fp64 map at a time
        maps[i] = reference.upsample(patch_scores[i : i + 1], size)[0]
    raw = maps.flatten(1).amax(dim=1)
    scores = raw.clone() if classes is None else ops.rscin(raw, classes, neighbors)
    return BatchScores(patch_scores.float(), maps, raw, scores)


def _patch_scores(
    layers: list[Tensor],
    others: list[Tensor] | None,
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
                backend=backend,
                precision=precision,
                memory_limit=memory_limit,
                progress=lambda done, of, first=first: report(  # type: ignore[misc]
                    first + 1000 * done // max(of, 1), steps * 1000
                ),
            )
            report(first + 1000, steps * 1000)
    return total / steps


def _layers(name: str, tokens: Tokens, prefix_tokens: int) -> list[Tensor]:
    """The tokens as a list of [N, P, C] tensors, one a layer, without their prefix."""
    if prefix_tokens < 0:
        raise InputError(f"prefix_tokens: found {prefix_tokens}, wanted 0 or more")
    if isinstance(tokens, Tensor | np.ndarray):
        if tokens.ndim == 4:
            raise InputError(
                f"{name}: found one array {list(tokens.shape)}, wanted [N, prefix + P, C] or a "
                f"sequence of them, one a layer; if the layers lie along the first axis, pass "
                f"list({name})"
            )
        arrays: list[Any] = [tokens]
    else:
        arrays = list(tokens)
    if not arrays:
        raise InputError(f"{name}: found no layer, wanted at least one [N, prefix + P, C]")
    layers = []
    for index, array in enumerate(arrays):
        where = f"{name} (layer {index})"
        if not isinstance(array, Tensor | np.ndarray):
            raise InputError(f"{where}: found {type(array).__name__}, wanted a tensor or array")
        tensor = _tensor(array)
        if tensor.ndim != 3 or not tensor.is_floating_point():
            raise InputError(
                f"{where}: found {ops.describe(tensor)}, wanted a float [N, prefix + P, C]"
            )
        if tensor.shape[1] <= prefix_tokens:
            raise InputError(
                f"{where}: found {tensor.shape[1]} tokens an image, wanted more than the "
                f"{prefix_tokens} prefix tokens"
            )
        tensor = tensor[:, prefix_tokens:]
        ops.check_tokens(where, tensor)
        layers.append(tensor)
    return layers


def _tensor(array: Tensor | NDArray[Any]) -> Tensor:
    """Numpy arrays with negative strides have no tensor; their copy has."""
    return array if isinstance(array, Tensor) else torch.from_numpy(np.ascontiguousarray(array))


def _check_layers(layers: list[Tensor], others: list[Tensor] | None) -> None:
    first = layers[0]
    for index, layer in enumerate(layers):
        if layer.shape[:2] != first.shape[:2] or layer.device != first.device:
            raise InputError(
                f"tokens[{index}]: found {list(layer.shape)} on {layer.device}, wanted "
                f"[{first.shape[0]}, {first.shape[1]}, C] on {first.device} as in layer 0 (without "
                "the prefix)"
            )
    if others is None:
        if first.shape[0] < 2:
            raise InputError(
                "tokens: one image has no others to be scored against: give at least 2 images, "
                "or references"
            )
        return
    if len(others) != len(layers):
        raise InputError(f"references: found {len(others)} layers, wanted {len(layers)} as tokens")
    for index, (layer, other) in enumerate(zip(layers, others, strict=True)):
        wanted = [others[0].shape[0], *layer.shape[1:]]
        if list(other.shape) != wanted or other.device != layer.device:
            raise InputError(
                f"references[{index}]: found {list(other.shape)} on {other.device}, wanted "
                f"{wanted} on {layer.device} (without the prefix)"
            )


def _grid(grid: tuple[int, int] | None, patches: int, prefix_tokens: int) -> tuple[int, int]:
    if grid is not None:
        if not _is_size(grid) or grid[0] * grid[1] != patches:
            raise InputError(
                f"grid: found {grid}, wanted (H, W) with H * W = {patches}, the tokens an "
                f"image after {prefix_tokens} prefix tokens"
            )
        return int(grid[0]), int(grid[1])
    side = math.isqrt(patches)
    if side * side != patches:
        hint = next(
            (
                f"; with prefix_tokens={prefix_tokens + extra} they would be {s} x {s}"
                for extra in (1, 2, 5)
                if (s := math.isqrt(max(patches - extra, 0))) ** 2 == patches - extra and s > 0
            ),
            "",
        )
        raise InputError(f"grid: {patches} patches are no square, give grid=(H, W){hint}")
    return side, side


def _image_size(image_size: int | tuple[int, int] | None, grid: tuple[int, int]) -> tuple[int, int]:
    if image_size is None:
        return grid
    size = (image_size, image_size) if isinstance(image_size, int | np.integer) else image_size
    if not _is_size(size):
        raise InputError(f"image_size: found {image_size}, wanted an int or (h, w), 1 or more")
    return int(size[0]), int(size[1])


def _is_size(size: object) -> TypeGuard[tuple[int, int]]:
    return (
        isinstance(size, Sequence)
        and len(size) == 2
        and all(isinstance(side, int | np.integer) and side >= 1 for side in size)
    )


def _class_tokens(cls_tokens: Tensor | NDArray[Any], layer: Tensor) -> Tensor:
    classes = _tensor(cls_tokens)
    if classes.ndim != 2 or classes.shape[0] != layer.shape[0] or not classes.is_floating_point():
        raise InputError(
            f"cls_tokens: found {ops.describe(classes)}, wanted a float [{layer.shape[0]}, D]"
        )
    ops.check_finite("cls_tokens", classes)
    return classes.to(layer.device)


@contextmanager
def _reporter(progress: bool | Progress) -> Iterator[Progress]:
    """A progress function: the caller's, a bar on standard error, or nothing."""
    if callable(progress):
        yield progress
    elif not progress:
        yield lambda done, total: None
    else:
        with stage_bars() as bars:
            yield lambda done, total: bars("scoring", done, total)
