"""Drawn tokens with the spectrum of real ones."""

from __future__ import annotations

import torch
from torch import Tensor


def draw_tokens(n: int, p: int, c: int, device: torch.device, seed: int = 0) -> Tensor:
    """Tokens [N, P, C] float32 with the spectrum of real ones.

    They are a template of patches, each image's own deviation (both with spectrum 1 / k), noise,
    and a channel that is twenty times as large.
    """
    generator = torch.Generator(device).manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, device=device)

    scale = torch.arange(1, c + 1, device=device).float() ** -1.0
    rotation = torch.linalg.qr(draw(c, c)).Q
    template = draw(1, p, c) * scale
    tokens = torch.empty(n, p, c, device=device)
    for i in range(n):
        tokens[i] = ((template[0] + 0.5 * draw(p, c) * scale) @ rotation) + 0.002 * draw(p, c)
    tokens[..., c // 3] *= 20
    return tokens
