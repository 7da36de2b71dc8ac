"""What the patches of an image tell beside its score: further peaks, and the relief.

Peaks are highest patches that lie apart: a patch's score is made of features averaged over up to
5 x 5 patches, so that within two places high patches are one and the same finding. The relief of an
image is how far one of its patches rises above those around it. A fault of the surface has one, an
image that scores high all over has not.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from ..errors import InputError

NEXT_PEAKS = 2  # of an image, below its highest
_APART = 5  # side of the square of patches that has one peak
_AROUND = 11  # side of the square of patches that a relief rises from
_BLOCK = 64  # images at a time
_ROUNDING = 1e-9  # of the score, which means are off by at most
_Floats = npt.NDArray[np.float64]
_Scores = npt.NDArray[np.floating[Any]]


def next_peaks(patch_scores: _Scores, scores: _Floats) -> _Floats:
    """The second highest peak of each image and so on, descending, [N, NEXT_PEAKS].

    None is above the image's score. -inf where an image has fewer peaks.

    patch_scores: [N, H, W]. scores: [N], the raw scores of the images.
    """
    peaks = np.concatenate([_highest_peaks(block) for block in _blocks(patch_scores)])
    lower: _Floats = np.minimum(peaks[:, 1:], scores[:, None])
    return lower


def _highest_peaks(block: _Floats) -> _Floats:
    """The highest peaks of each image, descending, [M, NEXT_PEAKS + 1]."""
    flat = block.reshape(len(block), -1)
    rank = np.empty(flat.shape, np.int64)  # of equal patches one is the highest
    np.put_along_axis(
        rank, flat.argsort(axis=1, kind="stable"), np.arange(flat.shape[1])[None], axis=1
    )
    ranks = rank.reshape(block.shape)
    around = ndimage.maximum_filter(ranks, size=(1, _APART, _APART), mode="nearest")
    peaks = np.where(ranks == around, block, -np.inf).reshape(flat.shape)
    peaks = np.pad(peaks, ((0, 0), (0, NEXT_PEAKS)), constant_values=-np.inf)
    highest: _Floats = -np.sort(np.partition(-peaks, NEXT_PEAKS, axis=1)[:, : NEXT_PEAKS + 1])
    return highest


def reliefs(patch_scores: _Scores) -> _Floats:
    """How far the patch of each image that rises most stands above the mean around it, [N].

    0 where that is no more than rounding.

    patch_scores: [N, H, W]; patches with score 0 (ignored areas, exact copies) do not count.
    """
    return np.concatenate([_reliefs(block) for block in _blocks(patch_scores)])


def _reliefs(block: _Floats) -> _Floats:
    counted = (block > 0).astype(np.float64)
    size = (1, _AROUND, _AROUND)
    total = ndimage.uniform_filter(block, size, mode="constant")
    share = ndimage.uniform_filter(counted, size, mode="constant")
    rise = np.where(counted > 0, block - total / np.maximum(share, 1e-12), 0.0)
    highest: _Floats = rise.max(axis=(1, 2))
    highest[highest <= _ROUNDING * block.max(axis=(1, 2))] = 0.0
    return highest


def _blocks(patch_scores: _Scores) -> Iterator[_Floats]:
    """The patch scores of some images at a time, as doubles: a copy of all may not fit."""
    for first in range(0, len(patch_scores), _BLOCK):
        yield patch_scores[first : first + _BLOCK].astype(np.float64)


def check_patch_scores(name: str, patch_scores: npt.ArrayLike, scores: _Floats) -> _Scores:
    """`patch_scores` as an array; InputError naming it unless [N, H, W], one a score, 0 or more."""
    found = np.asarray(patch_scores)
    if found.ndim != 3 or len(found) != len(scores) or 0 in found.shape:
        raise InputError(
            f"{name} must be [{len(scores)}, H, W], one map a score, but are {list(found.shape)}"
        )
    if not np.issubdtype(found.dtype, np.floating):
        raise InputError(f"{name}: found {found.dtype}, wanted floats")
    finite = np.isfinite(found).all(axis=(1, 2))
    if not finite.all():
        raise InputError(f"{name}[{int(finite.argmin())}] has values that are not finite")
    if found.size and found.min() < 0:
        raise InputError(f"{name} must be distances, 0 or more, but hold {found.min():g}")
    return found
