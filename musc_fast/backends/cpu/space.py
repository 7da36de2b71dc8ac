"""The space that the search rounds in: a mean, a basis or a rotation, and scales.

It is chosen from a sample and by estimates, which decide the speed of the search alone: the bound
of docs/exact-search.md holds in any space.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from ... import _C
from ..torch_state import one_thread
from .costs import FEW_REFERENCES, PREFIXES, Workload, estimate_costs
from .directions import Products, left_over, panels_of, principal_directions
from .steps import (
    LEVELS,
    NearRows,
    best_step,
    clipped_distances,
    distance_ratio,
    most_fine_levels,
    safe_step,
)

UNIT = 2.0**-24  # the rounding unit of float32
_SAMPLE = (1024, 4096)  # rows the basis is fitted to: a 32nd of all, within these bounds
_SUBSET = 512  # rows of the sample that the scales are fitted to
# Where the largest basis leaves more than this share of the rows' energy, no basis pays, and the
# full estimate would cost a tenth of the search. Measured: 0.004 to 0.13 where a basis pays,
# 0.24 to 0.29 on the other layers, 0.83 on noise.
_SCATTERED = 0.2
# A tile unit searches up to this many channels in less time than fitting a basis takes, and all
# channels leave fewer candidates: measured at 384, 768 and 1024 channels.
_TILED = 1024


@dataclass(frozen=True, kw_only=True)
class SearchSpace:
    """Rows x become round(w / scale) with w = [basis^T (x - mean), tail norm - tail_centre].

    mean: [C] float32.
    prefix: columns m of the basis.
    basis: [panels, C, 16] float32, zero beyond m columns; None: all channels, in a rotation.
    basis_transposed: [C panels, m, 16]; None: the rest is not rounded.
    signs: of the rotation (`rotation_signs`); None with a basis.
    tail: whether the norm of the rest, x - mean - basis w, is a channel of w.
    basis_error: at least |basis^T basis - I|.
    fine_scale: of w in about 12 bits, `fine_levels` to either side; 0: no closer looks.
    rest_scale: of the rest in int8.
    ratio: for nine rows of ten the exact distance is at most `ratio` times that in the space.
    """

    mean: Tensor
    prefix: int
    scale: float
    basis_error: float
    ratio: float
    basis: Tensor | None = None
    basis_transposed: Tensor | None = None
    signs: Tensor | None = None
    tail: bool = False
    tail_centre: float = 0.0
    fine_scale: float = 0.0
    fine_levels: int = 0
    rest_scale: float = 0.0

    @property
    def channels(self) -> int:
        """Channels that are rounded and searched."""
        return self.prefix + int(self.tail)

    @property
    def fine_stride(self) -> int:
        """int16 of a fine row, whole vectors; 0 where there is none."""
        return _whole(self.channels, _C.FINE_UNIT) if self.fine_scale else 0

    @property
    def rest_stride(self) -> int:
        """int8 of a rounded rest, whole vectors; 0 where there is none."""
        rounded = self.basis_transposed is not None
        return _whole(self.mean.shape[0], _C.REST_UNIT) if rounded else 0

    @property
    def closer_bytes(self) -> int:
        """Bytes of a row's fine and rest values."""
        return 2 * self.fine_stride + self.rest_stride

    def handle(self) -> _C.SearchSpace:
        """The space for C++; it points into the tensors of this object."""

        return _C.SearchSpace(
            mean=self.mean,
            basis=self.basis,
            basis_transposed=self.basis_transposed,
            signs=self.signs,
            channels=self.mean.shape[0],
            prefix=self.prefix,
            tail=self.tail,
            tail_centre=self.tail_centre,
            scale=self.scale,
            basis_error=self.basis_error,
            fine_scale=self.fine_scale,
            fine_levels=self.fine_levels,
            rest_scale=self.rest_scale,
        )


def _whole(count: int, unit: int) -> int:
    return -(-count // unit) * unit


def sample_rows(tensors: list[Tensor], count: int) -> Tensor:
    """About `count` rows spread evenly over the images of all tensors, [rows, C] float32."""
    total = sum(z.shape[0] * z.shape[1] for z in tensors)
    rows = []
    for z in tensors:
        flat = z.view(-1, z.shape[-1])
        share = max(1, min(flat.shape[0], round(count * flat.shape[0] / total)))
        # One row of each of `share` stretches, shuffled: no row is drawn twice.
        generator = torch.Generator("cpu").manual_seed(0)
        edges = torch.arange(share + 1, dtype=torch.int64, device="cpu") * flat.shape[0] // share
        within = torch.rand(share, generator=generator, dtype=torch.float64, device="cpu")
        draw = edges[:-1] + (within * edges.diff()).long()
        order = torch.randperm(share, generator=generator, dtype=torch.int64, device="cpu")
        rows.append(flat[draw[order]])
    return torch.cat(rows).float()


def _signs(shape: tuple[int, int], seed: int) -> Tensor:
    """Random signs, -1 or 1, int64."""
    generator = torch.Generator("cpu").manual_seed(seed)
    bits = torch.randint(0, 2, shape, generator=generator, dtype=torch.int64, device="cpu")
    return 2 * bits - 1


@lru_cache(maxsize=8)
def spreading_rotation(size: int) -> Tensor:
    """An orthonormal matrix [size, size] float64 that spreads any one channel over all of them.

    A cosine transform with random signs: no entry exceeds sqrt(2 / size).
    """
    index = torch.arange(size, dtype=torch.float64, device="cpu")
    angles = torch.outer(2 * index + 1, index) % (4 * size)
    matrix = torch.cos(angles * (math.pi / (2 * size))) * math.sqrt(2.0 / size)
    matrix[:, 0] = math.sqrt(1.0 / size)
    return matrix * _signs((size, 1), 2).double()


@lru_cache(maxsize=8)
def rotation_signs(channels: int) -> Tensor:
    """Random signs over sqrt(size), [2, size]: size is the largest power of two <= channels.

    The rotation of all channels is: signs, then Walsh-Hadamard steps, on the first and then on the
    last `size` channels (csrc/cpu/inner/rotate_and_round.hpp): C log C work instead of C^2.
    """
    size = 1 << (channels.bit_length() - 1)
    return _signs((2, size), 4).float() / math.sqrt(size)


def rotate(rows: Tensor) -> Tensor:
    """The rotation that `rotation_signs` describes, in torch, for choosing the scale: [n, C]."""
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


def full_space(centred: Tensor, mean: Tensor) -> SearchSpace:
    """All channels, rotated; the scale is fitted to the sample."""
    channels = centred.shape[1]
    x, y = NearRows.of(centred[:_SUBSET])(centred)
    x, y = rotate(torch.cat((x, y))).chunk(2)
    scale = best_step(x, y)
    ratio = distance_ratio((x - y).norm(dim=1), clipped_distances(x, y, LEVELS * scale))
    return SearchSpace(
        mean=mean,
        prefix=channels,
        scale=scale,
        # Signs over sqrt(size) in float32 are off by 2^-24 in each of two rounds, squared.
        basis_error=16 * UNIT,
        ratio=ratio,
        signs=rotation_signs(channels),
    )


def make_space(
    products: Products, centred: Tensor, mean: Tensor, directions: Tensor
) -> SearchSpace:
    """The space of `directions` [C, m], its scales fitted to the sample."""
    basis = directions @ spreading_rotation(directions.shape[1])
    stored = basis.float()
    subset = centred[:_SUBSET]
    inside = products(subset, stored)
    gram = stored.double().T @ stored.double()
    error = float((gram - torch.eye(gram.shape[0], dtype=gram.dtype, device=gram.device)).norm())
    total = subset.double().square().sum(1)
    norms = (total - inside.double().square().sum(1)).clamp_min(0).sqrt()
    # The error of a tail norm near zero is larger than the norm: then there is no tail.
    tail = float(norms.square().mean()) > 1e-4 * float(total.mean())
    centre = 0.0
    basis_transposed, rest_scale = None, 0.0
    if tail:
        centre = float(norms.mean())
        rest = subset - products(inside, stored.T)
        basis_transposed = panels_of(stored.T)
        inside = torch.cat([inside, (norms - centre).float()[:, None]], dim=1)
    near = NearRows.of(inside)
    x, y = near(inside)
    if tail:
        rest_scale = best_step(*near(rest))
    scale = best_step(x, y)
    true = torch.sub(*near(subset)).norm(dim=1)
    ratio = distance_ratio(true, clipped_distances(x, y, LEVELS * scale))
    fine_levels = most_fine_levels(inside.shape[1])
    return SearchSpace(
        mean=mean,
        prefix=basis.shape[1],
        scale=scale,
        basis_error=error,
        ratio=ratio,
        basis=panels_of(stored),
        basis_transposed=basis_transposed,
        tail=tail,
        tail_centre=centre,
        fine_scale=safe_step(inside, fine_levels),
        fine_levels=fine_levels,
        rest_scale=rest_scale,
    )


def choose_space(
    z: Tensor,
    references: Tensor | None,
    work: Workload,
    prefix: int | None = None,
    *,
    isa: str,
) -> SearchSpace:
    """The space in which the search is expected to be quickest; `prefix` forces its size.

    z [N, P, C] and references [M, P2, C] (None: z itself) float32, contiguous.
    """
    sets = _C.instruction_sets()
    if prefix is None and isa in sets and sets[isa].tile_unit and z.shape[2] <= _TILED:
        prefix = z.shape[2]
    products = Products(isa, torch.get_num_threads())
    # Torch's workers spin for milliseconds after a call, on cores that the C++ search needs next;
    # and these matrices are small.
    with one_thread():
        return _choose_space(products, z, references, work, prefix)


def _choose_space(
    products: Products,
    z: Tensor,
    references: Tensor | None,
    work: Workload,
    prefix: int | None,
) -> SearchSpace:
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
    largest = max((m for m in PREFIXES if m <= channels // 6), default=0)
    if not (prefix or largest):
        return full_space(centred, mean)
    if prefix is None and left_over(products, centred, largest) > _SCATTERED:
        return full_space(centred, mean)
    # 16 additional directions make the first ones more accurate.
    count = min((prefix or largest) + 16, sample.shape[0], channels)
    directions = principal_directions(
        products, centred, count, 1 if work.references < FEW_REFERENCES else 2
    )
    if prefix is None:
        images = z if references is None else references
        costs = estimate_costs(products, z, images, mean, directions, work)
        prefix = min(costs, key=lambda m: costs[m])
        if prefix >= channels:
            return full_space(centred, mean)
    return make_space(products, centred, mean, directions[:, :prefix])
