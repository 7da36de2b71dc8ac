"""Mean and spread of each image of tokens, which the LayerNorm of LNAMD takes.

An image is summed in PARTS parts of consecutive tokens, one program each. `sums` [N, 4, PARTS]
float32 holds the sum, the sum of squares, the least and the greatest value of each part. Whoever
needs the moments of an image adds its parts in float64, always in the same order, so it does not
matter which program summed which part, nor when.

Memory: the tokens are read once; floor on an H100 (3.35 TB/s) for 200 * 1369 float32 tokens of 1024
channels: 0.33 ms.
"""

# mypy: disable-error-code="no-untyped-def,untyped-decorator"

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .lnamd_strips import Config

PARTS = 32  # partial sums of an image; a power of two


@triton.jit
def sum_part(
    x_ptr,
    sums_ptr,
    image,
    part,
    P,
    C,
    stride_n,
    stride_p,
    PARTS: tl.constexpr,
    BLOCK_S: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Store the sum, the sum of squares, the minimum and the maximum of one part of an image.

    BLOCK_S: tokens that are added at a time.
    """
    channels = tl.arange(0, BLOCK_C)[None, :]
    base = x_ptr + image.to(tl.int64) * stride_n
    size = tl.cdiv(P, PARTS)
    last = tl.minimum((part + 1) * size, P)
    total = tl.zeros([BLOCK_S, BLOCK_C], tl.float32)
    square = total
    least = tl.full([BLOCK_S, BLOCK_C], float("inf"), tl.float32)
    greatest = -least
    for first in range(part * size, last, BLOCK_S):
        token = first + tl.arange(0, BLOCK_S)
        mask = (token < last)[:, None] & (channels < C)
        at = token.to(tl.int64)[:, None] * stride_p + channels
        x = tl.load(base + at, mask=mask, other=0.0).to(tl.float32)
        total += x
        square += x * x
        least = tl.minimum(least, tl.where(mask, x, float("inf")))
        greatest = tl.maximum(greatest, tl.where(mask, x, float("-inf")))
    out = sums_ptr + image * (4 * PARTS) + part
    tl.store(out, tl.sum(tl.sum(total, axis=1), axis=0))
    tl.store(out + PARTS, tl.sum(tl.sum(square, axis=1), axis=0))
    tl.store(out + 2 * PARTS, tl.min(tl.min(least, axis=1), axis=0))
    tl.store(out + 3 * PARTS, tl.max(tl.max(greatest, axis=1), axis=0))


@triton.jit
def load_moments(sums_ptr, image, P, C, PARTS: tl.constexpr):
    """Mean of an image and 1 / sqrt(variance + 1e-5), from the sums of its parts.

    Rounding may put the mean of a constant image beside its value. The mean is therefore clamped
    between the least and the greatest value, and the image becomes zeros and not noise.

    The loads pass by the L1 cache (".cg"), since other programs of the launch may have just stored.
    """
    at = sums_ptr + image * (4 * PARTS) + tl.arange(0, PARTS)
    total = tl.load(at, cache_modifier=".cg").to(tl.float64)
    square = tl.load(at + PARTS, cache_modifier=".cg").to(tl.float64)
    least = tl.min(tl.load(at + 2 * PARTS, cache_modifier=".cg"), axis=0)
    greatest = tl.max(tl.load(at + 3 * PARTS, cache_modifier=".cg"), axis=0)
    count = (P * 1.0) * C
    mean = (tl.sum(total, axis=0) / count).to(tl.float32)
    mean = tl.minimum(tl.maximum(mean, least), greatest)
    variance = (tl.sum(square, axis=0) / count - mean.to(tl.float64) * mean).to(tl.float32)
    return mean, 1.0 / tl.sqrt_rn(tl.maximum(variance, 0.0) + 1e-5)


@triton.jit(do_not_specialize=["P"])
def _moments_kernel(
    x_ptr,
    sums_ptr,
    P,
    C,
    stride_n,
    stride_p,
    PARTS: tl.constexpr,
    BLOCK_S: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Program (image, part) sums one part."""
    image, part = tl.program_id(0), tl.program_id(1)
    sum_part(x_ptr, sums_ptr, image, part, P, C, stride_n, stride_p, PARTS, BLOCK_S, BLOCK_C)


def empty_sums(tokens: Tensor) -> Tensor:
    """Room for the sums of the parts of tokens [N, P, C]."""
    return torch.empty(len(tokens), 4, PARTS, dtype=torch.float32, device=tokens.device)


def sum_images(tokens: Tensor, config: Config) -> Tensor:
    """The sums of the parts of tokens [N, P, C] in a launch of their own."""
    n, p, c = tokens.shape
    sums = empty_sums(tokens)
    _moments_kernel[(n, PARTS)](
        tokens,
        sums,
        p,
        c,
        tokens.stride(0),
        tokens.stride(1),
        PARTS=PARTS,
        BLOCK_S=config.BLOCK_S,
        BLOCK_C=config.BLOCK_C,
        enable_fp_fusion=True,
    )
    return sums
