"""The space the search rounds into int8: a shift, a basis, a tail norm and one scale.

Everything here is chosen from a sample and by estimates; the exactness of the search never depends
on it (csrc/cpu/search.hpp derives the bound for any basis), only its speed does.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from .directions import PANEL, Products, left_over, panels_of, principal_directions
from .steps import LEVELS, NearRows, best_step, clipped_distances, distance_ratio, safe_step

UNIT = 2.0**-24  # the rounding unit of float32
_SAMPLE = (1024, 4096)  # rows the basis is fitted to: a 32nd of all, within these bounds
_SUBSET = 512  # rows of it that the scales are fitted to
_PREFIXES = (31, 47, 63, 95)  # and the tail norm: whole vectors
# Below this many references the choice is a fifth of the search: half the work for it, and bounds
# that are a little looser, are quicker together (2 to 6% at 16 images; survivors rise by 0 to 10%).
_FEW = 32
# Where the largest basis leaves more than this share of the rows' energy, no basis pays, and to
# find that out in full would cost a tenth of the search. Measured: layers that a basis serves
# 0.004 to 0.13, others 0.24 to 0.29, noise 0.83.
_SCATTERED = 0.2
# A tile unit searches up to this many channels in less time than a basis takes to fit and to round
# in, and leaves fewer candidates: measured at 384, 768 and 1024 channels.
_TILE_UNITS = ("amx-int8",)
_TILED = 1024
# Seconds a core, from measurements on Zen 4; only their ratios matter.
_PER_OPERATION = 1 / 400e9  # of the pass over all pairs
_PER_SCANNED = 1 / 300e9  # operation of scanning a segment again
_PER_PROJECTED = 1 / 100e9  # operation of projecting on the basis, and back
_PER_CANDIDATE = 25e-9  # closer looks, and the distance of the few that are left
_PER_IMAGE = 160e-9  # examining an image and recomputing one distance, plus:
_PER_CHANNEL = 0.1e-9


@dataclass(frozen=True)
class Space:
    """Rows x become round(([basis^T (x - mean), tail norm - tail_centre]) / scale).

    mean [C] and basis (as [panels, C, 16], zero beyond `prefix` columns) are float32. Without a
    basis all channels are kept, in the rotation that `signs` describe (`rotation_signs`).
    `basis_error` bounds |basis^T basis - I|. Without `tail` the norm of what the basis leaves out
    is not a channel.
    """

    mean: Tensor
    basis: Tensor | None
    signs: Tensor | None
    prefix: int
    tail: bool
    tail_centre: float
    scale: float
    basis_error: float
    fine_scale: float  # of the same channels in about 12 bits; 0: not worth while
    back: Tensor | None  # basis^T as [C panels, prefix, 16]; None: the rest is not rounded
    rest_scale: float  # of what the basis leaves out, x - mean - basis w
    ratio: float  # of a distance to that in the space, for nine rows of ten
    fine_levels: int = 0  # the largest of the fine rows, to either side

    @property
    def channels(self) -> int:
        """Channels that are rounded and searched."""
        return self.prefix + int(self.tail)


@dataclass(frozen=True)
class Workload:
    """What the search is for, for the choice of the space: image counts and neighbours."""

    references: int
    symmetric: bool
    k_max: int
    segment: int


def sample_rows(tensors: list[Tensor], count: int) -> Tensor:
    """About `count` rows spread evenly over the images of all tensors, [rows, C] float32."""
    total = sum(z.shape[0] * z.shape[1] for z in tensors)
    rows = []
    for z in tensors:
        flat = z.view(-1, z.shape[-1])
        share = max(1, min(flat.shape[0], round(count * flat.shape[0] / total)))
        # One row of each of so many stretches, in no order: none comes twice.
        generator = torch.Generator().manual_seed(0)
        edges = torch.arange(share + 1) * flat.shape[0] // share
        within = torch.rand(share, generator=generator, dtype=torch.float64)
        draw = edges[:-1] + (within * edges.diff()).long()
        rows.append(flat[draw[torch.randperm(share, generator=generator)]])
    return torch.cat(rows).float()


@lru_cache(maxsize=8)
def spreading_rotation(size: int) -> Tensor:
    """An orthonormal matrix [size, size] float64 that spreads any one channel over all of them.

    A cosine transform with random signs: no entry exceeds sqrt(2 / size).
    """
    index = torch.arange(size, dtype=torch.float64)
    angles = torch.outer(2 * index + 1, index) % (4 * size)
    matrix = torch.cos(angles * (math.pi / (2 * size))) * math.sqrt(2.0 / size)
    matrix[:, 0] = math.sqrt(1.0 / size)
    signs = torch.randint(0, 2, (size, 1), generator=torch.Generator().manual_seed(2))
    return matrix * (2.0 * signs - 1.0)


@lru_cache(maxsize=8)
def rotation_signs(channels: int) -> Tensor:
    """Random signs over sqrt(size), [2, size]: size is the largest power of two <= channels.

    They describe the rotation of all channels: Walsh-Hadamard steps on the first, then on the last
    `size` channels (csrc/cpu/whole.hpp); C log C work, not C^2.
    """
    size = 1 << (channels.bit_length() - 1)
    signs = torch.randint(0, 2, (2, size), generator=torch.Generator().manual_seed(4))
    return ((2.0 * signs - 1.0) / math.sqrt(size)).float()


def rotate(rows: Tensor) -> Tensor:
    """The same rotation in torch, for choosing the scale: [n, C] -> [n, C]."""
    signs = rotation_signs(rows.shape[1])
    size = signs.shape[1]
    out = rows.clone()
    for step, sign in enumerate(signs):
        block = out[:, :size] if step % 2 == 0 else out[:, out.shape[1] - size :]
        values = block * sign
        half = 1
        while half < size:
            pairs = values.view(len(rows), -1, 2, half)
            values = torch.stack(
                (pairs[:, :, 0] + pairs[:, :, 1], pairs[:, :, 0] - pairs[:, :, 1]), dim=2
            ).view(len(rows), size)
            half *= 2
        block.copy_(values)
    return out


def full_space(centred: Tensor, mean: Tensor) -> Space:
    """All channels, rotated; the scale is fitted to the sample."""
    channels = centred.shape[1]
    x, y = NearRows.of(centred[:_SUBSET])(centred)
    x, y = rotate(torch.cat((x, y))).chunk(2)
    scale = best_step(x, y)
    ratio = distance_ratio((x - y).norm(dim=1), clipped_distances(x, y, LEVELS * scale))
    # Signs over sqrt(size) in float32 are not exactly orthonormal: 2^-24 a round, squared.
    return Space(
        mean,
        None,
        rotation_signs(channels),
        channels,
        False,
        0.0,
        scale,
        16 * UNIT,
        0.0,
        None,
        0.0,
        ratio,
    )


def make_space(products: Products, centred: Tensor, mean: Tensor, directions: Tensor) -> Space:
    """The space of `directions` [C, m], its scales fitted to the sample."""
    basis = directions @ spreading_rotation(directions.shape[1])
    stored = basis.float()
    subset = centred[:_SUBSET]
    inside = products(subset, stored)
    gram = stored.double().T @ stored.double()
    error = float((gram - torch.eye(gram.shape[0], dtype=gram.dtype)).norm())
    total = subset.double().square().sum(1)
    norms = (total - inside.double().square().sum(1)).clamp_min(0).sqrt()
    # A tail that is nearly nothing would be known with a large error; leave it out.
    tail = float(norms.square().mean()) > 1e-4 * float(total.mean())
    centre = 0.0
    back, rest_scale = None, 0.0
    if tail:
        centre = float(norms.mean())
        rest = subset - products(inside, stored.T)
        back = panels_of(stored.T)
        inside = torch.cat([inside, (norms - centre).float()[:, None]], dim=1)
    near = NearRows.of(inside)
    x, y = near(inside)
    if tail:
        rest_scale = best_step(*near(rest))
    scale = best_step(x, y)
    true = torch.sub(*near(subset)).norm(dim=1)
    ratio = distance_ratio(true, clipped_distances(x, y, LEVELS * scale))
    # Sums of squared differences of the fine rows must fit int32.
    fine_levels = min(math.isqrt((1 << 31) // inside.shape[1]) // 2 - 1, (1 << 14) - 1)
    return Space(
        mean,
        panels_of(stored),
        None,
        basis.shape[1],
        tail,
        centre,
        scale,
        error,
        safe_step(inside, fine_levels),
        back,
        rest_scale,
        ratio,
        fine_levels,
    )


def estimate_costs(
    products: Products,
    z: Tensor,
    images: Tensor,
    mean: Tensor,
    directions: Tensor,
    work: Workload,
) -> dict[int, float]:
    """Seconds a core and patch that a search would take, by prefix (C: all channels).

    Counts, for a few patches of z and one or two reference images, the candidates that each prefix
    would leave.
    """
    channels = z.shape[2]
    generator = torch.Generator().manual_seed(3)
    picks = torch.randint(z.shape[0] * z.shape[1], (64,), generator=generator)
    x = z.view(-1, channels)[picks].float() - mean
    thirds = [images.shape[0] // 3, (2 * images.shape[0]) // 3]
    others = torch.unique(torch.tensor(thirds[: 1 if work.references < _FEW else 2]))
    patches = images.shape[1]
    pass_over = work.references * patches * (0.5 if work.symmetric else 1.0)
    costs = {}
    counts: dict[int, list[float]] = {}
    basis = directions.float()
    x_inside, x_square = x @ basis, x.square().sum(1)
    for image in others.tolist():
        use = torch.ones(len(picks), dtype=torch.bool)
        if work.symmetric:
            use = torch.div(picks, z.shape[1], rounding_mode="floor") != image
        y = images[image].float()  # tables are [patches of y, picks]
        y_inside, y_square = products(y, basis, mean), (y - mean).norm(dim=1).square()
        square = (x_square + y_square[:, None] - 2 * products(y, x.T, mean)).clamp_min(0)
        nearest = square.amin(0).sqrt()
        done, prefix_square = 0, torch.zeros_like(square)
        x_left, y_left = x_square.clone(), y_square.clone()
        for prefix in [m for m in _PREFIXES if m <= directions.shape[1]]:
            a, b = x_inside[:, done:prefix], y_inside[:, done:prefix]
            x_part, y_part = a.square().sum(1), b.square().sum(1)
            prefix_square += x_part + y_part[:, None] - 2 * (b @ a.T)
            x_left, y_left = (x_left - x_part).clamp_min(0), (y_left - y_part).clamp_min(0)
            done = prefix
            lower = prefix_square + (x_left.sqrt() - y_left.sqrt()[:, None]).square()
            inside = float((y_square - y_left).mean())
            rho = _expected_rho(inside, prefix + 1)
            left = (lower.clamp_min(0).sqrt() - 2 * rho <= nearest).sum(0).double()
            counts.setdefault(prefix, []).append(float(left[use].mean()) if bool(use.any()) else 1)
        rho = _expected_rho(float(y_square.mean()), channels)
        left = (square.sqrt() - 2 * rho <= nearest).sum(0).double()
        counts.setdefault(channels, []).append(float(left[use].mean()) if bool(use.any()) else 1)
    for prefix, found in counts.items():
        survivors = sum(found) / len(found)
        # In all channels a segment is one panel, which seldom holds two candidates.
        segment, share = (work.segment, 0.07) if prefix < channels else (PANEL, 1.0)
        scans = min(1 + share * survivors, -(-patches // segment))
        scan = scans * segment * 2 * prefix * _PER_SCANNED
        examine = survivors * _PER_CANDIDATE + _PER_IMAGE + channels * _PER_CHANNEL
        project = 4 * channels * prefix * _PER_PROJECTED
        if prefix >= channels:  # No closer looks: every candidate's distance is recomputed.
            examine += survivors * channels * _PER_CHANNEL
            project = 0.0
        costs[prefix] = (
            project
            + pass_over * 2 * (prefix + 4) * _PER_OPERATION
            + 2 * work.k_max * (scan + examine)
        )
    return costs


def _expected_rho(square: float, channels: int) -> float:
    """The rounding error of rows of mean square norm `square`, spread over `channels`."""
    step = 2.8 * math.sqrt(square / channels) / LEVELS  # as best_step() finds it on real features
    return step * math.sqrt(channels / 12)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Torch with one thread: these matrices are small, and others, once woken, are in the way.

    They spin for milliseconds, on the cores that the rounding and the search want next.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def choose_space(
    z: Tensor,
    references: Tensor | None,
    work: Workload,
    prefix: int | None = None,
    *,
    isa: str,
) -> Space:
    """The space in which the search is expected to be quickest; `prefix` forces its size.

    z [N, P, C] and references [M, P2, C] float32, contiguous.
    """
    if prefix is None and isa in _TILE_UNITS and z.shape[2] <= _TILED:
        prefix = z.shape[2]
    products = Products(isa, torch.get_num_threads())
    with _one_thread():
        return _choose_space(products, z, references, work, prefix)


def _choose_space(
    products: Products,
    z: Tensor,
    references: Tensor | None,
    work: Workload,
    prefix: int | None,
) -> Space:
    channels = z.shape[2]
    sides = [z] if references is None else [z, references]
    whole = prefix is not None and prefix >= channels
    rows = sum(side.shape[0] * side.shape[1] for side in sides)
    # A mean and a scale need fewer rows than a basis.
    count = _SAMPLE[0] if whole else min(max(rows // 32, _SAMPLE[0]), _SAMPLE[1])
    sample = sample_rows(sides, count)
    mean = sample.mean(0)
    centred = sample - mean
    if whole:
        return full_space(centred, mean)
    largest = max((m for m in _PREFIXES if m <= channels // 6), default=0)
    if not (prefix or largest):
        return full_space(centred, mean)
    if prefix is None and left_over(products, centred, largest) > _SCATTERED:
        return full_space(centred, mean)
    # Some more directions than needed make those that are needed more accurate.
    count = min((prefix or largest) + 16, sample.shape[0], channels)
    directions = principal_directions(products, centred, count, 1 if work.references < _FEW else 2)
    if prefix is None:
        images = z if references is None else references
        costs = estimate_costs(products, z, images, mean, directions, work)
        prefix = min(costs, key=lambda m: costs[m])
        if prefix >= channels:
            return full_space(centred, mean)
    return make_space(products, centred, mean, directions[:, :prefix])
