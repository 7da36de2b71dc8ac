"""Features of real images: what the kernel benchmarks work on."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from musc_fast.backends.cpu import operators as cpu

from .checkout import SHARED
from .official import count_lowest


@dataclass(frozen=True)
class Case:
    """A batch of features: patches `z` [N, P, C] after LNAMD, and the name of their source."""

    name: str
    z: Tensor

    @property
    def flops(self) -> float:
        """2 N (N - 1) P^2 C: the operations that every code's rate counts, whatever it saves."""
        images, patches, channels = self.z.shape
        return 2.0 * images * (images - 1) * patches**2 * channels

    @property
    def k_max(self) -> int:
        return count_lowest(len(self.z) - 1)


def find_images(count: int) -> list[Path] | None:
    """Images of shared/data, good and defect mixed; None where the folder has fewer."""
    folder = SHARED / "data" / "mpdd_metal_plate" / "test"
    files = sorted(folder.glob("good/*")) + sorted(folder.glob("defect/*"))
    random.Random(0).shuffle(files)
    return files[:count] if len(files) >= count else None


def backbone_tokens(
    name: str, size: int, blocks: list[int], count: int, *, mirrored: bool = False
) -> tuple[list[Tensor], tuple[int, int]] | None:
    """Patch tokens [N, P, C] of each block for `count` real images, and the grid; None without.

    With `mirrored` a quarter of the images is read; their mirror images (left to right, upside
    down, both) are the rest.
    """
    from musc_fast.features import load_backbone

    flips: tuple[tuple[int, ...], ...] = ((), (1,), (0,), (0, 1)) if mirrored else ((),)
    files = find_images(-(-count // len(flips)))
    if files is None:
        return None
    views = [(path, axes) for axes in flips for path in files][:count]
    backbone = load_backbone(name, image_size=size, blocks=blocks)
    parts: list[list[Tensor]] = [[] for _ in blocks]
    for start in range(0, count, 4):
        batch = []
        for path, axes in views[start : start + 4]:
            with Image.open(path) as image:
                pixels = backbone.preprocess(image.convert("RGB"))
            batch.append(pixels.flip([axis + 1 for axis in axes]))
        layers = backbone.extract(torch.stack(batch), cls=False).tokens
        for part, tokens in zip(parts, layers, strict=True):
            part.append(tokens[:, backbone.prefix_tokens :])
    return [torch.cat(part) for part in parts], backbone.grid


def load_cases(large: bool) -> list[Case]:
    """(16, 1369, 384), (12 and 16, 1024, 768) of real features (degree 1), and isotropic noise.

    `large` adds (64, 1369, 384). Without shared/data the noise is the only case.
    """
    cases = []
    dino = backbone_tokens("dinov2-vit-s-14", 518, [2, 9], 64 if large else 16)
    if dino is not None:
        for block, tokens in zip((2, 9), dino[0], strict=True):
            z = cpu.lnamd(tokens, dino[1], (1,))[0]
            cases.append(Case(f"DINOv2-S block {block}", z[:16]))
            if large:
                cases.append(Case(f"DINOv2-S block {block}", z))
    clip = backbone_tokens("clip-vit-b-16", 512, [11], 16)
    if clip is not None:
        z = cpu.lnamd(clip[0][0], clip[1], (1,))[0]
        cases += [Case("CLIP B/16 block 11", z[:count]) for count in (12, 16)]
    cases.append(noise_case(16, 1369, 384))
    return cases


def tiny_cases() -> list[Case]:
    """Noise that takes no time: does a program run at all?"""
    return [noise_case(5, 64, 48)]


def noise_case(images: int, patches: int, channels: int) -> Case:
    """Isotropic noise on the unit sphere."""
    noise = torch.randn(images, patches, channels, generator=torch.Generator().manual_seed(0))
    return Case("isotropic noise", torch.nn.functional.normalize(noise, dim=2))
