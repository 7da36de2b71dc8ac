"""Nearest-patch scores other than MuSc's, on the same operators.

Patch features of one layer come in, [N, P, C] of any floating dtype (prefix tokens dropped, LNAMD
or not), patch scores [N, P] float32 come out; `top_mean` makes image scores of them.

"cosine" distance is 1 - cos = |x - y|^2 / 2 of the L2-normalised rows. The functions normalise the
rows; a zero row stays zero and has distance 1/2 to every other row. "euclidean" takes the features
as they are. This module scores alone: the caller rotates references, masks backgrounds and chooses
coresets (AnomalyDINO, PatchCore), and joins scores of text prompts (Dual-Image).
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from . import ops
from .backends.products import ieee_products
from .checks import LARGEST, check_finite, check_kind, check_tokens, describe
from .errors import InputError
from .progress import Progress, check_progress
from .settings import check_memory_limit

Distance = Literal["cosine", "euclidean"]
_TILE = 256 << 20  # bytes of a block of products, where no limit is given
_RESERVE = 8 << 20


@torch.no_grad()
def few_shot(
    z: Tensor,
    references: Tensor,
    *,
    distance: Distance = "cosine",
    backend: str = "auto",
    precision: str = "exact",
    memory_limit: int | None = None,
    progress: Progress | None = None,
) -> Tensor:
    """Distance of every patch to the nearest patch of a memory bank -> [N, P].

    references: [M, Q, C], the bank: the patches of M normal images. A bank that is a mere list of
        rows [B, C] (masked patches, a coreset) goes in as bank[None].
    distance: "cosine" as in AnomalyDINO (Damm et al., WACV 2025, eq. 2 and 3), whose image score is
        `top_mean(scores)`; "euclidean" as in PatchCore (Roth et al., CVPR 2022), whose image score
        is `scores.amax(dim=1)` (as its code has it, without the weight of eq. 7).
    backend, precision, memory_limit, progress: see `ops.msm`; the limit is beyond the normalised
        copies too.

    Raises InputError naming the argument.
    """
    _check_distance(distance)
    most = math.inf if distance == "cosine" else LARGEST
    check_tokens("z", z, most)
    check_tokens("references", references, most)
    if distance == "cosine":
        z, references = _normalised(z), _normalised(references)
    # The mean of the one lowest of the distances to each image is the minimum over the bank.
    nearest = ops.msm(
        z,
        references,
        (0, 1),
        backend=backend,
        precision=precision,
        memory_limit=memory_limit,
        progress=progress,
    )
    return nearest.square().div_(2) if distance == "cosine" else nearest


@torch.no_grad()
def dual_image(
    z: Tensor,
    others: Tensor,
    *,
    distance: Distance = "cosine",
    backend: str = "auto",
    precision: str = "exact",
    memory_limit: int | None = None,
    progress: Progress | None = None,
) -> Tensor:
    """Distance of every patch to the nearest patch of one other image -> [N, P].

    others: [N, Q, C]; image i of z is compared with image i of these alone. Within a batch,
        `z.roll(1, dims=0)` pairs each image with the one before it.

    The visual half of Dual-Image Enhanced CLIP (Zhang et al., arXiv 2405.04782), where each image
    of a pair of unlabelled ones is the other's reference. Other arguments as in `few_shot`.
    """
    _check_distance(distance)
    check_progress(progress)
    most = math.inf if distance == "cosine" else LARGEST
    check_tokens("z", z, most)
    check_tokens("others", others, most)
    if others.shape[0] != z.shape[0] or others.shape[2] != z.shape[2]:
        raise InputError(
            f"others: found {list(others.shape)}, wanted [{z.shape[0]}, Q, {z.shape[2]}], one "
            f"image for each of z {list(z.shape)}"
        )
    scores = []
    for i in range(z.shape[0]):
        scores.append(
            few_shot(
                z[i : i + 1],
                others[i : i + 1],
                distance=distance,
                backend=backend,
                precision=precision,
                memory_limit=memory_limit,
            )
        )
        if progress is not None:
            progress(i + 1, z.shape[0])
    return torch.cat(scores)


@torch.no_grad()
def batched_zero_shot(
    z: Tensor,
    *,
    share: float = 0.001,
    memory_limit: int | None = None,
    progress: Progress | None = None,
) -> Tensor:
    """Mean cosine distance of every patch to its nearest of all patches of the others -> [N, P].

    share: the part of the (N - 1) P patches of the other images that counts, rounded down, one at
        least.
    memory_limit: bytes beyond input and output; None takes 256 MiB beyond a float32 copy of z.

    AnomalyDINO's batched zero-shot variant (Damm et al., WACV 2025, appendix D). Its code averages
    what is strictly below the last of the counted distances, so one less without ties, and gives
    NaN where only one counts; here all that count are averaged.

    Every pair of patches is multiplied in float32 and the chosen distances are recomputed as
    |x - y|^2 / 2, so duplicates are at 0 and small distances keep their digits. The choice can
    mistake distances for equal that differ by less than the rounding of a product, at most
    2 (C + 2) 2^-24 and about 1e-7 in practice: a score is never more than that above the truth.

    Raises InputError naming the argument, and BackendError where torch is older than 2.9.
    """
    check_tokens("z", z, math.inf)
    check_progress(progress)
    check_memory_limit(memory_limit)
    _check_share(share)
    images, patches, channels = z.shape
    if images < 2:
        raise InputError("z: one image has no others to be scored against, give at least 2 images")
    count = max(1, int(share * (images - 1) * patches))
    rows = _block_rows(images, patches, channels, count, memory_limit)
    unit = _normalised(z)
    every = unit.reshape(-1, channels)
    scores = torch.empty(images, patches, dtype=torch.float32, device=z.device)
    for i in range(images):
        for first in range(0, patches, rows):
            block = unit[i, first : first + rows]  # [b, C]
            with ieee_products():
                products = block @ every.T  # [b, N P]
            products[:, i * patches : (i + 1) * patches] = -torch.inf
            nearest = products.topk(count, dim=1, sorted=False).indices  # [b, count]
            squares = every[nearest].sub_(block[:, None]).square_()  # [b, count, C]
            scores[i, first : first + rows] = squares.sum(dim=2).mean(dim=1).div_(2)
            del products, nearest, squares  # before the next block takes its room
        if progress is not None:
            progress(i + 1, images)
    return scores


@torch.no_grad()
def top_mean(patch_scores: Tensor, share: float = 0.01) -> Tensor:
    """Image scores: the mean of the highest patch scores, [N, P] or [N, H, W] -> [N] float32.

    share: the part of the patches that counts, rounded down, one at least (AnomalyDINO's mean of
    the top 1%, Damm et al., WACV 2025, section 3.1 and `mean_top1p` of its code).
    """
    check_kind("patch_scores", patch_scores)
    if patch_scores.ndim < 2 or 0 in patch_scores.shape:
        raise InputError(
            f"patch_scores: found {describe(patch_scores)}, wanted a float [N, P] or [N, H, W]"
        )
    check_finite("patch_scores", patch_scores, 1e38)  # results are float32
    _check_share(share)
    flat = patch_scores.flatten(1)
    count = max(1, int(flat.shape[1] * share))
    return flat.topk(count, dim=1, sorted=False).values.double().mean(dim=1).float()


def _normalised(z: Tensor) -> Tensor:
    """z with rows of norm 1, float32; zero rows stay zero. Image by image, to save memory."""
    unit = torch.empty(z.shape, dtype=torch.float32, device=z.device)
    for row, image in zip(unit, z, strict=True):
        wide = image.double()
        # Divided by the largest value first, squares neither vanish nor overflow.
        wide = wide / wide.abs().amax(dim=1, keepdim=True).clamp_min(torch.finfo(wide.dtype).tiny)
        row.copy_(F.normalize(wide, dim=1))
    return unit


def _check_distance(distance: str) -> None:
    if not isinstance(distance, str) or distance not in ("cosine", "euclidean"):
        raise InputError(f'distance: found {distance!r}, wanted "cosine" or "euclidean"')


def _check_share(share: float) -> None:
    number = isinstance(share, int | float | np.floating) and not isinstance(share, bool)
    if not number or not 0 < share <= 1:
        raise InputError(f"share: found {share}, wanted more than 0 and at most 1")


def _block_rows(
    images: int, patches: int, channels: int, count: int, memory_limit: int | None
) -> int:
    """Rows of an image that are compared with all patches at a time, within `memory_limit`."""
    row = 4 * images * patches + count * (4 * channels + 16)  # products; the rows chosen
    # The normalised copy, a list a thread in topk, and scratch of the products.
    fixed = 4 * images * patches * channels + _RESERVE
    fixed += 16 * images * patches * torch.get_num_threads()
    if memory_limit is None:
        return max(1, min(patches, _TILE // row))
    if memory_limit < fixed + row:
        raise InputError(
            f"memory_limit: this needs at least {(fixed + row) / 2**20:.0f} MiB beyond input and "
            f"output, the limit is {memory_limit / 2**20:.0f} MiB; raise it or score fewer images"
        )
    return min(patches, (memory_limit - fixed) // row)
