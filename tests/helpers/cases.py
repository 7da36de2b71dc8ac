"""Inputs and the fp64 truth for the tests of the C++ backend."""

from __future__ import annotations

import torch
from torch import Tensor


def unit(z: Tensor) -> Tensor:
    """L2-normalised over the last axis; zero vectors stay zero."""
    return torch.nn.functional.normalize(z.double(), dim=-1).float()


def features(images: int, patches: int, channels: int, seed: int = 0) -> Tensor:
    """Like the features of one product: a shared layout, few directions, L2-normalised."""
    generator = torch.Generator().manual_seed(seed)
    weights = torch.arange(1, channels + 1).double().pow(-0.6)
    layout = torch.randn(patches, channels, generator=generator, dtype=torch.float64)
    own = torch.randn(images, patches, channels, generator=generator, dtype=torch.float64)
    return unit((layout + 0.4 * own) * weights)


def distances(z: Tensor, references: Tensor | None = None) -> Tensor:
    """The truth in fp64, +inf for an image with itself -> [N, P, M].

    The expansion finds the nearest row, whose distance is then taken as sqrt(sum((x - y)^2)): in
    fp64 it cannot prefer a row that is more than 1e-7 farther.
    """
    others = (z if references is None else references).double()
    out = torch.full((*z.shape[:2], len(others)), torch.inf, dtype=torch.float64)
    for i, x in enumerate(z.double()):
        for j, y in enumerate(others):
            if references is not None or i != j:
                square = x.square().sum(1)[:, None] + y.square().sum(1) - 2 * (x @ y.T)
                out[i, :, j] = (x - y[square.argmin(1)]).norm(dim=1)
    return out


def interval_mean(truth: Tensor, k_min: int, k_max: int) -> Tensor:
    """Mean of sorted(truth)[k_min:k_max] along the last axis."""
    return truth.sort(dim=-1).values[..., k_min:k_max].mean(-1)


def outliers(images: int, patches: int, channels: int) -> Tensor:
    """A few channels 100 times the others, as vision transformers have them."""
    z = torch.randn(images, patches, channels, generator=torch.Generator().manual_seed(1))
    z[..., [3, channels // 2]] *= 100
    return unit(z)


def isotropic(images: int, patches: int, channels: int) -> Tensor:
    """No direction is better than another: no subspace helps."""
    return unit(torch.randn(images, patches, channels, generator=torch.Generator().manual_seed(2)))


def rank_one(images: int, patches: int, channels: int) -> Tensor:
    """Multiples of one vector, not normalised."""
    generator = torch.Generator().manual_seed(3)
    direction = unit(torch.randn(channels, generator=generator))
    return torch.rand(images, patches, 1, generator=generator) * direction


def constant_channels(images: int, patches: int, channels: int) -> Tensor:
    z = features(images, patches, channels, seed=4)
    z[..., : channels // 2] = 0.05
    return unit(z)


def subnormal(images: int, patches: int, channels: int) -> Tensor:
    """Half of the channels hold subnormal numbers."""
    z = features(images, patches, channels, seed=5)
    z[..., ::2] *= 1e-40
    return z


def duplicates(images: int, patches: int, channels: int) -> Tensor:
    """Equal images, and images with equal patches."""
    z = features(images, patches, channels, seed=6)
    z[1] = z[0]
    z[-1, : patches // 2] = z[0, 0]
    return z


def near_duplicates(images: int, patches: int, channels: int) -> Tensor:
    """Images 3e-4 apart: the expansion |x|^2 + |y|^2 - 2xy has no correct digit there."""
    z = features(1, patches, channels, seed=7).repeat(images, 1, 1)
    noise = torch.randn(z.shape, generator=torch.Generator().manual_seed(8))
    return unit(z + 3e-4 / channels**0.5 * noise)


def near_ties(images: int, patches: int, channels: int) -> Tensor:
    """Every patch of an image is nearly equally far (1e-6 apart) from any patch of another."""
    generator = torch.Generator().manual_seed(9)
    z = torch.zeros(images, patches, channels)
    z[..., 0] = 1.0
    for i in range(images):
        z[i, :, 1 + i % (channels - 1)] = 0.5
    return unit(z + 1e-6 * torch.randn(z.shape, generator=generator))


def one_sided(images: int, patches: int, channels: int) -> Tensor:
    """Differences along one direction alone, in steps far below the int8 step of the rest."""
    z = isotropic(1, patches, channels).repeat(images, 1, 1) * 0.7
    steps = torch.arange(images * patches, dtype=torch.float32).view(images, patches)
    z[..., -1] += 1e-5 * steps
    return z


ADVERSARIAL = {
    case.__name__: case
    for case in (
        outliers,
        isotropic,
        rank_one,
        constant_channels,
        subnormal,
        duplicates,
        near_duplicates,
        near_ties,
        one_sided,
    )
}
