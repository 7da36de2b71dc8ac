"""The backend of torch.matmul: one product a tile of images, then reductions; any device.

The fused kernels are measured against this backend, and it runs where the kernels cannot. Each pair
of images is multiplied once: the rows of the product serve one image, its columns the other.

`precision="exact"`: the product is float32 (never TF32); every candidate that its error bound
(`rounding`) cannot exclude is recomputed as sum((x - y)^2) from the original rows, so distances
are right near zero too. `"fast"`: products are float16 with float32 sums on CUDA, float32 on other
devices; the best candidate is recomputed. Memory beyond input and output: the rounded images, a
tile of one image by several and the distances of a chunk of queries, within `memory_limit`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .. import reference
from ..errors import InputError
from ..settings import DEFAULT_OPTIONS, SearchOptions
from .defaults import with_defaults
from .memory import free_memory
from .products import ieee_products
from .rounded_images import UNIT, RoundedImages, RoundingSpace, fit_space

_SHARE = 0.5  # of the free memory, where no limit is given
_ENTRY = 16  # bytes an entry of a tile: the product, masks, the list of candidates and its rows
_MANY = 16  # candidates a row on average; with more, all differences of a pair are quicker
_CUDA_TILE = 256 << 20
_CPU_TILE = 32 << 20


def lnamd(tokens: Tensor, grid: tuple[int, int], degrees: Sequence[int]) -> list[Tensor]:
    """See `reference.lnamd`; float64 image by image (float32 on "mps"), results are float32."""
    dtype = torch.float32 if tokens.device.type == "mps" else torch.float64
    results = [
        torch.empty(tokens.shape, dtype=torch.float32, device=tokens.device) for _ in degrees
    ]
    for i, image in enumerate(tokens):
        for result, z in zip(
            results, reference.lnamd(image[None].to(dtype), grid, degrees), strict=True
        ):
            result[i] = z[0]
    return results


def interval_mean(distances: Tensor, k_min: int, k_max: int) -> Tensor:
    """See `reference.interval_mean`; selects without a full sort, results are float32."""
    lowest = distances.float().topk(k_max, dim=-1, largest=False, sorted=True).values
    return lowest[..., k_min:].mean(dim=-1)


def patch_to_image(
    z: Tensor,
    references: Tensor | None = None,
    options: SearchOptions = DEFAULT_OPTIONS,
) -> Tensor:
    """See `reference.patch_to_image`; results are float32."""
    search = _Search(z, references, options)
    distances = search.empty(z.shape[0])
    for done, total in search.fill(distances, 0, z.shape[0]):
        if options.on_progress is not None:
            options.on_progress(done, total)
    return distances.transpose(1, 2).contiguous()


def msm(
    z: Tensor,
    references: Tensor | None,
    k_min: int,
    k_max: int,
    options: SearchOptions = DEFAULT_OPTIONS,
) -> Tensor:
    """See `reference.msm`; takes a chunk of queries at a time, results are float32."""
    search = _Search(z, references, options)
    images = z.shape[0]
    chunk = search.chunk()
    results = []
    for first in range(0, images, chunk):
        last = min(images, first + chunk)
        distances = search.empty(last - first)
        for done, total in search.fill(distances, first, last):
            if options.on_progress is not None:
                options.on_progress(first * total + done * (last - first), images * total)
        results += [interval_mean(image.T, k_min, k_max) for image in distances]
        del distances
    return torch.stack(results)


@dataclass(frozen=True)
class _Images:
    """Images as the search needs them.

    rows: [N, P, C], the original rows in float32.
    rounded: the operands of the product.
    """

    rows: Tensor
    rounded: RoundedImages


def _prepare(space: RoundingSpace, z: Tensor) -> _Images:
    return _Images(z.float(), space.apply(z))


class _Search:
    """The distances of z [N, P, C] to references [M, Q, C], or to itself, image by image."""

    def __init__(self, z: Tensor, references: Tensor | None, options: SearchOptions) -> None:
        self.exact = options.exact
        self.symmetric = references is None
        low = not self.exact and z.device.type == "cuda"
        others = z if references is None else references
        self.budget = _budget(z, others, low, options.memory_limit)
        pair = z.shape[1] * others.shape[1] * _ENTRY
        preferred = _CUDA_TILE if z.device.type == "cuda" else _CPU_TILE
        self.span = max(1, min(self.budget // 2, preferred) // pair)
        with ieee_products():
            space = fit_space(z, references, torch.float16 if low else torch.float32)
            self.queries = _prepare(space, z)
            self.references = self.queries if references is None else _prepare(space, others)
        largest = max(self.queries.rounded.largest(), self.references.rounded.largest())
        self.error = self.queries.rounded.error(largest)

    def chunk(self) -> int:
        """Queries whose distances to all references fit half the budget, in even chunks."""
        images, patches = self.queries.rows.shape[:2]
        each = 4 * patches * self.references.rows.shape[0]
        chunk = max(1, min(images, self.budget // 2 // each))
        return -(-images // -(-images // chunk))

    def empty(self, images: int) -> Tensor:
        """Distances [images, M, P] for `fill`: +inf, which an image's distance to itself stays."""
        shape = (images, self.references.rows.shape[0], self.queries.rows.shape[1])
        return torch.full(shape, math.inf, dtype=torch.float32, device=self.queries.rows.device)

    def fill(self, distances: Tensor, first: int, last: int) -> Iterator[tuple[int, int]]:
        """Fill distances [last - first, M, P] of the queries first to last - 1.

        Yields (queries done, queries in all) after each query.
        """
        for i in range(first, last):
            for start, end, mirrored in self._spans(i, first, last):
                with ieee_products():
                    row, column = self._tile(i, start, end, mirrored)
                distances[i - first, start:end] = row
                if column is not None:
                    distances[start - first : end - first, i] = column
            yield i + 1 - first, last - first

    def _spans(self, i: int, first: int, last: int) -> Iterator[tuple[int, int, bool]]:
        """(start, end, mirrored) of the references for query i.

        mirrored: references start to end - 1 are queries of the chunk too.
        """
        count = self.references.rows.shape[0]
        runs = [(0, count, False)]
        if self.symmetric:  # queries of the chunk before i have filled their pairs with i
            runs = [(0, first, False), (i + 1, last, True), (last, count, False)]
        for begin, stop, mirrored in runs:
            for start in range(begin, stop, self.span):
                yield start, min(stop, start + self.span), mirrored

    def _tile(self, i: int, start: int, end: int, mirrored: bool) -> tuple[Tensor, Tensor | None]:
        """Distances between image i and the references start to end - 1.

        From image i to the references [b, P] and, with `mirrored`, from the references to image i
        [b, Q].
        """
        x, y = self.queries.rounded.images(i, i + 1), self.references.rounded.images(start, end)
        rows, others = self.queries.rows[i], self.references.rows[start:end]
        squared = _squared(x, y)  # [P, b, Q]
        if not self.exact:
            index = torch.arange(end - start, dtype=torch.int64, device=rows.device)
            nearest = squared.argmin(dim=2)  # [P, b]
            row = torch.stack([_direct(rows, others[b, nearest[:, b]]) for b in index]).sqrt()
            if not mirrored:
                return row, None
            nearest = squared.argmin(dim=0)  # [b, Q]
            column = torch.stack([_direct(others[b], rows[nearest[b]]) for b in index]).sqrt()
            return row, column
        slack = x.rounding_error.amax() + y.rounding_error.amax(dim=1)  # [b]
        limits = self._limits(squared.amin(dim=2), slack)  # [P, b]
        row = _recompute(squared <= limits[:, :, None], rows, others, columns=False)
        if not mirrored:
            return row, None
        limits = self._limits(squared.amin(dim=0), slack[:, None])  # [b, Q]
        return row, _recompute(squared <= limits[None], rows, others, columns=True)

    def _limits(self, best: Tensor, slack: Tensor) -> Tensor:
        """The largest value in `squared` of a candidate that can be nearest; the least is `best`.

        slack: the sum of both rounding errors.
        """
        limit_distance = (best + self.error).clamp_min(0).sqrt() + 2 * slack
        return limit_distance.square() * (1 + 16 * UNIT) + self.error


def _squared(x: RoundedImages, y: RoundedImages) -> Tensor:
    """|x|^2 + |y|^2 - 2xy of the rows of one image and of b images -> [P, b, Q] float32."""
    images, patches, channels = y.values.shape
    left, right = x.values[0], y.values.reshape(images * patches, channels).T
    if x.values.dtype == torch.float32:
        products = left @ right
    else:
        products = torch.mm(left, right, out_dtype=torch.float32)
    products.mul_(-2).add_(y.norms.reshape(1, -1)).add_(x.norms[0][:, None])
    return products.view(-1, images, patches)


def _direct(x: Tensor, y: Tensor) -> Tensor:
    """sum((x - y)^2) over the last axis."""
    return (x - y).square_().sum(dim=-1)


def _recompute(mask: Tensor, rows: Tensor, others: Tensor, *, columns: bool) -> Tensor:
    """Least distance among the candidates of `mask` [P, b, Q], from the original rows.

    mask: overwritten.
    rows: [P, C] of the query.
    others: [b, Q, C] of the references.
    columns: gives the distances of the references' patches, [b, Q], else of the query's, [b, P].
    """
    patches, images, channels = rows.shape[0], others.shape[0], rows.shape[1]
    size = others.shape[1] if columns else patches
    least = torch.full((images, size), math.inf, dtype=torch.float32, device=rows.device)
    crowded = mask.sum(dim=(0, 2)) > _MANY * size
    for b in crowded.nonzero()[:, 0].tolist():
        # All differences of the pair are quicker than a list of nearly all candidates.
        all_pairs = torch.cdist(rows, others[b], compute_mode="donot_use_mm_for_euclid_dist")
        least[b] = all_pairs.amin(dim=0 if columns else 1).square()
        mask[:, b] = False
    p, b, q = mask.nonzero(as_tuple=True)
    slots = b * size + (q if columns else p)
    stride = max(1, mask.numel() * 4 // (8 * channels))
    for first in range(0, p.shape[0], stride):
        part = slice(first, first + stride)
        squared = _direct(rows[p[part]], others[b[part], q[part]])
        least.view(-1).scatter_reduce_(0, slots[part], squared, "amin")
    return least.sqrt_()


def _budget(z: Tensor, others: Tensor, low: bool, memory_limit: int | None) -> int:
    """Bytes for tiles and distances: the limit less rounded images and copies.

    Raises InputError where the limit is too small.
    """
    sides = [z] if others is z else [z, others]
    entries = sum(side.numel() for side in sides)
    fixed = entries * (2 if low else 4) + sum(
        side.numel() * 4 for side in sides if side.dtype != torch.float32
    )
    pair = 2 * z.shape[1] * others.shape[1] * _ENTRY
    least = fixed + max(pair, 8 * z.shape[1] * others.shape[0])
    if memory_limit is None:
        return max(int(_free(z.device) * _SHARE) - fixed, 2 * pair)
    if memory_limit < least:
        raise InputError(
            f"memory_limit: this search needs at least {least / 2**20:.0f} MiB beyond input and "
            f"output, the limit is {memory_limit / 2**20:.0f} MiB; raise it or score fewer images"
        )
    return memory_limit - fixed


def _free(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return free_memory()


OPERATORS = with_defaults(
    lnamd=lnamd, patch_to_image=patch_to_image, interval_mean=interval_mean, msm=msm
)
