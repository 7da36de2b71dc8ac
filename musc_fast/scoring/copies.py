"""Copies: pictures that are there twice, which would be each other's perfect references.

An exact copy has the same tokens. A near copy, such as a picture saved again as JPEG, is nearly the
same at every place, and so much nearer than the next picture that no other photo of a like part is
mistaken for one. Where parts lie still under an even light, photos of different good parts are as
near to each other as that, but all of them alike: no picture is then nearer than the next by the
factor asked for, and exact copies alone are found. A picture that is turned, shifted or cropped is
no copy here, and neither is one that differs at a single place, as a part before and after damage.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Among = Literal["images", "references", "image of reference"]

# Distances are between the patches of two images at the same places, in units of the tokens'
# spread: their root mean square from the mean token. Pictures saved again as JPEG of quality 75 to
# 95 were at 0.02 to 0.07 on average and below 0.3 everywhere, other photos of a part under a hand
# at 0.2 and more on average, a part with a scratch added to the same photo at 0.7 on the scratch.
_NEAR = 0.1  # on average (root mean square)
_EVERYWHERE = 0.4  # at each place
_NEARER = 0.4  # of the distance to the next picture
_SHARE = 8  # a picture has near copies among 1 / _SHARE of the others at most, or one
_PLACES = 16  # patches by which near copies are looked for, before all are compared
_BLOCK = 1 << 24  # distances that are held at a time


@dataclass(frozen=True)
class Copy:
    """An image that is a copy of another.

    image, of: their places. among: which they are places of: "images" of the batch, "references",
        or "image of reference": an image of the batch, of a reference.
    exact: whether all tokens are the same.
    """

    image: int
    of: int
    among: Among
    exact: bool


def find_copies(
    layers: Sequence[Tensor], references: Sequence[Tensor] | None = None, *, near: bool = True
) -> list[Copy]:
    """The copies among the images of layers [N, P, C], or among and of references [M, P, C].

    With references the images do not score each other, so that copies among them are none. Each
    copy is listed once, with the first image of its like.

    near: also look for near copies, whose sampled patches are held in memory.
    """
    if references is None:
        return _among(layers, "images", near)
    found = _among(references, "references", near)
    kept = without(len(references[0]), found)
    return found + copies_of(layers, references, kept, near=near)


def copies_of(
    layers: Sequence[Tensor],
    references: Sequence[Tensor],
    kept: Sequence[int],
    *,
    near: bool = True,
) -> list[Copy]:
    """The images that are copies of those references that are kept, no two of which are copies."""
    exact = _exact(layers, references, kept)
    rest = [i for i in range(len(layers[0])) if i not in exact]
    nearly = _near(layers[0], references[0], rest, kept) if near else {}
    found = {**exact, **{image: others[0] for image, others in nearly.items()}}
    return [Copy(i, of, "image of reference", i in exact) for i, of in sorted(found.items())]


def without(images: int, copies: Sequence[Copy]) -> list[int]:
    """The places of those images that are no copies of earlier ones."""
    left_out = {copy.image for copy in copies}
    return [place for place in range(images) if place not in left_out]


def _among(layers: Sequence[Tensor], among: Among, nearly: bool) -> list[Copy]:
    exact = _exact(layers, layers, ())
    kept = [image for image in range(len(layers[0])) if image not in exact]
    near = _near(layers[0], layers[0], kept, kept) if nearly else {}
    first: dict[int, int] = {}
    found = []
    for image in range(len(layers[0])):
        # Nearness that is not mutual is chance.
        mutual = [other for other in near.get(image, ()) if image in near.get(other, ())]
        earlier = exact.get(image, min(mutual, default=image))
        if earlier < image:
            first[image] = first.get(earlier, earlier)
            found.append(Copy(image, first[image], among, exact.get(image) == first[image]))
    return found


def _exact(
    layers: Sequence[Tensor], others: Sequence[Tensor], kept: Sequence[int]
) -> dict[int, int]:
    """The images whose tokens are, in all layers, those of one of `others` that are `kept`.

    Where both are the same layers, of an earlier image.
    """
    places = _places(layers[0])
    known: dict[bytes, list[int]] = {}
    own = layers is others
    if not own:
        for other in kept:
            known.setdefault(_bytes(others[0][other], places), []).append(other)
    found: dict[int, int] = {}
    for image in range(len(layers[0])):
        alike = known.setdefault(_bytes(layers[0][image], places), [])
        for other in alike:
            pairs = zip(layers, others, strict=True)
            if all(torch.equal(layer[image], to[other]) for layer, to in pairs):
                found[image] = other
                break
        else:
            if own:
                alike.append(image)
    return found


def _near(
    layer: Tensor, others: Tensor, images: Sequence[int], kept: Sequence[int]
) -> dict[int, list[int]]:
    """Those of `others` that are `kept` and near copies of images, the nearest first.

    layer: [N, P, C]. others: [M, P, C], the same tensor where the images are compared with each
    other. Images without copies are left out.
    """
    own = layer is others
    if len(kept) < (3 if own else 2) or not images:
        return {}
    places = _places(layer)
    mean = torch.stack([others[j][places].float().mean(dim=0) for j in kept]).mean(dim=0)
    sampled = torch.stack([others[j][places].float() - mean for j in kept])  # [m, places, C]
    spread = sampled.square().sum(dim=2).mean().sqrt()
    if not spread:
        return {}
    most = max(1, (len(kept) - own) // _SHARE)
    sides = sampled.flatten(1)
    norms = sides.square().sum(dim=1)
    found: dict[int, list[int]] = {}
    block = max(1, _BLOCK // len(kept))
    for first in range(0, len(images), block):
        some = list(images[first : first + block])
        x = torch.stack([layer[i][places].float() - mean for i in some]).flatten(1)
        squares = x.square().sum(dim=1)[:, None] + norms - 2 * (x @ sides.T)
        distances = (squares.clamp_min(0) / len(places)).sqrt() / spread
        if own:  # the images are those that are kept
            distances[:, first:].fill_diagonal_(torch.inf)
        nearest = distances.topk(min(most + 1, distances.shape[1]), dim=1, largest=False)
        for image, values, order in zip(some, nearest.values, nearest.indices, strict=True):
            apart = values[:-1] <= _NEARER * values[1:]
            leading = (apart & (values[:-1] <= _NEAR)).nonzero()
            if len(leading):
                near = [kept[k] for k in order[: int(leading[-1]) + 1].tolist()]
                if all(_is_near(layer[image], others[j], spread) for j in near):
                    found[image] = near
    return found


def _is_near(image: Tensor, other: Tensor, spread: Tensor) -> bool:
    """Whether two images [P, C] are near at each place, and nearer on average."""
    apart = torch.linalg.vector_norm(image.float() - other.float(), dim=1) / spread
    return bool(apart.square().mean().sqrt() <= _NEAR) and bool(apart.amax() <= _EVERYWHERE)


def _places(layer: Tensor) -> Tensor:
    """Some patches, evenly spread."""
    patches = layer.shape[1]
    step = max(1, patches // _PLACES)
    return torch.arange(0, patches, step, dtype=torch.int64, device=layer.device)


def _bytes(image: Tensor, places: Tensor) -> bytes:
    return image[places].detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
