"""Rounded images for the search on tensor cores, and how far rounding can mislead the search.

A row x is rounded to `scale * values`, close to T(x - mean), where T keeps every distance (the
identity or a rotation) or loses little of it (principal components, and the norm of the residual
outside them). `rounding_error` bounds the norm of what a row lost. With d the true distance of x
and y, s the exact squared distance of their rounded rows, and rho their rounding errors,

    sqrt(max(s - e, 0)) - rho_x - rho_y <= d,

where e also covers the arithmetic of the search (`RoundedImages.error`). This is the certificate: a
candidate whose left side exceeds a distance already found cannot be nearest. Rounding affects no
result, only how many candidates must be recomputed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor

UNIT = 2.0**-24  # the rounding unit u of float32
_INT8 = 127
_SAMPLE_IMAGES = 64
_GROUP_BYTES = 64 << 20  # temporaries of the rows rounded at a time
_NOTHING = 1e-30  # sample entries up to here count as zeros
_SHARES = (1.0, 0.8, 0.65, 0.5, 0.4)  # of the largest entry: the int8 scales that are tried
_SCALED_ROWS = 1024  # that the int8 scale is fitted to
_STEPS = 4  # of the orthogonal iteration


def padded(channels: int) -> int:
    """The least multiple of 32 that is at least `channels`."""
    return -(-channels // 32) * 32


def error_factor(dtype: torch.dtype, depth: int, basis_error: float) -> float:
    """`RoundedImages.error_factor` for rows of `depth` values of `dtype`."""
    factor = 1 if dtype == torch.float32 else 4
    rounding = 0.0 if dtype == torch.int8 else factor * (depth + 3) * UNIT
    return rounding + 4 * basis_error


@dataclass(frozen=True)
class RoundedImages:
    """The rounded rows of [N, P, C]: `scale * values[n, p]` stands for row p of image n.

    values: [N, P, K], float32, float16, bfloat16 or int8; K is a multiple of 16 except for float32.
    norms: [N, P], the squared norms of `values`: float32, or int32 (exact) for int8.
    rounding_error: [N, P] float32, rho of the certificate above.
    residual_norm: [N, P] float32, norm of the part of a row outside the principal components, of
        which `values` hold the norm alone; 0 without components. Upper bounds need it.
    basis_error: |B^T B - I| of the principal components B and what their rounding adds to second
        order; 0 without. With w = B^T x off by delta and r = x - B w,
        |x - y|^2 >= |dw|^2 + |dr|^2 - 3 |B^T B - I| |dw|^2 - 2 |dw| |d delta|.
    """

    values: Tensor
    norms: Tensor
    rounding_error: Tensor
    residual_norm: Tensor
    scale: float
    basis_error: float = 0.0

    @property
    def exact(self) -> bool:
        """Whether the search adds products of `values` without rounding."""
        return self.values.dtype == torch.int8

    def error(self, largest: float) -> float:
        """e of the certificate, for rows whose norms (in true units) are at most `largest`.

        |x|^2 + |y|^2 - 2xy over K channels in float32, whatever the order of the sum, is off by at
        most (K + 3) u (|x| + |y|)^2. Tensor cores align and truncate where the standard rounds; a
        factor of four covers tensor cores.
        """
        return self.error_factor() * (2 * largest) ** 2

    def error_factor(self) -> float:
        """e divided by (|x| + |y|)^2."""
        return error_factor(self.values.dtype, self.values.shape[2], self.basis_error)

    def largest(self) -> float:
        """The largest norm of a rounded row, in true units."""
        return self.scale * math.sqrt(float(self.norms.max()))

    def images(self, first: int, last: int) -> RoundedImages:
        """Images first to last - 1, sharing memory."""
        if first == 0 and last == self.values.shape[0]:
            return self
        part = slice(first, last)
        return replace(
            self,
            values=self.values[part],
            norms=self.norms[part],
            rounding_error=self.rounding_error[part],
            residual_norm=self.residual_norm[part],
        )


@dataclass(frozen=True)
class RoundingSpace:
    """The map T and the rounding, fitted to a sample of the rows; equal for both sides of a search.

    mean: [C] float32.
    basis: [C, m] principal components, or None for all channels.
    dtype: float32, float16, bfloat16 or int8.
    scale: what a value of 1 stands for.
    spread: rotate by Hadamard blocks, which spreads outlier channels before int8.
    residual_centre: mean norm of the residuals; the same for all rows, so that it cancels in
        differences.
    largest: the largest entry of x - mean in the sample.
    """

    mean: Tensor
    basis: Tensor | None
    dtype: torch.dtype
    scale: float
    spread: bool
    basis_error: float = 0.0
    residual_centre: float = 0.0
    largest: float = 1.0

    @property
    def depth(self) -> int:
        """K, the channels of the values: padded to a multiple of 32 but for float32."""
        channels = self.mean.shape[0] if self.basis is None else self.basis.shape[1] + 1
        return channels if self.dtype == torch.float32 else padded(channels)

    def fine(self) -> RoundingSpace:
        """The space of float16 rows of all channels, with the same mean."""
        scale = self.largest if self.largest > _NOTHING else 1.0
        return RoundingSpace(
            self.mean, None, torch.float16, scale, spread=False, largest=self.largest
        )

    def apply(self, z: Tensor, rounding: Rounding | None = None) -> RoundedImages:
        """Round the rows of z [N, P, C], some images at a time, on the device of the space.

        rounding: called in place of `round_rows`, with the same arguments and results.
        """
        values, norms, rounding_error, residual_norm = self.round(z, rounding)
        return RoundedImages(
            values, norms, rounding_error, residual_norm, self.scale, self.basis_error
        )

    def round(self, z: Tensor, rounding: Rounding | None = None) -> list[Tensor]:
        """The results of `rounding`, [R, ...] each, for the rows of z [N, P, C]: [N, P, ...] each.

        Some images are rounded at a time.
        """
        n, p, c = z.shape
        device = self.mean.device
        each, room = 4 * c, _GROUP_BYTES
        if rounding is not None:  # kernels read any dtype, and write components in float32 at most
            copied = z.device != device or not z.is_contiguous()
            each = (0 if self.basis is None else 4 * self.depth) + copied * z.itemsize * c
            room = 3 * _GROUP_BYTES
        group = max(1, room // (each * p)) if each else n
        results: list[Tensor] = []
        for first in range(0, n, group):
            some = z if group >= n else z[first : first + group]
            rows = some.to(device).reshape(-1, c)
            parts = (rounding or round_rows)(self, rows)
            if group >= n:
                results = [part.view(n, p, *part.shape[1:]) for part in parts]
                break
            if not results:
                results = [part.new_empty((n, p, *part.shape[1:])) for part in parts]
            for result, part in zip(results, parts, strict=True):
                result[first : first + group] = part.view(-1, p, *part.shape[1:])
        return results


Rounding = Callable[[RoundingSpace, Tensor], tuple[Tensor, ...]]


def fit_space(
    z: Tensor,
    references: Tensor | None,
    dtype: torch.dtype,
    channels: int | None = None,
    device: torch.device | None = None,
) -> RoundingSpace:
    """The space for searching z [N, P, C] in itself or in references [M, Q, C].

    channels: how many principal components are kept (beside the norm of the residual); None keeps
        all C channels.
    device: where the rounded images will be; None means the device of z.
    """
    mean, centred = centred_sample(z, references, device or z.device)
    basis = None
    if channels is not None and channels < z.shape[2]:
        basis = principal_directions(centred, channels)
    return fit_sample(mean, centred, dtype, basis)


def centred_sample(
    z: Tensor, references: Tensor | None, device: torch.device
) -> tuple[Tensor, Tensor]:
    """The mean [C] and the centred rows [R, C] of a sample, float32 on `device`."""
    sides = [z] if references is None else [z, references]
    sample = torch.cat([_sample(side) for side in sides]).to(device)
    mean = sample.mean(0)
    return mean, sample - mean


def fit_sample(
    mean: Tensor, centred: Tensor, dtype: torch.dtype, basis: Tensor | None
) -> RoundingSpace:
    """The space for a sample from `centred_sample`, with the principal components `basis`."""
    error = centre = 0.0
    if basis is not None:
        size = basis.shape[1]
        outside = torch.linalg.vector_norm(centred - centred @ basis @ basis.T, dim=1)
        error, centre = torch.stack(
            [basis_errors(basis, [size])[0], outside.mean().double()]
        ).tolist()
        error += second_order(basis.shape[0], size)
    space = RoundingSpace(mean, basis, dtype, 1.0, dtype == torch.int8, error, centre)
    rows = _map_rows(space, centred)[0]
    scale, largest = torch.stack([fit_scale(rows, dtype), centred.abs().amax()]).tolist()
    return replace(space, scale=scale, largest=largest)


def basis_errors(basis: Tensor, sizes: list[int]) -> list[Tensor]:
    """|B^T B - I| of the first columns of `basis`, as many as `sizes` say, float64 each."""
    off = basis.double().T @ basis.double()
    off.diagonal().sub_(1)
    off = off.square_()
    return [off[:size, :size].sum().sqrt() for size in sizes]


def second_order(channels: int, size: int) -> float:
    """What the rounding of B^T x adds to `basis_error`.

    B^T x is off by up to C u sqrt(m) |x|: `rounding_error` has the first order, this the second.
    """
    return (channels * UNIT) ** 2 * size


def fit_scale(rows: Tensor, dtype: torch.dtype) -> Tensor:
    """What a value of 1 shall stand for in rows [R, K] as they are rounded, a float32 scalar.

    float16: the largest entry of the sample becomes 1, far from overflow and underflow. int8: the
    scale at which rows lose least to rounding and clipping.
    """
    largest = rows.abs().amax()
    if dtype == torch.float32:
        return torch.ones_like(largest)
    scale = largest
    if dtype == torch.int8:
        some = rows[:: max(1, rows.shape[0] // _SCALED_ROWS)]
        scales = _shares(rows.device) * (largest / _INT8)
        scales = scales.clamp_min_(_NOTHING / _INT8)
        each = scales[:, None, None]
        error = torch.linalg.vector_norm(
            (some / each).round_().clamp_(-_INT8, _INT8).mul_(-each).add_(some), dim=2
        )
        cost = error.mean(dim=1) + 0.5 * error.amax(dim=1)
        scale = scales.gather(0, cost.argmin(dim=0, keepdim=True))[0]  # an index would be awaited
    return torch.where(largest < _NOTHING, 1.0, scale)


def principal_directions(centred: Tensor, count: int) -> Tensor:
    """Nearly the first `count` principal directions of rows [R, C], columns of [C, count] float32.

    Orthogonal iteration on the covariance, whose columns come in order: the first m columns span
    what an iteration of m columns would. Orthonormal by Cholesky, twice at the end, so that
    |B^T B - I|, which widens the bound, is that of rounding to float32. A small multiple of the
    identity, which keeps the directions, bounds the condition, so that no factorisation fails.
    Nothing here waits for the device. Any basis is valid for the search; with a better one fewer
    candidates must be recomputed.
    """
    basis = _start(centred.shape[1], count, centred.device)
    covariance = (centred.T @ centred).double()
    covariance /= covariance.diagonal().sum().clamp_min_(_NOTHING)
    covariance.diagonal().add_(1e-6)
    for _ in range(_STEPS):
        basis = _orthonormal(covariance @ basis)
    return _orthonormal(basis).float().contiguous()


@lru_cache(maxsize=8)
def _start(channels: int, count: int, device: torch.device) -> Tensor:
    """Drawn columns [C, count] float64, the same in every process."""
    generator = torch.Generator("cpu").manual_seed(0)
    drawn = torch.randn(channels, count, generator=generator, dtype=torch.float32, device="cpu")
    return drawn.to(device, torch.float64)


@lru_cache(maxsize=8)
def _shares(device: torch.device) -> Tensor:
    """_SHARES on `device`."""
    return torch.tensor(_SHARES, dtype=torch.float32, device=device)


def _orthonormal(columns: Tensor) -> Tensor:
    """An orthonormal basis of columns [C, m] float64, nested: of the first k by its first k."""
    lower = torch.linalg.cholesky_ex(columns.T @ columns).L
    basis: Tensor = torch.linalg.solve_triangular(lower, columns.T, upper=False).T
    return basis


def _sample(z: Tensor) -> Tensor:
    """About 4096 rows, spread evenly over images and patches -> [R, C] float32."""
    images = z[:: max(1, z.shape[0] // _SAMPLE_IMAGES)]
    # An odd stride, so that the sample does not follow the columns of a patch grid.
    stride = max(1, images.shape[0] * images.shape[1] // 4096) | 1
    rows = torch.arange(
        0, images.shape[0] * images.shape[1], stride, dtype=torch.int64, device=z.device
    )
    return images[rows // z.shape[1], rows % z.shape[1]].float()


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
    # The factor is a power of 2 where the block is a power of 4; elsewhere it rounds once more.
    return rows * float(block**-0.5)


def _map_rows(space: RoundingSpace, centred: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """T of centred rows [R, C] -> rows [R, K], residual norms [R], bounds on errors of T [R]."""
    norms = torch.linalg.vector_norm(centred, dim=1)
    # Subtracting the mean and summing the norm itself: relative errors of u and C u / 2.
    errors = 4 * UNIT * norms
    residual_norm = torch.zeros_like(norms)
    rows = centred
    if space.basis is not None:
        rows, residual_norm, errors = project_rows(space.basis, space.residual_centre, centred)
    if rows.shape[1] < space.depth:
        rows = torch.nn.functional.pad(rows, (0, space.depth - rows.shape[1]))
    if space.spread:
        stages = int(math.log2(rows.shape[1] & -rows.shape[1])) + 2
        rows, errors = hadamard(rows), errors + stages * UNIT * norms
    return rows.contiguous(), residual_norm, errors


def project_rows(
    basis: Tensor, residual_centre: float, centred: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Components of centred rows [R, C] and their residuals.

    Gives [R, m + 1] (m components and the residual's norm less `residual_centre`), the norms of the
    residuals [R] and bounds on the errors of the arithmetic [R].
    """
    channels, size = basis.shape
    norms = torch.linalg.vector_norm(centred, dim=1)
    inside = centred @ basis
    residual_norm = torch.linalg.vector_norm(torch.addmm(centred, inside, basis.T, alpha=-1), dim=1)
    # |fl(B^T x) - B^T x| <= C u | |B|^T |x| | <= C u sqrt(m) |x|, and again for the residual.
    errors = (4 + 3 * channels * math.sqrt(size)) * UNIT * norms
    rows = torch.cat([inside, residual_norm[:, None] - residual_centre], dim=1)
    return rows, residual_norm, errors


def round_rows(space: RoundingSpace, rows: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Rows [R, C] -> values [R, K], norms, rounding errors and residual norms, [R] each."""
    rows, residual_norm, errors = _map_rows(space, rows.float() - space.mean)
    if space.dtype == torch.float32:
        return rows, (rows * rows).sum(1), errors, residual_norm
    scaled = rows / space.scale
    if space.dtype == torch.int8:
        values = scaled.round().clamp(-_INT8, _INT8).to(torch.int8)
        norms = values.int().square().sum(1, dtype=torch.int32)
    else:
        values = scaled.clamp(-60000, 60000).to(space.dtype)
        norms = values.float().square().sum(1)
    difference = torch.linalg.vector_norm(rows - values.float() * space.scale, dim=1)
    # The norm of the difference was itself rounded: C u relative is ample, and a little of rows.
    rounding_error = (
        difference * (1 + rows.shape[1] * UNIT)
        + errors
        + 2 * UNIT * torch.linalg.vector_norm(rows, dim=1)
    )
    return values, norms, rounding_error, residual_norm
