"""The rounding with which the certified search on a GPU should be quickest.

The costs are those of an H100: of the CUDA kernels as measured, of Triton's by the data sheet. Only
their ratios matter, and only to speed. All estimates are made on the device; their results come to
the host in one copy.
"""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from ..rounded_images import (
    UNIT,
    RoundingSpace,
    basis_errors,
    centred_sample,
    error_factor,
    fit_scale,
    hadamard,
    padded,
    principal_directions,
    second_order,
)
from .cuda_kernels import cuda_kernels

_RECOMPUTED = 0.4  # share of the images of a patch whose candidates are recomputed
_PROJECTION = 5e-4  # error of a projected row, a share of its norm
_STANDS, _REMEMBERED = 2, 32  # searches that a choice stands for, and shapes


@dataclass(frozen=True)
class Costs:
    """Seconds of a search by a family of kernels.

    operation: in 16 bits. epilogue: of an entry. byte: of a gathered row. passes: over the entries
    of a search in a subspace.
    """

    operation: float
    epilogue: float
    byte: float
    passes: float


# Two thirds of the peak, 16 operations an entry of the epilogue, gathers through L2.
TRITON = Costs(1 / 0.65e15, 16 / 28e12, 1 / 2.5e12, passes=2.0)
# The second pass of these multiplies a fifth of the entries (docs/gpu.md).
CUDA = Costs(1 / 0.78e15, 2.8e-13, 1 / 4.5e12, passes=1.2)


@dataclass(frozen=True)
class Option:
    """Rows of `dtype` in `size` principal components, or in all channels where that is None."""

    dtype: torch.dtype
    size: int | None


# By shape: the kind of the last search's space, and for how many searches more it stands.
_earlier: dict[Hashable, tuple[Option, int]] = {}


@dataclass(frozen=True)
class _Sample:
    """Centred rows [R, C]: the sample that spaces are fitted to, then queries, then images.

    truth: [queries, images], the distances of the queries to the nearest patch of each image.
    """

    rows: Tensor
    fitted: int
    truth: Tensor

    @staticmethod
    def of(centred: Tensor, query: Tensor, images: Tensor) -> _Sample:
        """query [Q, C] and images [m, P, C] centred."""
        y = images.flatten(0, 1)
        squared = _squared(query, y).view(-1, *images.shape[:2]).amin(dim=2)
        return _Sample(torch.cat([centred, query, y]), centred.shape[0], squared.sqrt())


def choose_space(
    z: Tensor,
    references: Tensor,
    symmetric: bool,
    device: torch.device | None = None,
    int8_gain: float = 2.0,
    only: Option | None = None,
) -> RoundingSpace:
    """The space in which the search of z [N, P, C] in references [M, Q, C] should be quickest.

    For 64 patches and up to two reference images, the candidates that each space would leave are
    counted; the cost is the time of two passes over the pairs and of recomputing the candidates.

    symmetric: the references are z itself.
    device: where the rounded images will be; None means the device of z.
    int8_gain: how many times as fast an int8 product is as one in 16 bits.
    only: the kind of space, where it is known already; it is fitted all the same.
    """
    device = device or z.device
    query = z[0, :: max(1, z.shape[1] // 64)].to(device)
    chosen = [references.shape[0] - 1, references.shape[0] // 2]
    images = torch.stack(
        [references[each] for each in sorted(set(chosen)) if each > 0 or not symmetric]
    ).to(device)
    options = [only] if only else _options(z.shape[2], int8_gain)
    mean, centred = centred_sample(z, None if symmetric else references, device)
    sample = _Sample.of(centred, query.float() - mean, images.float() - mean)
    sizes = [option.size for option in options if option.size is not None]
    basis = principal_directions(centred, max(sizes)) if sizes else None
    inside = sample.rows[:, :0] if basis is None else sample.rows @ basis
    # The norms of the residuals by Pythagoras: near enough to compare spaces.
    outside = sample.rows.square().sum(1, keepdim=True) - inside.square().cumsum(1)
    outside = outside.clamp_min_(0).sqrt_()
    errors = iter([] if basis is None else basis_errors(basis, sizes))
    largest = centred.abs().amax()
    fits = [
        _try_option(option, sample, inside, outside, None if option.size is None else next(errors))
        for option in options
    ]
    *figures, (entry, *_) = torch.stack([*fits, largest.expand(4)]).tolist()
    costs = TRITON if cuda_kernels(device) is None else CUDA
    best, best_cost = 0, math.inf
    for index, (option, figure) in enumerate(zip(options, figures, strict=True)):
        cost = _cost(option, figure[0], references.shape[1], z.shape[2], int8_gain, costs)
        if cost < best_cost:
            best, best_cost = index, cost
    option, (_, scale, centre, error) = options[best], figures[best]
    if basis is None or option.size is None:
        return RoundingSpace(
            mean, None, option.dtype, scale, option.dtype == torch.int8, largest=entry
        )
    return RoundingSpace(
        mean=mean,
        basis=basis[:, : option.size].contiguous(),
        dtype=option.dtype,
        scale=scale,
        spread=option.dtype == torch.int8,
        basis_error=error * (1 + UNIT) + second_order(z.shape[2], option.size),
        residual_centre=centre,
        largest=entry,
    )


def choose_like_before(
    z: Tensor, references: Tensor, symmetric: bool, device: torch.device, int8_gain: float
) -> RoundingSpace:
    """`choose_space`, whose choice of a kind stands for the next two searches of the same shape.

    The degrees of a layer follow one another, and the choice decides the speed alone. To compare
    the kinds takes longer than to fit the space of one: 10 ms beside 4 on an H100.
    """
    key = (z.shape, references.shape, symmetric, device, int8_gain)
    option, left = _earlier.pop(key, (None, 0))
    space = choose_space(z, references, symmetric, device, int8_gain, option if left else None)
    if len(_earlier) >= _REMEMBERED:
        _earlier.clear()
    size = None if space.basis is None else space.basis.shape[1]
    _earlier[key] = Option(space.dtype, size), left - 1 if left else _STANDS
    return space


def _options(channels: int, int8_gain: float) -> list[Option]:
    """The fast type in 64, 128 or 256 channels (one of them the residual's norm), then in all.

    The fast type is int8 where it gains anything, and all channels are tried in int8 and float16.
    float16 and not bfloat16: both run at one rate, float16 has three bits more, hence an eighth of
    the rounding error, and its range suffices, since the scale makes the largest entry 1.
    """
    low = torch.int8 if int8_gain > 1 else torch.float16
    sizes = [size - 1 for size in (64, 128, 256) if 2 * size <= channels]
    return [
        *(Option(low, size) for size in sizes),
        Option(torch.int8, None),
        Option(torch.float16, None),
    ]


def _cost(
    option: Option, survivors: float, patches: int, channels: int, int8_gain: float, costs: Costs
) -> float:
    """Seconds a (patch, image): the passes over all pairs, and the candidates that are left.

    All channels are searched twice by Triton's kernels. In a subspace float16 rows of all channels
    exclude nearly all candidates.
    """
    passes, gathered = costs.passes, 4 * channels
    if option.size is None:
        costs, passes, gathered = TRITON, TRITON.passes, 8 * channels
    depth = padded(channels if option.size is None else option.size + 1)
    operation = costs.operation / (int8_gain if option.dtype == torch.int8 else 1)
    cost = passes * patches * (2 * depth * operation + costs.epilogue)
    return cost + _RECOMPUTED * survivors * gathered * costs.byte


def _try_option(
    option: Option,
    sample: _Sample,
    inside: Tensor,
    outside: Tensor,
    basis_error: Tensor | None,
) -> Tensor:
    """Survivors, scale, centre and basis error of a space: [4] float32 on the device.

    inside: [R, m], the components of the sample's rows.
    outside: [R, m], the norms of the residuals of the first 1 to m components.
    """
    fitted, queries = sample.fitted, sample.truth.shape[0]
    error = centre = sample.rows.new_zeros(())
    rows = sample.rows
    if option.size is not None and basis_error is not None:
        residual, error = outside[:, option.size - 1], basis_error
        centre = residual[:fitted].mean()
        rows = torch.cat([inside[:, : option.size], (residual - centre)[:, None]], dim=1)
    depth = padded(rows.shape[1])
    if option.dtype == torch.int8:
        rows = torch.nn.functional.pad(rows, (0, depth - rows.shape[1]))
        block = depth & -depth
        rows = (rows.view(-1, block) @ _rotation(block, rows.device)).view(-1, depth)
    scale = fit_scale(rows[:fitted], option.dtype)
    scaled = rows[fitted:] / scale
    values = scaled.round().clamp_(-127, 127)
    if option.dtype != torch.int8:
        values = scaled.to(option.dtype).float()
    norms = torch.linalg.vector_norm(scaled, dim=1)
    lost = torch.linalg.vector_norm(scaled - values, dim=1)
    lost += (UNIT if option.size is None else _PROJECTION) * norms
    largest = norms.square().amax()
    slack = 4 * (error_factor(option.dtype, depth, 0.0) + 4 * error) * largest
    x, y = values[:queries], values[queries:]
    lower = (_squared(x, y) - slack.float()).clamp_min_(0).sqrt_()
    lower = lower.view(queries, sample.truth.shape[1], -1)
    lower -= lost[:queries, None, None]
    lower -= lost[queries:].view(lower.shape[1:]).amax(dim=1)[None, :, None]
    left = (lower <= (sample.truth / scale)[:, :, None]).sum() / (lower.shape[0] * lower.shape[1])
    return torch.stack([left, scale, centre, error.float()])


def _squared(x: Tensor, y: Tensor) -> Tensor:
    """Squared distances of x [Q, C] and y [R, C] -> [Q, R], by one product."""
    squared = torch.addmm(x.square().sum(1)[:, None] + y.square().sum(1), x, y.T, alpha=-2)
    return squared.clamp_min_(0)


@lru_cache(maxsize=16)
def _rotation(block: int, device: torch.device) -> Tensor:
    """The matrix of `hadamard` on rows of `block` entries, a power of two."""
    return hadamard(torch.eye(block, dtype=torch.float32, device="cpu")).to(device)
