"""The feature of each image's most anomalous patch, by which RsCon of MuSc-V2 compares images.

RsCIN smooths image scores over images whose class tokens are alike; RsCon (arXiv 2511.10047) over
images whose most anomalous patches are. The windows are the same: an image and its k - 1 nearest,
weighted by the inner product.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .. import reference
from .layer_passes import Pooling


@torch.no_grad()
def salient_features(
    layers: Sequence[Tensor], pooling: Pooling, patch_scores: Tensor, valid: Tensor | None
) -> Tensor:
    """The pooled features [N, C] of the patches with the highest of patch_scores [N, P].

    layers: [N, P, C] each; the last but one is taken, as in MuSc-V2, or the only one. Where each
        degree has a result of its own, their normalised mean is taken.
    valid: [N, P] bool, the patches that count; None: all.
    """
    layer, places = layers[max(len(layers) - 2, 0)], patch_scores.argmax(dim=1).tolist()
    found = []
    for index, place in enumerate(places):
        image = slice(index, index + 1)
        pooled = pooling.pool_in_memory(layer[image], None if valid is None else valid[image])
        found.append(reference.fuse_degrees(pooled)[0, place])
    return torch.stack(found)
