"""Principal directions of a sample of rows, by products on the search's own threads."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ... import _C

PANEL = _C.PANEL
_ROUGH = 256  # rows that `left_over` fits directions to, and as many to measure them on


def panels_of(basis: Tensor) -> Tensor:
    """[C, m] -> [ceil(m / 16), C, 16] float32, zero beyond m: the panels that `project` reads."""
    channels, prefix = basis.shape
    panels = -(-prefix // PANEL)
    padded = torch.zeros(channels, panels * PANEL, dtype=torch.float32, device="cpu")
    padded[:, :prefix] = basis
    return padded.view(channels, panels, PANEL).permute(1, 0, 2).contiguous()


@dataclass(frozen=True)
class Products:
    """Matrix products in float32 with the kernels of the search, on `threads` threads.

    Torch's own threads would spin for milliseconds after a product, on cores that the search needs.
    """

    isa: str
    threads: int

    def __call__(self, x: Tensor, right: Tensor, mean: Tensor | None = None) -> Tensor:
        """(x - mean) @ right: x [n, C] float32, right [C, m] -> [n, m]."""
        x, panels = x.float().contiguous(), panels_of(right)
        out = torch.empty(x.shape[0], panels.shape[0] * PANEL, dtype=torch.float32, device="cpu")
        if mean is None:
            mean = torch.zeros(x.shape[1], dtype=torch.float32, device="cpu")
        mean = mean.float().contiguous()
        _C.multiply(
            isa=self.isa,
            x=x,
            mean=mean,
            rows=x.shape[0],
            channels=x.shape[1],
            basis=panels,
            panels=panels.shape[0],
            out=out,
            threads=self.threads,
        )
        return out[:, : right.shape[1]]


def _qr(y: Tensor) -> Tensor:
    q: Tensor = torch.linalg.qr(y).Q
    return q


def _identity(like: Tensor) -> Tensor:
    return torch.eye(like.shape[0], dtype=like.dtype, device=like.device)


def _normal(rows: int, columns: int, generator: torch.Generator) -> Tensor:
    return torch.randn(rows, columns, generator=generator, dtype=torch.float32, device="cpu")


def _orthonormal(y: Tensor) -> Tensor:
    """An orthonormal basis of the columns of y, float64; Cholesky twice is quicker than QR."""
    for _ in range(2):
        gram = y.T @ y
        shift = float(gram.diagonal().sum()) * 1e-13 + 1e-300
        lower, info = torch.linalg.cholesky_ex(gram + shift * _identity(gram))
        if int(info) != 0 or not bool(torch.isfinite(lower).all()):
            return _qr(y)
        y = torch.linalg.solve_triangular(lower, y.T, upper=False).T
    gram = y.T @ y
    return y if float((gram - _identity(gram)).norm()) < 1e-8 else _qr(y)


def principal_directions(
    products: Products, centred: Tensor, count: int, iterations: int = 2
) -> Tensor:
    """About the first `count` principal directions of [rows, C], as columns [C, count] float64.

    A randomised range finder (Halko, Martinsson, Tropp 2011) with power iterations.
    """
    generator = torch.Generator("cpu").manual_seed(1)
    y = _normal(centred.shape[1], count, generator)
    turned = centred.T.contiguous()
    for _ in range(iterations):
        y = products(turned, products(centred, y))
        largest = float(y.abs().max())
        if not 0.0 < largest < math.inf:
            y, largest = _normal(centred.shape[1], count, generator), 1.0
        y = _orthonormal((y / largest).double()).float()
    basis = y.double()
    inside = products(centred, y)
    _, vectors = torch.linalg.eigh((inside.T @ inside).double())
    ordered: Tensor = basis @ vectors.flip(1)
    return ordered


def left_over(products: Products, centred: Tensor, count: int) -> float:
    """The share of the energy of rows [n, C] outside a basis of `count` directions, roughly.

    The directions are fitted to some rows and measured on others; 0 where there are too few rows.
    """
    fitted, others = centred[:_ROUGH], centred[_ROUGH : 2 * _ROUGH]
    energy = float(others.square().sum())
    if len(others) < _ROUGH or energy == 0.0:
        return 0.0
    generator = torch.Generator("cpu").manual_seed(1)
    start = _normal(fitted.shape[1], count, generator)
    wide = products(fitted.T.contiguous(), products(fitted, start))
    directions = _qr(wide / wide.abs().max().clamp_min(1e-30))
    return 1.0 - float(products(others, directions).square().sum()) / energy
