"""What the patches of an image tell beside its score: further peaks, and the relief.

Peaks are highest patches that lie apart: a patch's score is made of features averaged over up to
5 x 5 patches, so that within two places high patches are one and the same finding. The relief of an
image is how far one of its patches rises above those around it. A fault of the surface has one, an
image that scores high all over has not.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from ..errors import InputError

NEXT_PEAKS = 2  # of an image, below its highest
_APART = 5  # side of the square of patches that has one peak
_AROUND = 11  # side of the square of patches that a relief rises from
_Floats = npt.NDArray[np.float64]


def next_peaks(patch_scores: _Floats, scores: _Floats) -> _Floats:
    """The second highest peak of each image and so on, descending, [N, NEXT_PEAKS].

    None is above the image's score. Where an image has too few peaks, its last one is repeated.

    patch_scores: [N, H, W]. scores: [N], the raw scores of the images.
    """
    highest = ndimage.maximum_filter(patch_scores, size=(1, _APART, _APART), mode="nearest")
    found = np.where(patch_scores >= highest, patch_scores, -np.inf).reshape(len(scores), -1)
    count = min(NEXT_PEAKS + 1, found.shape[1])
    found = -np.sort(np.partition(-found, count - 1, axis=1)[:, :count], axis=1)
    # The maximum of a map is at a peak, so that an image has one peak at least.
    for column in range(1, count):
        lacking = np.isneginf(found[:, column])
        found[lacking, column] = found[lacking, column - 1]
    short = np.repeat(found[:, -1:], NEXT_PEAKS + 1 - count, axis=1)
    peaks: _Floats = np.minimum(np.concatenate([found, short], axis=1)[:, 1:], scores[:, None])
    return peaks


def reliefs(patch_scores: _Floats) -> _Floats:
    """How far the patch of each image that rises most stands above the mean around it, [N].

    patch_scores: [N, H, W]; patches with score 0 (ignored areas, exact copies) do not count.
    """
    counted = (patch_scores > 0).astype(np.float64)
    size = (1, _AROUND, _AROUND)
    total = ndimage.uniform_filter(patch_scores, size, mode="constant")
    share = ndimage.uniform_filter(counted, size, mode="constant")
    rise = patch_scores - total / np.maximum(share, 1e-12)
    rises: _Floats = np.where(counted > 0, rise, 0.0).max(axis=(1, 2))
    return np.maximum(rises, 0.0)


def check_patch_scores(name: str, patch_scores: _Floats, scores: _Floats) -> None:
    """Raise InputError naming the argument unless it is [N, H, W], finite, of as many images."""
    wanted = f"[{len(scores)}, H, W] with H, W > 0, as many as scores"
    if patch_scores.ndim != 3 or len(patch_scores) != len(scores) or 0 in patch_scores.shape:
        raise InputError(f"{name} must be {wanted}, but are {list(patch_scores.shape)}")
    finite = np.isfinite(patch_scores).all(axis=(1, 2))
    if not finite.all():
        raise InputError(f"{name}[{int(finite.argmin())}] has values that are not finite")
