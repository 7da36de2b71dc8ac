"""Similarity neighbourhood aggregation with multiple degrees (SNAMD) of MuSc-V2, its 2D part.

Li et al., "MuSc-V2: Zero-Shot Multimodal Industrial Anomaly Classification and Segmentation with
Mutual Scoring of Unlabeled Samples", arXiv 2511.10047. Where LNAMD averages a neighbourhood evenly,
SNAMD weighs each neighbour by exp(-|f_neighbour - f_centre| / temperature). There is no LayerNorm.

On features as backbones give them the weights vanish: neighbours lie tens apart, exp(-30) is 1e-13,
and each patch is left alone, which is LNAMD at degree 1. MuSc-V2 brings its 3D features to norm 1
before this step and leaves its 2D features as they are; "snamd-unit" does it for these, too.

This is plain PyTorch, shared by all backends, and one image at a time, so that an image's bits do
not depend on those beside it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def snamd(
    tokens: Tensor,
    grid: tuple[int, int],
    degrees: Sequence[int],
    *,
    unit: bool,
    temperature: float,
    fused: bool,
) -> list[Tensor]:
    """Tokens [N, P, C] -> one Z [N, P, C] float32 a degree, or their mean alone where `fused`.

    Rows of Z have norm 1; the mean is taken before they are normalised, as in MuSc-V2. Beyond the
    border of the grid neighbours are zero vectors, and count.

    unit: bring the tokens to norm 1 first.
    temperature: above 0; 1 is that of MuSc-V2.
    """
    count = 1 if fused else len(degrees)
    results = [tokens.new_empty(tokens.shape, dtype=torch.float32) for _ in range(count)]
    for index, image in enumerate(tokens):
        features = image.float()
        means = _means(
            F.normalize(features, dim=1) if unit else features, grid, degrees, temperature
        )
        if fused:
            means = [torch.stack(means).mean(dim=0)]
        for result, mean in zip(results, means, strict=True):
            result[index] = F.normalize(mean, dim=1, eps=1e-12)
    return results


def _means(
    features: Tensor, grid: tuple[int, int], degrees: Sequence[int], temperature: float
) -> list[Tensor]:
    """The weighted means [P, C] of the neighbourhoods of an image, one a degree."""
    (height, width), reach = grid, max(degrees) // 2
    padded = F.pad(features.view(height, width, -1), (0, 0, reach, reach, reach, reach))
    centre = features.view(height, width, -1)
    sums = [torch.zeros_like(centre) for _ in degrees]
    weights = [centre.new_zeros(height, width, 1) for _ in degrees]
    for down in range(-reach, reach + 1):
        for across in range(-reach, reach + 1):
            top, left = reach + down, reach + across
            neighbour = padded[top : top + height, left : left + width]
            distance = torch.linalg.vector_norm(neighbour - centre, dim=2, keepdim=True)
            weight = torch.exp(-distance / temperature)
            for place, degree in enumerate(degrees):
                if max(abs(down), abs(across)) <= degree // 2:
                    sums[place] += weight * neighbour
                    weights[place] += weight
    return [(sums[k] / weights[k]).view(height * width, -1) for k in range(len(degrees))]
