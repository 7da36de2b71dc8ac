"""What a bank is given besides tokens: where they come from, names of images, known scores."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ..checks import describe
from ..errors import InputError


def json_source(source: Mapping[str, Any] | None) -> dict[str, Any]:
    """The source as `save` can write it; InputError where JSON cannot hold it."""
    try:
        found = json.loads(json.dumps({} if source is None else dict(source), allow_nan=False))
    except Exception as error:  # of whatever `dict` and JSON meet
        raise InputError(
            f"source: found {source!r}, wanted names with texts, numbers or lists of them ({error})"
        ) from None
    return dict(found)


def refuse_auto(place: object) -> None:
    """Raise InputError for the place "auto": a bank's images share one window from the start."""
    if place == "auto":
        raise InputError(
            'place: found "auto", but a bank keeps one window for all its images; give a number of '
            'places or "off" (scoring its good images with "auto" tells which)'
        )


def check_ids(ids: Sequence[str] | None, images: int, number: int) -> list[str]:
    """The names of images; InputError unless they are `images` texts.

    number: that of the first image, by which images without names are named.
    """
    given = isinstance(ids, Sequence) and not isinstance(ids, str | bytes)
    if ids is not None and not given:
        raise InputError(f"ids: found {ids!r}, wanted {images} strings, one an image")
    names = [f"image {number + k}" for k in range(images)] if ids is None else list(ids)
    if len(names) != images or not all(isinstance(name, str) for name in names):
        raise InputError(f"ids: found {len(names)}, wanted {images} strings, one an image")
    return names


def refuse_twice(ids: Sequence[str] | None, held: Collection[str]) -> None:
    """Raise InputError where an id is given twice, or is that of an image in the bank.

    held: the ids in the bank.
    """
    seen = set(held)
    for name in () if ids is None else ids:
        if name in seen:
            where = "in the bank already" if name in held else "given twice"
            raise InputError(f"ids: {name!r} is {where}; give each image an id of its own")
        seen.add(name)


def free_id(name: str, held: Collection[str]) -> str:
    """`name`, or "name (2)" and so on where `held` has it: a camera writes one name again."""
    found, count = name, 1
    while found in held:
        count += 1
        found = f"{name} ({count})"
    return found


def check_like_held(layers: Sequence[Tensor], held: Sequence[Tensor]) -> None:
    """Raise InputError unless layers [N, P, C] have the shape and kind of those held, if any are.

    held: [capacity, P, C] a layer.
    """
    for index, (layer, stored) in enumerate(zip(layers, held, strict=False)):
        same = layer.shape[1:] == stored.shape[1:] and layer.device == stored.device
        if not same or layer.dtype != stored.dtype:
            raise InputError(
                f"tokens (layer {index}): found {describe(layer)} on {layer.device}, the bank "
                f"holds {describe(stored[0])} an image on {stored.device}"
            )
    if held and len(layers) != len(held):
        raise InputError(f"tokens: found {len(layers)} layers, the bank holds {len(held)}")


def finite_scores(
    scores: Sequence[float] | Tensor | NDArray[Any], images: int
) -> list[float | None]:
    """Raw image scores as numbers; InputError unless they are `images` finite ones."""
    try:
        known = np.asarray(scores.cpu() if isinstance(scores, Tensor) else scores, dtype=np.float64)
    except (TypeError, ValueError):
        raise InputError(f"scores: found {scores!r}, wanted {images} numbers") from None
    if known.shape != (images,):
        raise InputError(f"scores: found {known.size}, wanted {images}, one an image")
    if not np.isfinite(known).all():
        raise InputError(f"scores: found {known.tolist()!r}, wanted finite numbers")
    return [float(score) for score in known]
