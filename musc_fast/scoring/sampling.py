"""Which other images score an image, where not all do: cost N K instead of N^2.

The choice depends on the images' contents and a fixed seed alone: not on labels, and not on the
order of the files, in which defects may follow good parts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

_SEED = 0


def content_order(tokens: Tensor) -> list[int]:
    """The images of tokens [N, P, C] in the order of their contents' digests: as good as random."""
    digests = [
        hashlib.blake2b(image.detach().float().cpu().contiguous().numpy().data).digest()
        for image in tokens
    ]
    return sorted(range(len(digests)), key=lambda i: (digests[i], i))


def sample_others(tokens: Tensor, count: int) -> Tensor | None:
    """For every image of tokens [N, P, C] `count` others -> [N, count] int64, ascending rows.

    None where that is all of them. The images stand on a circle in the order of their contents;
    each takes those at `count` distances drawn with a fixed seed, both ways, so that i is among
    the others of j where j is among those of i: one search serves both.
    """
    images = tokens.shape[0]
    if count >= images - 1:
        return None
    half = (images - 1) // 2  # distances that have two sides
    generator = torch.Generator("cpu").manual_seed(_SEED)
    drawn = (
        torch.randperm(half, generator=generator, dtype=torch.int64, device="cpu") + 1
    ).tolist()
    strides = [
        stride for distance in drawn[: count // 2] for stride in (distance, images - distance)
    ]
    if count % 2:
        strides.append(images // 2 if images % 2 == 0 else drawn[count // 2])
    order = _whole(content_order(tokens))
    places = (_whole(range(images))[:, None] + _whole(strides)[None, :]) % images
    lists = torch.empty(images, count, dtype=torch.int64, device="cpu")
    lists[order] = order[places]
    return lists.sort(dim=1).values


def sample_references(tokens: Tensor, count: int) -> list[int] | None:
    """`count` of the reference images tokens [M, P, C], the same for all queries; None: all."""
    return None if count >= tokens.shape[0] else sorted(content_order(tokens)[:count])


def _whole(numbers: Sequence[int]) -> Tensor:
    return torch.tensor(numbers, dtype=torch.int64, device="cpu")
