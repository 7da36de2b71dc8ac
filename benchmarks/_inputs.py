"""What the kernel benchmarks work on: features of real images, and the official loops."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from common import SHARED
from musc_fast.backends.cpu import operators as native


@dataclass(frozen=True)
class Case:
    """One input: `z` [N, P, C] after LNAMD at `degree`, and where it came from."""

    name: str
    z: Tensor

    @property
    def flops(self) -> float:
        """2 N (N - 1) P^2 C: what every code is counted with, however much it saves."""
        images, patches, channels = self.z.shape
        return 2.0 * images * (images - 1) * patches**2 * channels

    @property
    def k_max(self) -> int:
        return max(1, int(0.3 * (len(self.z) - 1)))


def real_images(count: int) -> list[Path] | None:
    """Images of shared/data, good and defect mixed; None where the folder is absent."""
    folder = SHARED / "data" / "mpdd_metal_plate" / "test"
    files = sorted(folder.glob("good/*")) + sorted(folder.glob("defect/*"))
    random.Random(0).shuffle(files)
    return files[:count] if len(files) >= count else None


def backbone_tokens(
    name: str, size: int, blocks: list[int], count: int, *, mirrored: bool = False
) -> tuple[list[Tensor], tuple[int, int]] | None:
    """Patch tokens [N, P, C] of each block for real images, and the grid.

    `mirrored`: a quarter of them, then their mirror images, left to right, upside down, and both.
    """
    from musc_fast.features import load_backbone

    turns: tuple[tuple[int, ...], ...] = ((), (1,), (0,), (0, 1)) if mirrored else ((),)
    files = real_images(-(-count // len(turns)))
    if files is None:
        return None
    views = [(path, turn) for turn in turns for path in files][:count]
    backbone = load_backbone(name, image_size=size, blocks=blocks)
    parts: list[list[Tensor]] = [[] for _ in blocks]
    for at in range(0, count, 4):
        batch = []
        for path, turn in views[at : at + 4]:
            with Image.open(path) as image:
                picture = backbone.preprocess(image.convert("RGB"))
            batch.append(picture.flip([axis + 1 for axis in turn]))
        for part, tokens in zip(
            parts, backbone.extract(torch.stack(batch), cls=False).tokens, strict=True
        ):
            part.append(tokens[:, backbone.prefix_tokens :])
    return [torch.cat(part) for part in parts], backbone.grid


def cases(large: bool) -> list[Case]:
    """(16, 1369, 384), (12 and 16, 1024, 768) of real features (degree 1), and isotropic noise.

    `large` adds (64, 1369, 384). Without shared/data only the noise is left.
    """
    found = []
    dino = backbone_tokens("dinov2-vit-s-14", 518, [2, 9], 64 if large else 16)
    if dino is not None:
        for block, tokens in zip((2, 9), dino[0], strict=True):
            z = native.lnamd(tokens, dino[1], (1,))[0]
            found.append(Case(f"DINOv2-S block {block}", z[:16]))
            if large:
                found.append(Case(f"DINOv2-S block {block}", z))
    clip = backbone_tokens("clip-vit-b-16", 512, [11], 16)
    if clip is not None:
        z = native.lnamd(clip[0][0], clip[1], (1,))[0]
        found += [Case("CLIP B/16 block 11", z[:count]) for count in (12, 16)]
    noise = torch.randn(16, 1369, 384, generator=torch.Generator().manual_seed(0))
    found.append(Case("isotropic noise", torch.nn.functional.normalize(noise, dim=2)))
    return found


def official_one_cdist(z: Tensor, i: int, k_max: int) -> Tensor:
    """The official algorithm for query image i: one cdist against all others, then topk."""
    patches, channels = z.shape[1:]
    others = torch.cat([z[:i], z[i + 1 :]]).reshape(1, -1, channels)
    distances = torch.cdist(z[i : i + 1], others)[0].view(patches, len(z) - 1, patches)
    return distances.amin(2).topk(k_max, largest=False).values.mean(1)


def official_pairs(z: Tensor, i: int, k_max: int) -> Tensor:
    """The official algorithm for query image i: one cdist per pair."""
    columns = [torch.cdist(z[i], z[j]).amin(1) for j in range(len(z)) if j != i]
    return torch.stack(columns, 1).topk(k_max, largest=False).values.mean(1)


OFFICIAL: dict[str, Callable[[Tensor, int, int], Tensor]] = {
    "official, one cdist": official_one_cdist,
    "official, cdist per pair": official_pairs,
}


def truth(z: Tensor, i: int, k_max: int) -> Tensor:
    """MSM of image i in fp64, [P]."""
    columns = []
    x = z[i].double()
    for j in range(len(z)):
        if j != i:
            y = z[j].double()
            square = x.square().sum(1)[:, None] + y.square().sum(1) - 2 * (x @ y.T)
            columns.append((x - y[square.argmin(1)]).norm(dim=1))
    return torch.stack(columns, 1).sort(1).values[:, :k_max].mean(1)
