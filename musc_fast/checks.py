"""Checks of tensors that several modules share: each raises InputError naming what it found."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .errors import InputError

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
# Squares are summed in float32 on some backends; up to here the sums are finite.
LARGEST = 1e15


def describe(tensor: Tensor) -> str:
    """The dtype and shape of a tensor in a few words."""
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


def check_kind(name: str, tensor: Tensor) -> None:
    """Raise InputError unless `tensor` is dense, holds values, and has one of the dtypes FLOATS."""
    if not isinstance(tensor, Tensor):
        raise InputError(f"{name}: found {type(tensor).__name__}, wanted a tensor")
    if tensor.layout != torch.strided or tensor.is_nested:
        raise InputError(f"{name}: found a sparse or nested tensor, wanted a dense one")
    if tensor.device.type == "meta":
        raise InputError(f"{name}: found a tensor on the device meta, which holds no values")
    if tensor.dtype not in FLOATS:
        wanted = "float16, bfloat16, float32 or float64"
        raise InputError(f"{name}: found {describe(tensor)}, wanted a float: {wanted}")


def check_tokens(name: str, tensor: Tensor, largest: float = LARGEST) -> None:
    """Raise InputError unless `tensor` is a finite float [N, P, C] with no empty side.

    largest: the largest absolute value allowed.
    """
    check_kind(name, tensor)
    if tensor.ndim != 3 or 0 in tensor.shape:
        raise InputError(f"{name}: found {describe(tensor)}, wanted a float [N, P, C]")
    check_finite(name, tensor, largest)


def check_finite(name: str, tensor: Tensor, largest: float = math.inf) -> None:
    """Raise InputError that names the first image of `tensor` [N, ...] with a NaN, an Inf, or a
    value beyond `largest` in size.
    """
    low, high = (float(bound) for bound in torch.aminmax(tensor))  # NaN propagates
    if math.isfinite(low) and math.isfinite(high):
        if max(-low, high) > largest:
            image = next(i for i, each in enumerate(tensor) if bool((each.abs() > largest).any()))
            raise InputError(
                f"{name}: image {image} holds {float(tensor[image].abs().max()):g}; no value may "
                f"be larger than {largest:g}"
            )
        return
    finite = [bool(torch.isfinite(image).all()) for image in tensor]
    bad = [i for i, fine in enumerate(finite) if not fine]
    kind = "NaN" if bool(torch.isnan(tensor[bad[0]]).any()) else "Inf"
    more = f" (and {len(bad) - 1} more images)" if len(bad) > 1 else ""
    raise InputError(f"{name}: image {bad[0]} holds {kind}{more}; every value must be finite")


def check_lists(lists: Tensor, images: int, others: int, *, own: bool) -> None:
    """Raise InputError unless lists [images, K] are ascending rows of other images."""
    if lists.ndim != 2 or lists.shape[0] != images or lists.shape[1] == 0:
        raise InputError(f"lists: found {describe(lists)}, wanted [{images}, K]")
    within = bool((lists >= 0).all()) and bool((lists < others).all())
    places = torch.arange(images, dtype=torch.int64, device=lists.device)[:, None]
    itself = own and bool((lists == places).any())
    if not within or itself or not bool((lists.diff(dim=1) > 0).all()):
        raise InputError(
            f"lists: every row must name other images, 0 to {others - 1}, in ascending order"
        )
