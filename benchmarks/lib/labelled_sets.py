"""The real images of the accuracy comparisons, with their labels and masks."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from musc_fast import MuSc
from musc_fast.backends.registry import resolve
from musc_fast.datasets.layouts import Sample, load_mvtec, sample_mask
from musc_fast.scoring.layer_passes import Pooling

SETS = ["mpdd_metal_plate", "kolektorsdd"]
SIZES = {"dinov2-vit-s-14": 392, "clip-vit-b-16": 384}  # image side by backbone
EACH = 24  # good images of a set, and as many defect images


def choose_samples(root: Path, each: int = EACH) -> list[Sample]:
    """The images of the official comparison: `each` good ones, then `each` defect ones.

    Both lists are sorted by path and shuffled in turn by one `random.Random(0)`.
    """
    samples = load_mvtec(root)[0].samples
    generator = random.Random(0)
    result = []
    for label in (False, True):
        ordered = sorted((s for s in samples if s.label is label), key=lambda s: str(s.image))
        generator.shuffle(ordered)
        result += ordered[:each]
    return result


def labels_of(samples: list[Sample]) -> NDArray[np.bool_]:
    """Whether each image is defective, [N]."""
    return np.array([bool(sample.label) for sample in samples])


def masks_of(samples: list[Sample], size: tuple[int, int]) -> NDArray[np.bool_]:
    """Masks of the defects [N, H, W] at `size`."""
    return np.stack([sample_mask(sample, size) for sample in samples])


def pooled_features(musc: MuSc, samples: list[Sample]) -> Tensor:
    """The pooled features [N, P, C] of the samples, as a recipe of one search compares them."""
    (layer,) = musc.extract([sample.image for sample in samples]).tokens
    layer = layer[:, musc.backbone.prefix_tokens :]
    operators = resolve("auto", layer.device).operators()
    (z,) = Pooling(operators, musc.backbone.grid, musc.settings).pool_in_memory(layer)
    return z
