"""Rounded operands of the search on tensor cores, and how far rounding can mislead it.

A row x becomes `step * values`, close to T(x - mean), where T keeps every distance (the identity
or a rotation) or loses little of it (principal components and the norm of what they leave out).
`rho` bounds what was lost on the way: with d the true distance of x and y and s the exact squared
distance of their rounded rows,

    sqrt(max(s - e, 0)) - rho_x - rho_y <= d,

where e also covers the arithmetic of the search (`Operands.error`). This is the certificate: a
candidate whose left side exceeds a distance already found cannot be nearest. Nothing here affects
a result, only how many candidates are left to recompute.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

UNIT = 2.0**-24  # the rounding unit of float32
_INT8 = 127
_SAMPLE_IMAGES = 64
_GROUP_BYTES = 64 << 20  # rows rounded at a time


@contextmanager
def ieee_products() -> Iterator[None]:
    """Matrix products of float32 in float32, whatever the process allows elsewhere (TF32, bf16)."""
    settings: list[Any] = [torch.backends.cuda.matmul, torch.backends.mkldnn.matmul]  # type: ignore[attr-defined]
    before = [setting.fp32_precision for setting in settings]
    try:
        for setting in settings:
            setting.fp32_precision = "ieee"
        yield
    finally:
        for setting, value in zip(settings, before, strict=True):
            setting.fp32_precision = value


@dataclass(frozen=True)
class Operands:
    """The rounded rows of [N, P, C]: `step * values[n, p]` stands for row p of image n.

    values: [N, P, K], float32, float16, bfloat16 or int8; K is a multiple of 16 except for float32.
    norms: [N, P], the squared norms of `values`: float32, or int32 (exact) for int8.
    rho: [N, P] float32, see above. tail: [N, P] float32, what the values hold of a row only as a
    norm (0 where they hold all of it): upper bounds need it.
    basis_error: |B^T B - I| of the principal components and what their rounding adds to second
    order, 0 without. With w = B^T x off by delta and r = x - B w,
        |x - y|^2 >= |dw|^2 + |dr|^2 - 3 |B^T B - I| |dw|^2 - 2 |dw| |d delta|.
    """

    values: Tensor
    norms: Tensor
    rho: Tensor
    tail: Tensor
    step: float
    basis_error: float = 0.0

    @property
    def exact(self) -> bool:
        """Whether the search adds these without rounding."""
        return self.values.dtype == torch.int8

    def error(self, largest: float) -> float:
        """e for rows whose norms (in true units) are at most `largest`.

        |x|^2 + |y|^2 - 2xy over K channels in float32, whatever the order of the sum, is off by at
        most (K + 3) u (|x| + |y|)^2. Tensor cores align and truncate where the standard rounds;
        four times that covers them.
        """
        reach = (2 * largest) ** 2
        factor = 1 if self.values.dtype == torch.float32 else 4
        rounding = 0.0 if self.exact else factor * (self.values.shape[2] + 3) * UNIT
        return (rounding + 4 * self.basis_error) * reach

    def largest(self) -> float:
        """The largest norm of a rounded row, in true units."""
        return self.step * math.sqrt(float(self.norms.max()))

    def images(self, first: int, last: int) -> Operands:
        """The operands of images first to last - 1, sharing memory."""
        part = slice(first, last)
        return Operands(
            self.values[part],
            self.norms[part],
            self.rho[part],
            self.tail[part],
            self.step,
            self.basis_error,
        )


@dataclass(frozen=True)
class Space:
    """The map T and the rounding, fitted to a sample of the rows; equal for both sides.

    mean [C]; basis [C, m] or None (all channels). dtype float32, float16 or int8. `spread`: rotate
    by Hadamard blocks, which spreads outlier channels before int8.
    """

    mean: Tensor
    basis: Tensor | None
    dtype: torch.dtype
    step: float
    spread: bool
    basis_error: float = 0.0
    tail_centre: float = 0.0

    @property
    def depth(self) -> int:
        """K, the channels of the values: padded to a multiple of 32 but for float32."""
        channels = self.mean.shape[0] if self.basis is None else self.basis.shape[1] + 1
        return channels if self.dtype == torch.float32 else -(-channels // 32) * 32

    def apply(self, z: Tensor, rounding: Rounding | None = None) -> Operands:
        """Round the rows of z [N, P, C], some images at a time, on the device of the space.

        `rounding`: in place of `round_rows`, with the same arguments and results.
        """
        n, p, c = z.shape
        device = self.mean.device
        group = max(1, _GROUP_BYTES // (4 * p * c))
        found: list[Tensor] = []
        for first in range(0, n, group):
            rows = z[first : first + group].to(device).reshape(-1, c)
            parts = (rounding or round_rows)(self, rows)
            if not found:
                found = [part.new_empty((n, p, *part.shape[1:])) for part in parts]
            for whole, part in zip(found, parts, strict=True):
                whole[first : first + group] = part.view(-1, p, *part.shape[1:])
        values, norms, rho, tail = found
        return Operands(values, norms, rho, tail, self.step, self.basis_error)


Rounding = Callable[[Space, Tensor], tuple[Tensor, Tensor, Tensor, Tensor]]


def fit_space(
    z: Tensor,
    references: Tensor | None,
    dtype: torch.dtype,
    channels: int | None = None,
    device: torch.device | None = None,
) -> Space:
    """The space for searching z [N, P, C] in itself or in references [M, Q, C].

    `channels`: keep that many principal components (and a tail norm); None keeps all C. `device`:
    where the operands will be, if not with z.
    """
    mean, centred = _centred_sample(z, references, device or z.device)
    basis = None
    if channels is not None and channels < z.shape[2]:
        basis = principal_directions(centred, channels)
    return _fit(mean, centred, dtype, basis)


def _centred_sample(
    z: Tensor, references: Tensor | None, device: torch.device
) -> tuple[Tensor, Tensor]:
    """The mean [C] and the centred rows [R, C] of a sample, float32 on `device`."""
    sides = [z] if references is None else [z, references]
    sample = torch.cat([_sample(side) for side in sides]).to(device)
    mean = sample.mean(0)
    return mean, sample - mean


def _fit(mean: Tensor, centred: Tensor, dtype: torch.dtype, basis: Tensor | None) -> Space:
    error = centre = 0.0
    if basis is not None:
        gram = basis.double().T @ basis.double()
        error = float(torch.linalg.matrix_norm(gram - torch.eye(basis.shape[1]).to(gram)))
        # B^T x is off by up to C u sqrt(m) |x|: to first order in rho, to second order here.
        error += (basis.shape[0] * UNIT) ** 2 * basis.shape[1]
        # The same for all rows: takes no part in differences.
        centre = float(torch.linalg.vector_norm(centred - centred @ basis @ basis.T, dim=1).mean())
    space = Space(mean, basis, dtype, 1.0, dtype == torch.int8, error, centre)
    rows = _mapped(space, centred)[0]
    largest = float(rows.abs().max())
    if dtype == torch.float32 or largest < 1e-30:
        return space
    # float16: the largest entry becomes 1 (up to the sample), far from overflow and underflow.
    step = _int8_step(rows, largest) if dtype == torch.int8 else largest
    return replace(space, step=step)


def choose_space(
    z: Tensor,
    references: Tensor,
    symmetric: bool,
    device: torch.device | None = None,
    int8_gain: float = 2.0,
) -> Space:
    """The space in which the certified search is expected to be quickest: int8 or float16.

    For 64 patches and up to two reference images it counts the candidates that each space would
    leave, and adds the time of two passes over the pairs and of recomputing those candidates.
    `int8_gain`: int8 operations in the time of one in 16 bits.
    """
    device = device or z.device
    query = z[:1, :: max(1, z.shape[1] // 64)].to(device)
    chosen = [references.shape[0] - 1, references.shape[0] // 2]
    images = references[sorted({each for each in chosen if each > 0 or not symmetric})].to(device)
    truth = torch.stack([_nearest(query[0], image) for image in images.float()], dim=1)
    options = _options(z.shape[2], torch.int8 if int8_gain > 1 else torch.float16)
    mean, centred = _centred_sample(z, None if symmetric else references, device)
    sizes = [channels for _, channels in options if channels is not None]
    basis = principal_directions(centred, max(sizes)) if sizes else None
    best, best_cost = None, math.inf
    for dtype, channels in options:
        part = None if channels is None or basis is None else basis[:, :channels].contiguous()
        space = _fit(mean, centred, dtype, part)
        x, y = space.apply(query), space.apply(images)
        survivors = _survivors(x, y, truth)
        depth = x.values.shape[2]
        operation = _OPERATION / (int8_gain if dtype == torch.int8 else 1)
        cost = 2 * references.shape[1] * (2 * depth * operation + _EPILOGUE)
        cost += _RECOMPUTED * survivors * 8 * z.shape[2] * _BYTE
        if cost < best_cost:
            best, best_cost = space, cost
    assert best is not None
    return best


# Seconds on an H100 from its data sheet (two thirds of the peak; 16 operations an entry of the
# epilogue; gathers through L2). Only their ratios matter, and only to speed.
_OPERATION = 1 / 0.65e15  # in 16 bits
_EPILOGUE = 16 / 28e12
_BYTE = 1 / 2.5e12
_RECOMPUTED = 0.4  # of the images of a patch


def _options(channels: int, low: torch.dtype) -> list[tuple[torch.dtype, int | None]]:
    """`low` in 64, 128 or 256 channels (one of them the tail), int8 and float16 in all.

    float16 and not bfloat16: both run at one rate, float16 has three bits more, hence an eighth of
    rho, and its range is no matter, since the step makes the largest entry 1.
    """
    sizes = [size - 1 for size in (64, 128, 256) if 2 * size <= channels]
    return [*((low, size) for size in sizes), (torch.int8, None), (torch.float16, None)]


def _nearest(x: Tensor, image: Tensor) -> Tensor:
    """Distance of rows x [R, C] to the nearest of image [Q, C], by differences -> [R]."""
    pairs = torch.cdist(x.float(), image, compute_mode="donot_use_mm_for_euclid_dist")
    nearest: Tensor = pairs.amin(dim=1)
    return nearest


def _survivors(x: Operands, y: Operands, truth: Tensor) -> float:
    """Mean number of candidates of (row, image) that the bound leaves; truth [R, images]."""
    values = y.values.float().flatten(0, 1)
    squared = torch.cdist(x.values[0].double(), values.double()).square() * x.step**2
    error = x.error(max(x.largest(), y.largest()))
    lower = (squared - error).clamp_min(0).sqrt().view(-1, *y.rho.shape)
    lower = lower - x.rho[0, :, None, None] - y.rho.amax(dim=1)[None, :, None]
    return float((lower <= truth[:, :, None]).sum(dim=2).double().mean())


def principal_directions(centred: Tensor, count: int) -> Tensor:
    """About the first `count` principal directions of [rows, C], as columns [C, count] float32.

    A randomised range finder (Halko, Martinsson, Tropp 2011), two power iterations. Any basis is
    valid for the search; a better one leaves fewer candidates.
    """
    generator = torch.Generator().manual_seed(0)
    basis = torch.randn(centred.shape[1], count, generator=generator).to(centred)
    for _ in range(3):
        basis = torch.linalg.qr(basis).Q
        basis = centred.T @ (centred @ basis)
        basis = basis / basis.abs().max().clamp_min(1e-30)
    basis = torch.linalg.qr(basis).Q
    inside = (centred @ basis).double()
    _, vectors = torch.linalg.eigh(inside.T @ inside)
    ordered = basis.double() @ vectors.flip(1)
    # Once more, so that |B^T B - I| (it widens the bound) is that of rounding to float32 alone.
    orthonormal: Tensor = torch.linalg.qr(ordered).Q.float().contiguous()
    return orthonormal


def _sample(z: Tensor) -> Tensor:
    """About 4096 rows, spread evenly over images and patches -> [rows, C] float32."""
    images = z[:: max(1, z.shape[0] // _SAMPLE_IMAGES)]
    stride = max(1, images.shape[0] * images.shape[1] // 4096) | 1  # odd: out of step with grids
    rows = torch.arange(0, images.shape[0] * images.shape[1], stride, device=z.device)
    return images[rows // z.shape[1], rows % z.shape[1]].float()


def _int8_step(rows: Tensor, largest: float) -> float:
    """The int8 step that keeps rounding (and clipping) error small."""
    best, best_error = largest / _INT8, math.inf
    for share in (1.0, 0.8, 0.65, 0.5, 0.4):
        step = largest * share / _INT8
        error = (rows - step * (rows / step).round().clamp(-_INT8, _INT8)).norm(dim=1)
        cost = float(error.mean() + 0.5 * error.max())
        if cost < best_error:
            best, best_error = step, cost
    return best


def hadamard(rows: Tensor) -> Tensor:
    """Rows [R, K] rotated by Hadamard matrices on blocks of the largest power of 2 dividing K.

    log2(block) stages of sums and differences, each off by at most u of the norm.
    """
    count, channels = rows.shape
    block = channels & -channels
    half = 1
    while half < block:
        pairs = rows.view(count, channels // (2 * half), 2, half)
        rows = torch.stack((pairs[:, :, 0] + pairs[:, :, 1], pairs[:, :, 0] - pairs[:, :, 1]), 2)
        rows = rows.view(count, channels)
        half *= 2
    # 2^(-k/2): a power of 2 wherever the block is a power of 4, otherwise one more rounding.
    return rows * float(block**-0.5)


def _mapped(space: Space, centred: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """T of the rows [R, C] -> rows [R, K], their tail norms and the error's bound, [R] each."""
    norms = torch.linalg.vector_norm(centred, dim=1)
    # Subtracting the mean and summing the norm itself: relative errors of u and C u / 2.
    lost = 4 * UNIT * norms
    tail = torch.zeros_like(norms)
    rows = centred
    if space.basis is not None:
        rows, tail, lost = project(space.basis, space.tail_centre, centred)
    if rows.shape[1] < space.depth:
        rows = torch.nn.functional.pad(rows, (0, space.depth - rows.shape[1]))
    if space.spread:
        stages = int(math.log2(rows.shape[1] & -rows.shape[1])) + 2
        rows, lost = hadamard(rows), lost + stages * UNIT * norms
    return rows.contiguous(), tail, lost


def project(basis: Tensor, tail_centre: float, centred: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Centred rows [R, C] -> components and tail [R, m + 1], tail norms and lost norms [R]."""
    channels, size = basis.shape
    norms = torch.linalg.vector_norm(centred, dim=1)
    inside = centred @ basis
    tail = torch.linalg.vector_norm(torch.addmm(centred, inside, basis.T, alpha=-1), dim=1)
    # |fl(B^T x) - B^T x| <= C u | |B|^T |x| | <= C u sqrt(m) |x|, and again for the tail.
    lost = (4 + 3 * channels * math.sqrt(size)) * UNIT * norms
    return torch.cat([inside, tail[:, None] - tail_centre], dim=1), tail, lost


def round_rows(space: Space, rows: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Rows [R, C] -> values [R, K], norms, rho, tail, [R] each."""
    rows, tail, lost = _mapped(space, rows.float() - space.mean)
    if space.dtype == torch.float32:
        return rows, (rows * rows).sum(1), lost, tail
    scaled = rows / space.step
    if space.dtype == torch.int8:
        values = scaled.round().clamp(-_INT8, _INT8).to(torch.int8)
        norms = values.int().square().sum(1, dtype=torch.int32)
    else:
        values = scaled.clamp(-60000, 60000).to(space.dtype)
        norms = values.float().square().sum(1)
    left = torch.linalg.vector_norm(rows - values.float() * space.step, dim=1)
    # The norm of the difference was itself rounded: C u relative is ample, and a little of rows.
    rho = (
        left * (1 + rows.shape[1] * UNIT) + lost + 2 * UNIT * torch.linalg.vector_norm(rows, dim=1)
    )
    return values, norms, rho, tail
