"""Patches that do not count: what they hold has no say anywhere, and they score 0.

Neither needs a kernel of its own, so both hold on every backend.

Before LNAMD such a patch is given the mean value of the patches of its image that count. LayerNorm
makes zeros of it, and zeros do not turn the mean of a neighbourhood, whose length is then taken to
1: the patches that count are pooled among themselves. SNAMD has no LayerNorm, and is given zeros.

After LNAMD it is given the vector of another patch of its image that counts. A vector that an image
holds twice is no nearer to anything than once, so every distance to the image is that to its
patches that count, to the bit.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..checks import describe
from ..errors import InputError
from ..settings import ScoringSettings

Valid = Tensor | NDArray[np.bool_]


def valid_patches(name: str, valid: Valid | None, like: Tensor) -> Tensor | None:
    """Which patches count, [N, P] bool on the device of the tokens `like` [N, P, C]; None: all.

    Raises InputError where `valid` is something else, or no patch of an image counts.
    """
    if valid is None:
        return None
    found: Any = torch.from_numpy(valid) if isinstance(valid, np.ndarray) else valid
    if not isinstance(found, Tensor) or found.dtype != torch.bool or found.shape != like.shape[:2]:
        shown = describe(found) if isinstance(found, Tensor) else type(found).__name__
        raise InputError(f"{name}: found {shown}, wanted bool {list(like.shape[:2])}, [N, P]")
    empty = (~found.any(dim=1)).nonzero().flatten().tolist()
    if empty:
        raise InputError(
            f"{name}: no patch of image {empty[0]} counts, so it can be neither scored nor scored "
            "against; leave the image out, or let some of its patches count"
        )
    return None if bool(found.all()) else found.to(like.device)


def valid_references(valid: Valid | None, references: list[Tensor] | None) -> Tensor | None:
    """`valid_patches` of the references; InputError where there are none."""
    if references is None:
        if valid is not None:
            raise InputError("reference_valid: given without references; leave it out")
        return None
    return valid_patches("reference_valid", valid, references[0])


def emptied(layer: Tensor, valid: Tensor | None, *, mean: bool) -> Tensor:
    """Tokens [N, P, C] in which patches that do not count hold no picture: a copy where any is.

    mean: they hold the mean of the others, which LayerNorm makes zeros of; False: zeros.
    """
    if valid is None:
        return layer
    short = layer.dtype in (torch.float16, torch.bfloat16)  # too short for the mean
    filled = layer.float() if short else layer.clone()
    for image, counts in zip(filled, valid, strict=True):
        if not bool(counts.all()):
            image[~counts] = image[counts].double().mean().to(image.dtype) if mean else 0.0
    return filled


def check_search_takes(settings: ScoringSettings, valid: Tensor | None) -> None:
    """Raise InputError where patches do not count and the search looks near their place alone.

    What such a patch is overwritten with may come from any place of its image.
    """
    if valid is not None and settings.tiles is not None:
        raise InputError(
            "tiles: with them patches are compared near their own place alone, for which all have "
            "to count; leave out the tiles, or what leaves patches out (ignore, align, valid)"
        )


def overwrite(z: Tensor, valid: Tensor | None) -> None:
    """Give each patch of z [N, P, C] that does not count the vector of one of its image that does.

    The patches that count take turns, so that none is held much more often than another.
    """
    if valid is None:
        return
    for image, counts in zip(z, valid, strict=True):
        sources, ignored = (each.nonzero().flatten() for each in (counts, ~counts))
        if len(ignored):
            places = torch.arange(len(ignored), dtype=torch.int64, device=ignored.device)
            turns = places % len(sources)
            image[ignored] = image[sources[turns]]


def without_ignored(scores: Tensor, valid: Tensor | None) -> Tensor:
    """Patch scores [N, P], those of patches that do not count 0."""
    return scores if valid is None else scores.masked_fill(~valid, 0.0)
