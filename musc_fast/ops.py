"""The operators: validation, the choice of a backend, and nothing else.

Shapes: N images (queries), M reference images, P patches on an H x W grid, C channels. Tensors may
have any floating dtype, with values up to 1e15 in size; the backends cpu, torch and triton round
float64 to float32 first. Results are float32 on the device of the input. `backend` is "auto" or a
name from `musc_fast.backends`. Every wrong argument raises InputError with what was found and what
was wanted. Code that has checked its tensors already takes the operators of a backend itself
(`resolve(...).operators()`): here every value is looked at in each call.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from . import reference
from .backends.base import Operators
from .backends.registry import resolve
from .checks import LARGEST, check_finite, check_kind, check_lists, check_tokens, describe
from .errors import InputError
from .progress import Progress
from .settings import (
    SearchOptions,
    Window,
    check_degrees,
    check_neighbors,
    check_topmin,
    whole_number,
)

_FARTHEST = 1e30  # of distances and scores: float32 sums of millions are finite


@torch.no_grad()
def lnamd(tokens: Tensor, grid: tuple[int, int], degree: int, *, backend: str = "auto") -> Tensor:
    """Local neighbourhood aggregation (LNAMD, paper 3.1): tokens [N, P, C] -> Z [N, P, C].

    `degree` is the odd side of the neighbourhood. Rows of Z have norm 1 (or 0 for a zero vector).
    """
    return lnamd_all(tokens, grid, (degree,), backend=backend)[0]


@torch.no_grad()
def lnamd_all(
    tokens: Tensor, grid: tuple[int, int], degrees: Sequence[int], *, backend: str = "auto"
) -> list[Tensor]:
    """`lnamd` for several degrees at once, which costs little more than for one."""
    check_tokens("tokens", tokens)
    check_degrees(degrees)
    sized = isinstance(grid, Sequence) and len(grid) == 2
    if not sized or min(grid) < 1 or grid[0] * grid[1] != tokens.shape[1]:
        raise InputError(
            f"grid {grid!r} does not hold the {tokens.shape[1]} patches of tokens "
            f"{list(tokens.shape)}; wanted (H, W) with H * W = {tokens.shape[1]}"
        )
    height, width = grid
    operators = resolve(backend, tokens.device).operators()
    return operators.lnamd(tokens, (int(height), int(width)), tuple(degrees))


@torch.no_grad()
def patch_to_image(
    z: Tensor,
    references: Tensor | None = None,
    *,
    backend: str = "auto",
    precision: str = "exact",
    memory_limit: int | None = None,
    progress: Progress | None = None,
    window: Window | None = None,
) -> Tensor:
    """Distance of every patch to the nearest patch of every other image -> D [N, P, M].

    `references` [M, Q, C] are the other images; None means the batch itself (M = N), where the
    entry of an image with itself is +inf. `window` compares each patch with those near its own
    place alone; references then have the grid of z.
    """
    options = SearchOptions(precision, memory_limit, progress, window)
    operators = _checked_search(z, references, backend, window)
    return operators.patch_to_image(z, references, options)


@torch.no_grad()
def interval_mean(
    distances: Tensor, topmin: tuple[float, float] = (0.0, 0.3), *, backend: str = "auto"
) -> Tensor:
    """Mean of an interval of the sorted distances: D [N, P, M] -> [N, P].

    Bounds of `topmin` below 1 are fractions of the images that count, bounds of 1 or more are
    counts. +inf marks images that do not count; every patch must have the same number of them.
    """
    check_kind("distances", distances)
    if distances.ndim != 3 or 0 in distances.shape:
        raise InputError(f"distances: found {describe(distances)}, wanted a float [N, P, M]")
    check_topmin(topmin)
    low, high = torch.aminmax(torch.where(distances == math.inf, 0.0, distances))  # NaN propagates
    if not (math.isfinite(low) and math.isfinite(high)):
        raise InputError("distances: found NaN or -Inf; only +Inf may mark what does not count")
    if low < 0 or high > _FARTHEST:
        found = float(low if low < 0 else high)
        raise InputError(f"distances: found {found:g}, wanted 0 to {_FARTHEST:g}")
    counted = (distances < math.inf).sum(dim=2)
    count = int(counted[0, 0])
    if count == 0 or not bool((counted == count).all()):
        raise InputError(
            "distances: every patch needs the same number (at least 1) of finite entries, found "
            f"{int(counted.min())} to {int(counted.max())} of {distances.shape[2]}"
        )
    operators = resolve(backend, distances.device).operators()
    return operators.interval_mean(distances, *reference.interval(topmin, count))


@torch.no_grad()
def msm(
    z: Tensor,
    references: Tensor | None = None,
    topmin: tuple[float, float] = (0.0, 0.3),
    *,
    backend: str = "auto",
    precision: str = "exact",
    memory_limit: int | None = None,
    progress: Progress | None = None,
    window: Window | None = None,
) -> Tensor:
    """Mutual scoring (MSM, paper 3.2): `interval_mean(patch_to_image(z))`, fused -> [N, P].

    `precision="exact"`: distances within 1e-5 of the fp64 truth for L2-normalised z; `"fast"`: a
    low-precision search whose winners are recomputed. `memory_limit`: bytes that may be used
    beyond input and output (None: a share of what is free). `progress(done, total)` is called as
    the work goes on. `window`: as in `patch_to_image`.
    """
    options = SearchOptions(precision, memory_limit, progress, window)
    operators = _checked_search(z, references, backend, window)
    check_topmin(topmin)
    count = z.shape[0] - 1 if references is None else references.shape[0]
    return operators.msm(z, references, *reference.interval(topmin, count), options)


def msm_parts(
    z: Tensor,
    parts: Sequence[tuple[int, int]],
    references: Tensor | None = None,
    topmin: tuple[float, float] = (0.0, 0.3),
    *,
    lists: Tensor | None = None,
    backend: str = "auto",
    precision: str = "exact",
    memory_limit: int | None = None,
    progress: Progress | None = None,
    window: Window | None = None,
) -> Iterator[Tensor]:
    """`msm` in parts: for each (first, last) the scores of the images [first, last) -> [., P].

    Together they are `msm`, to the bit (with the reference backend, which keeps fp64 distances
    only within `msm`, to 1e-6); what the search prepares is prepared once. `lists` [N, K]
    int, ascending rows: the images (of z, or of the references) that each is scored against,
    instead of all others. `progress` starts anew with every part.
    """
    options = SearchOptions(precision, memory_limit, progress, window)
    operators = _checked_search(z, references, backend, window)
    check_topmin(topmin)
    others = z if references is None else references
    if lists is not None:
        check_lists(lists, z.shape[0], others.shape[0], own=references is None)
    if any(not 0 <= first < last <= z.shape[0] for first, last in parts):
        raise InputError(f"parts: found {list(parts)}, wanted 0 <= first < last <= {z.shape[0]}")
    count = others.shape[0] - (references is None) if lists is None else lists.shape[1]
    bounds = reference.interval(topmin, count)
    with torch.no_grad():
        yield from operators.msm_parts(z, references, *bounds, parts, options, lists)


@torch.no_grad()
def between(
    a: Tensor,
    b: Tensor,
    *,
    backend: str = "auto",
    precision: str = "exact",
    memory_limit: int | None = None,
    window: Window | None = None,
) -> tuple[Tensor, Tensor]:
    """`patch_to_image` both ways: a [N, P, C], b [M, Q, C] -> [N, P, M] and [M, Q, N].

    Where the backend can, for one pass over the pairs of images instead of two.
    """
    options = SearchOptions(precision, memory_limit, window=window)
    return _checked_search(a, b, backend, window).between(a, b, options)


@torch.no_grad()
def nearest_images(
    z: Tensor,
    references: Tensor | None = None,
    k: int = 1,
    *,
    backend: str = "auto",
    precision: str = "exact",
    memory_limit: int | None = None,
    progress: Progress | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """The k nearest images of every patch of z [N, P, C], by the distances of `patch_to_image`.

    Distances (float32, ascending), and as int64 indices the image and its patch that is nearest;
    each [N, P, k]. Equal distances are ordered by image; of equally near patches of an image any
    may be named. 1 <= k <= M, or N - 1 within a batch.
    """
    options = SearchOptions(precision, memory_limit, progress)
    operators = _checked_search(z, references, backend)
    count = z.shape[0] - 1 if references is None else references.shape[0]
    if not isinstance(k, int | np.integer) or not 1 <= k <= count:
        raise InputError(f"k: found {k!r}, wanted a whole number from 1 to {count}, the images")
    k = int(k)
    return operators.nearest_images(z, references, k, options)


class KeptReferences:
    """Up to `capacity` reference images of [P, C] whose operands are kept between queries.

    `put(slot, z)` replaces the image of a slot, or fills the next; `len` is how many there are.
    """

    def __init__(
        self,
        capacity: int,
        patches: int,
        channels: int,
        *,
        backend: str = "auto",
        device: torch.device | str = "cpu",
    ) -> None:
        capacity = whole_number("capacity", capacity, 1)
        patches = whole_number("patches", patches, 1)
        channels = whole_number("channels", channels, 1)
        device = torch.device(device)
        operators = resolve(backend, device).operators()
        self._shape, self._capacity = (patches, channels), capacity
        self._slots = operators.keep_references(capacity, patches, channels, device)
        self._lock = threading.Lock()  # one thread at a time puts or scores

    def __len__(self) -> int:
        return len(self._slots)

    def put(self, slot: int, z: Tensor) -> None:
        """Make z [P, C], finite, the image of `slot`."""
        check_kind("z", z)
        if tuple(z.shape) != self._shape or not 0 <= slot <= len(self) or slot == self._capacity:
            raise InputError(
                f"slot {slot} of {len(self)}: found {describe(z)}, wanted {list(self._shape)}"
            )
        check_finite("z", z[None], LARGEST)
        with self._lock:
            self._slots.put(int(slot), z)

    @torch.no_grad()
    def msm(
        self,
        z: Tensor,
        topmin: tuple[float, float] = (0.0, 0.3),
        *,
        precision: str = "exact",
        memory_limit: int | None = None,
        progress: Progress | None = None,
        window: Window | None = None,
    ) -> Tensor:
        """`ops.msm` of z [N, P, C] against the images held, to the bit -> [N, P]."""
        options = SearchOptions(precision, memory_limit, progress, window)
        check_tokens("z", z)
        _check_window(window, z, self._shape[0])
        check_topmin(topmin)
        if z.shape[2] != self._shape[1] or len(self) == 0:
            raise InputError(
                f"z: found {describe(z)}, wanted [N, P, {self._shape[1]}] and references to score "
                f"against (found {len(self)})"
            )
        with self._lock:
            return self._slots.msm(z, *reference.interval(topmin, len(self)), options)


@torch.no_grad()
def rscin(
    scores: Tensor,
    cls_tokens: Tensor,
    neighbors: Sequence[int] = (1, 2, 3),
    *,
    backend: str = "auto",
) -> Tensor:
    """Image scores smoothed over the nearest class tokens (RsCIN, paper 3.3): [N], [N, D] -> [N].

    Class tokens are L2-normalised here. Every backend shares the reference: it is N^2 work.
    """
    check_kind("scores", scores)
    check_kind("cls_tokens", cls_tokens)
    resolve(backend, scores.device)
    if scores.ndim != 1 or scores.shape[0] == 0:
        raise InputError(f"scores: found {describe(scores)}, wanted a float [N]")
    if cls_tokens.ndim != 2 or cls_tokens.shape[0] != scores.shape[0] or 0 in cls_tokens.shape:
        raise InputError(
            f"cls_tokens: found {describe(cls_tokens)}, wanted a float [{scores.shape[0]}, D]"
        )
    check_finite("scores", scores, _FARTHEST)
    check_finite("cls_tokens", cls_tokens)
    check_neighbors(neighbors)
    largest = cls_tokens.abs().amax(dim=1, keepdim=True).double()
    if not bool((largest > 0).all()):
        raise InputError(f"cls_tokens: the class token of image {int(largest.argmin())} is zero")
    normalised = cls_tokens.double() / largest  # whose squares neither vanish nor overflow
    normalised = normalised / torch.linalg.vector_norm(normalised, dim=1, keepdim=True)
    return reference.rscin(scores.double(), normalised, tuple(neighbors)).float()


def _check_window(window: Window | None, z: Tensor, patches: int) -> None:
    """InputError unless z and references with so many patches lie on the grid of the window."""
    if window is None:
        return
    if not isinstance(window, Window):
        raise InputError(f"window: found {window!r}, wanted a Window or None")
    height, width = window.grid
    for name, count in (("z", z.shape[1]), ("the references", patches)):
        if count != height * width:
            raise InputError(
                f"window: its grid {height} x {width} has {height * width} patches, {name} "
                f"{count}; matching near the own place needs one grid for both"
            )


def _checked_search(
    z: Tensor, references: Tensor | None, backend: str, window: Window | None = None
) -> Operators:
    """The operators for z [N, P, C] and references [M, Q, C]; InputError where they do not fit."""
    check_tokens("z", z)
    if references is None:
        if z.shape[0] < 2:
            raise InputError(
                "one image has no others to be scored against: give at least 2 images, or "
                "references"
            )
    else:
        check_tokens("references", references)
        if references.shape[2] != z.shape[2]:
            raise InputError(
                f"references: found {list(references.shape)}, wanted [M, Q, {z.shape[2]}], the "
                f"channels of z {list(z.shape)}"
            )
        if references.device != z.device:
            raise InputError(f"references lie on {references.device}, z on {z.device}")
    _check_window(window, z, (z if references is None else references).shape[1])
    return resolve(backend, z.device).operators()
