"""Arguments of the scoring functions: patch tokens of the layers, grids, sizes, class tokens."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeGuard

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..checks import check_finite, check_kind, check_tokens, describe
from ..errors import InputError, MuscFastWarning
from ..scratch import require_memory
from ..settings import whole_number
from .token_files import open_layer

_IMAGES = "images are scored by MuSc().score(images)"
_COLOURS, _SIDE = (1, 3, 4), 32  # channels of a picture; pixels of its height or width, at least

Path = str | os.PathLike[str]
Tokens = Tensor | NDArray[Any] | Path | Sequence[Tensor] | Sequence[NDArray[Any]] | Sequence[Path]


def token_layers(name: str, tokens: Tokens, prefix_tokens: int) -> list[Tensor]:
    """The tokens as a list of [N, P, C] tensors, one a layer, without their prefix."""
    prefix_tokens = whole_number("prefix_tokens", prefix_tokens, 0)
    if isinstance(tokens, Tensor | np.ndarray | str | os.PathLike):
        if isinstance(tokens, Tensor | np.ndarray) and tokens.ndim == 4:
            raise InputError(
                f"{name}: found one array {list(tokens.shape)}, wanted [N, prefix + P, C] or a "
                f"sequence of them, one a layer; if the layers lie along the first axis, pass "
                f"list({name}); {_IMAGES}"
            )
        arrays: list[Any] = [tokens]
    elif isinstance(tokens, Iterable) and not isinstance(tokens, Mapping | bytes):
        arrays = list(tokens)
    else:
        raise InputError(
            f"{name}: found {type(tokens).__name__}, wanted a tensor, an array, a path, or a "
            f"sequence of them, one a layer; {_IMAGES}"
        )
    if not arrays:
        raise InputError(f"{name}: found no layer, wanted at least one [N, prefix + P, C]")
    layers = []
    for index, array in enumerate(arrays):
        where = f"{name} (layer {index})"
        if isinstance(array, str | os.PathLike):
            array = open_layer(where, array)
        if not isinstance(array, Tensor | np.ndarray):
            raise InputError(
                f"{where}: found {type(array).__name__}, wanted a tensor or array; {_IMAGES}"
            )
        tensor = _tensor(where, array)
        check_kind(where, tensor)
        if tensor.ndim != 3:
            raise InputError(
                f"{where}: found {describe(tensor)}, wanted a float [N, prefix + P, C]; {_IMAGES}"
            )
        if tensor.shape[1] <= prefix_tokens:
            raise InputError(
                f"{where}: found {tensor.shape[1]} tokens an image, wanted more than the "
                f"{prefix_tokens} prefix tokens"
            )
        tensor = tensor[:, prefix_tokens:]
        check_tokens(where, tensor)
        layers.append(tensor)
    if not in_files(tokens) and any(_like_a_picture(layer) for layer in layers):
        warnings.warn(
            f"{name}: {list(layers[0].shape)} has the form of a picture, and is scored as tokens, "
            f"[N, P, C]; {_IMAGES}",
            MuscFastWarning,
            stacklevel=3,
        )
    return layers


def _like_a_picture(layer: Tensor) -> bool:
    """Whether [N, P, C] may be [height, width, colours], or [3, height, width] in 0..1."""
    if layer.shape[2] in _COLOURS:
        return min(layer.shape[:2]) >= _SIDE
    of_planes = len(layer) == 3 and min(layer.shape[1:]) >= _SIDE
    return of_planes and bool(layer.min() >= 0) and bool(layer.max() <= 1)


def in_files(tokens: Tokens) -> bool:
    """Whether any layer of `tokens` is a file."""
    if isinstance(tokens, str | os.PathLike):
        return True
    if isinstance(tokens, Tensor | np.ndarray):
        return False
    return isinstance(tokens, Iterable) and any(
        isinstance(layer, str | os.PathLike) for layer in tokens
    )


def _tensor(name: str, array: Tensor | NDArray[Any]) -> Tensor:
    """The tensor of an array.

    An array with negative strides, another byte order or long doubles is copied, for torch has
    none of these. Raises InputError where values are masked, or no numbers.
    """
    if isinstance(array, Tensor):
        return array
    if isinstance(array, np.ma.MaskedArray):
        if np.ma.is_masked(array):
            raise InputError(f"{name}: found masked values, which would count; fill or drop them")
        array = np.asarray(array.data)
    if array.dtype.kind == "f" and not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    if array.dtype == np.longdouble:
        array = array.astype(np.float64)
    try:
        return torch.from_numpy(np.ascontiguousarray(array))
    except TypeError:
        raise InputError(f"{name}: found an array of {array.dtype}, wanted floats") from None


def same_layers(layers: list[Tensor]) -> None:
    """Raise InputError unless all layers have the images, patches and device of the first."""
    first = layers[0]
    for index, layer in enumerate(layers):
        if layer.shape[:2] != first.shape[:2] or layer.device != first.device:
            raise InputError(
                f"tokens[{index}]: found {list(layer.shape)} on {layer.device}, wanted "
                f"[{first.shape[0]}, {first.shape[1]}, C] on {first.device} as in layer 0 (without "
                "the prefix)"
            )


def check_layers(layers: list[Tensor], others: list[Tensor] | None) -> None:
    """Raise InputError unless layers and references fit each other."""
    same_layers(layers)
    first = layers[0]
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


def grid_of(grid: tuple[int, int] | None, patches: int, prefix_tokens: int) -> tuple[int, int]:
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


def map_size(
    image_size: int | tuple[int, int] | None, grid: tuple[int, int], images: int = 1
) -> tuple[int, int]:
    """The (h, w) of the anomaly maps; InputError where those of so many images need more memory
    than is free.
    """
    if image_size is None:
        return grid
    size = (image_size, image_size) if isinstance(image_size, int | np.integer) else image_size
    if not _is_size(size):
        raise InputError(f"image_size: found {image_size}, wanted an int or (h, w), 1 or more")
    height, width = int(size[0]), int(size[1])
    require_memory(f"image_size {height} x {width}", 4 * images * height * width)
    return height, width


def _is_size(size: object) -> TypeGuard[tuple[int, int]]:
    return (
        isinstance(size, Sequence)
        and len(size) == 2
        and all(isinstance(side, int | np.integer) and side >= 1 for side in size)
    )


def class_tokens(cls_tokens: Tensor | NDArray[Any], layer: Tensor) -> Tensor:
    if not isinstance(cls_tokens, Tensor | np.ndarray):
        raise InputError(f"cls_tokens: found {type(cls_tokens).__name__}, wanted a float [N, D]")
    classes = _tensor("cls_tokens", cls_tokens)
    check_kind("cls_tokens", classes)
    if classes.ndim != 2 or classes.shape[0] != layer.shape[0] or 0 in classes.shape:
        raise InputError(
            f"cls_tokens: found {describe(classes)}, wanted a float [{layer.shape[0]}, D]"
        )
    check_finite("cls_tokens", classes)
    return classes.to(layer.device)
