"""The backend of torch.matmul: one product a tile of images, then reductions; any device.

The yardstick that fused kernels must beat, and what runs where there are none. Each pair of images
is multiplied once: the rows of the product serve one image, its columns the other.

`precision="exact"`: the product is float32 (never TF32); every candidate that its error bound
(`operands`) cannot exclude is recomputed as sum((x - y)^2) from the original rows, so distances
are right near zero too. `"fast"`: float16 products with float32 sums on CUDA, float32 elsewhere;
the best candidate is recomputed. Memory beyond input and output: the operands, a tile of one image
by several and the distances of a chunk of queries, within `memory_limit`.
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
from .rounding import UNIT, Operands, Space, fit_space, ieee_products

_SHARE = 0.5  # of the free memory, where no limit is given
_ENTRY = 16  # bytes an entry of a tile: the product, masks, the list of candidates and its rows
_MANY = 16  # candidates a row, on average, above which a pair of images is computed directly
_CUDA_TILE = 256 << 20
_CPU_TILE = 32 << 20


def lnamd(tokens: Tensor, grid: tuple[int, int], degrees: Sequence[int]) -> list[Tensor]:
    """See `reference.lnamd`; image by image, float64 where the device has it, results float32."""
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
    """See `reference.interval_mean`; selection without a full sort, results float32."""
    lowest = distances.float().topk(k_max, dim=-1, largest=False, sorted=True).values
    return lowest[..., k_min:].mean(dim=-1)


def patch_to_image(
    z: Tensor,
    references: Tensor | None = None,
    options: SearchOptions = DEFAULT_OPTIONS,
) -> Tensor:
    """See `reference.patch_to_image`; results float32."""
    search = _Search(z, references, options)
    found = search.empty(z.shape[0])
    for step in search.fill(found, 0, z.shape[0]):
        if options.on_progress is not None:
            options.on_progress(*step)
    return found.transpose(1, 2).contiguous()


def msm(
    z: Tensor,
    references: Tensor | None,
    k_min: int,
    k_max: int,
    options: SearchOptions = DEFAULT_OPTIONS,
) -> Tensor:
    """See `reference.msm`; the distances of a chunk of queries at a time, results float32."""
    search = _Search(z, references, options)
    images = z.shape[0]
    chunk = search.chunk()
    results = []
    for first in range(0, images, chunk):
        last = min(images, first + chunk)
        found = search.empty(last - first)
        for done, total in search.fill(found, first, last):
            if options.on_progress is not None:
                options.on_progress(first * total + done * (last - first), images * total)
        results += [interval_mean(image.T, k_min, k_max) for image in found]
        del found
    return torch.stack(results)


@dataclass(frozen=True)
class _Side:
    """One set of images: the original rows in float32 and the operands of the product."""

    rows: Tensor  # [N, P, C]
    operands: Operands


def _side(space: Space, z: Tensor) -> _Side:
    return _Side(z.float(), space.apply(z))


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
            self.left = _side(space, z)
            self.right = self.left if references is None else _side(space, others)
        largest = max(self.left.operands.largest(), self.right.operands.largest())
        self.error = self.left.operands.error(largest)

    def chunk(self) -> int:
        """Queries whose distances to all references fit half the budget, in even chunks."""
        images, patches = self.left.rows.shape[:2]
        each = 4 * patches * self.right.rows.shape[0]
        chunk = max(1, min(images, self.budget // 2 // each))
        return -(-images // -(-images // chunk))

    def empty(self, images: int) -> Tensor:
        """Room for distances, [images, M, P]: +inf, as an image's own stay."""
        shape = (images, self.right.rows.shape[0], self.left.rows.shape[1])
        return torch.full(shape, math.inf, dtype=torch.float32, device=self.left.rows.device)

    def fill(self, found: Tensor, first: int, last: int) -> Iterator[tuple[int, int]]:
        """Fill found [last - first, M, P] for the queries first to last - 1; yields progress."""
        for i in range(first, last):
            for start, end, mirrored in self._spans(i, first, last):
                with ieee_products():
                    row, column = self._tile(i, start, end, mirrored)
                found[i - first, start:end] = row
                if column is not None:
                    found[start - first : end - first, i] = column
            yield i + 1 - first, last - first

    def _spans(self, i: int, first: int, last: int) -> Iterator[tuple[int, int, bool]]:
        """Runs of references for query i; `mirrored` where they are queries of the chunk too."""
        count = self.right.rows.shape[0]
        runs = [(0, count, False)]
        if self.symmetric:  # queries of the chunk before i have filled their share
            runs = [(0, first, False), (i + 1, last, True), (last, count, False)]
        for begin, stop, mirrored in runs:
            for start in range(begin, stop, self.span):
                yield start, min(stop, start + self.span), mirrored

    def _tile(self, i: int, start: int, end: int, mirrored: bool) -> tuple[Tensor, Tensor | None]:
        """Distances of image i to references start to end - 1 [b, P], and theirs to i [b, Q]."""
        x, y = self.left.operands.images(i, i + 1), self.right.operands.images(start, end)
        rows, others = self.left.rows[i], self.right.rows[start:end]
        squared = _squared(x, y)  # [P, b, Q]
        if not self.exact:
            index = torch.arange(end - start, device=rows.device)
            nearest = squared.argmin(dim=2)  # [P, b]
            row = torch.stack([_direct(rows, others[b, nearest[:, b]]) for b in index]).sqrt()
            if not mirrored:
                return row, None
            back = squared.argmin(dim=0)  # [b, Q]
            column = torch.stack([_direct(others[b], rows[back[b]]) for b in index]).sqrt()
            return row, column
        slack = x.rho.amax() + y.rho.amax(dim=1)  # [b]
        window = self._window(squared.amin(dim=2), slack)  # [P, b]
        row = _refined(squared <= window[:, :, None], rows, others, columns=False)
        if not mirrored:
            return row, None
        window = self._window(squared.amin(dim=0), slack[:, None])  # [b, Q]
        return row, _refined(squared <= window[None], rows, others, columns=True)

    def _window(self, best: Tensor, slack: Tensor) -> Tensor:
        """What the search may find for the nearest, where the best that it found is `best`."""
        reach = (best + self.error).clamp_min(0).sqrt() + 2 * slack
        return reach.square() * (1 + 16 * UNIT) + self.error


def _squared(x: Operands, y: Operands) -> Tensor:
    """|x|^2 + |y|^2 - 2xy of the operands of one image and of b images -> [P, b, Q] float32."""
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


def _refined(mask: Tensor, rows: Tensor, others: Tensor, *, columns: bool) -> Tensor:
    """Least distance among the candidates of `mask` [P, b, Q] -> [b, P], with `columns` [b, Q].

    rows [P, C] and others [b, Q, C] are the original rows. Consumes `mask`.
    """
    patches, images, channels = rows.shape[0], others.shape[0], rows.shape[1]
    size = others.shape[1] if columns else patches
    least = torch.full((images, size), math.inf, dtype=torch.float32, device=rows.device)
    crowded = mask.sum(dim=(0, 2)) > _MANY * size
    for b in crowded.nonzero()[:, 0].tolist():
        # All differences of the pair: quicker than a list where nearly everything is a tie.
        all_pairs = torch.cdist(rows, others[b], compute_mode="donot_use_mm_for_euclid_dist")
        least[b] = all_pairs.amin(dim=0 if columns else 1).square()
        mask[:, b] = False
    p, b, q = mask.nonzero(as_tuple=True)
    slots = b * size + (q if columns else p)
    step = max(1, mask.numel() * 4 // (8 * channels))
    for first in range(0, p.shape[0], step):
        part = slice(first, first + step)
        squared = _direct(rows[p[part]], others[b[part], q[part]])
        least.view(-1).scatter_reduce_(0, slots[part], squared, "amin")
    return least.sqrt_()


def _budget(z: Tensor, others: Tensor, low: bool, memory_limit: int | None) -> int:
    """Bytes for tiles and distances: the limit less operands and copies; InputError if too few."""
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
