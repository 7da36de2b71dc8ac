"""The operators of the CPU backend under the name that they had up to version 0.1.0."""

from __future__ import annotations

from .backends.cpu.operators import (
    between,
    interval_mean,
    lnamd,
    msm,
    msm_parts,
    nearest_images,
    patch_to_image,
    release_memory,
)

__all__ = [
    "between",
    "interval_mean",
    "lnamd",
    "msm",
    "msm_parts",
    "nearest_images",
    "patch_to_image",
    "release_memory",
]
