"""Checks of arguments that several modules share: each raises InputError naming what it found."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from .errors import InputError

PRECISIONS = ("exact", "fast")


def describe(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


def check_tokens(name: str, tensor: Tensor) -> None:
    """Raise InputError unless `tensor` is a finite float [N, P, C] with no empty side."""
    if not isinstance(tensor, Tensor):
        raise InputError(f"{name}: found {type(tensor).__name__}, wanted a tensor [N, P, C]")
    if tensor.ndim != 3 or 0 in tensor.shape or not tensor.is_floating_point():
        raise InputError(f"{name}: found {describe(tensor)}, wanted a float [N, P, C]")
    check_finite(name, tensor)


def check_finite(name: str, tensor: Tensor) -> None:
    """Raise InputError that names the first image of `tensor` [N, ...] with a NaN or Inf."""
    low, high = torch.aminmax(tensor)  # NaN propagates
    if math.isfinite(low) and math.isfinite(high):
        return
    finite = [bool(torch.isfinite(image).all()) for image in tensor]
    bad = [i for i, fine in enumerate(finite) if not fine]
    kind = "NaN" if bool(torch.isnan(tensor[bad[0]]).any()) else "Inf"
    more = f" (and {len(bad) - 1} more images)" if len(bad) > 1 else ""
    raise InputError(f"{name}: image {bad[0]} holds {kind}{more}; every value must be finite")


def check_degrees(degrees: Sequence[int]) -> None:
    if not _whole(degrees) or any(r % 2 == 0 for r in degrees):
        raise InputError(f"degrees: found {_shown(degrees)}, wanted odd positive whole numbers")


def check_topmin(topmin: tuple[float, float]) -> None:
    if (
        not isinstance(topmin, Sequence)
        or len(topmin) != 2
        or not all(
            isinstance(b, int | float | np.number) and math.isfinite(b) and b >= 0 for b in topmin
        )
    ):
        raise InputError(f"topmin: found {topmin}, wanted two bounds of 0 or more")


def check_neighbors(neighbors: Sequence[int]) -> None:
    if not _whole(neighbors):
        raise InputError(f"neighbors: found {_shown(neighbors)}, wanted positive whole numbers")


def _whole(values: object) -> bool:
    """Whether `values` is a non-empty sequence of whole numbers from 1 on."""
    return (
        isinstance(values, Sequence)
        and len(values) > 0
        and all(isinstance(value, int | np.integer) and value >= 1 for value in values)
    )


def _shown(values: object) -> object:
    return list(values) if isinstance(values, Sequence) else values


def check_settings(
    degrees: Sequence[int],
    topmin: tuple[float, float],
    neighbors: Sequence[int],
    precision: str,
    memory_limit: int | None,
) -> None:
    """Raise InputError for any wrong setting of `score_batch`, before work that may take long."""
    check_degrees(degrees)
    check_topmin(topmin)
    check_neighbors(neighbors)
    if precision not in PRECISIONS:
        raise InputError(f"precision: found {precision!r}, wanted one of {', '.join(PRECISIONS)}")
    if memory_limit is not None and not (isinstance(memory_limit, int) and memory_limit > 0):
        raise InputError(f"memory_limit: found {memory_limit!r}, wanted whole bytes, 1 or more")


def check_lists(lists: Tensor, images: int, others: int, *, own: bool) -> None:
    """Raise InputError unless lists [images, K] are ascending rows of other images."""
    if lists.ndim != 2 or lists.shape[0] != images or lists.shape[1] == 0:
        raise InputError(f"lists: found {describe(lists)}, wanted [{images}, K]")
    within = bool((lists >= 0).all()) and bool((lists < others).all())
    itself = own and bool((lists == torch.arange(images, device=lists.device)[:, None]).any())
    if not within or itself or not bool((lists.diff(dim=1) > 0).all()):
        raise InputError(
            f"lists: every row must name other images, 0 to {others - 1}, in ascending order"
        )
