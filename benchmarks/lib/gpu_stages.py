"""The stages of gpu_check.py: which rows each measures, and which kernels it needs compiled."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from musc_fast.bank import ReferenceBank
from musc_fast.scoring import score_batch

from . import gpu_kernels
from .gpu_parity import runs_triton
from .synthetic import draw_tokens
from .timing import time_in_turns

Row = dict[str, Any]


@dataclass(frozen=True)
class Sizes:
    """Sizes of the timed work; a GPU with too little memory for it gets fewer images."""

    images: int
    few: int  # images of the searches that are timed alone
    side: int
    channels: int
    layers: int
    runs: int


FULL = Sizes(images=200, few=48, side=37, channels=1024, layers=4, runs=3)
QUICK = Sizes(images=4, few=4, side=3, channels=40, layers=2, runs=1)


def features(n: int, sizes: Sizes, device: torch.device) -> Tensor:
    """Features [n, P, C] with the spectrum of real ones, of norm 1."""
    tokens = draw_tokens(n, sizes.side**2, sizes.channels, device)
    return torch.nn.functional.normalize(tokens, dim=2)


def search_stage(sizes: Sizes, device: torch.device) -> Iterator[Row]:
    """Products of cuBLAS, and the search and its second pass beside them."""
    yield from _searches(sizes, device, gpu_kernels.USUAL)


def variants_stage(
    sizes: Sizes, device: torch.device, spaces: Sequence[gpu_kernels.Space] = gpu_kernels.SPACES
) -> Iterator[Row]:
    """The search stage for several configs, and for the operands that `spaces` names."""
    yield from _searches(sizes, device, spaces, variants=True)


def _searches(
    sizes: Sizes,
    device: torch.device,
    spaces: Sequence[gpu_kernels.Space],
    *,
    variants: bool = False,
) -> Iterator[Row]:
    products = list(
        gpu_kernels.product_limits(8192 if device.type == "cuda" else 256, device, sizes.runs)
    )
    yield from products
    limits = {row["what"].split(", ")[1]: row["tera_operations"] for row in products}
    if runs_triton(device):
        z = features(sizes.few, sizes, device)
        yield from gpu_kernels.search_rows(z, limits, sizes.runs, spaces, variants=variants)


def memory_stage(sizes: Sizes, device: torch.device) -> Iterator[Row]:
    """The operators that move bytes, beside a copy."""
    if runs_triton(device):
        grid = (sizes.side, sizes.side)
        yield from gpu_kernels.memory_rows(
            images_that_fit(sizes, device), grid, sizes.channels, device, sizes.runs
        )


def msm_stage(sizes: Sizes, device: torch.device) -> Iterator[Row]:
    """The mutual scoring of a layer and degree by every backend and by the official code."""
    yield from gpu_kernels.msm_rows(features(sizes.few, sizes, device), sizes.runs)
    if device.type == "cuda":
        z = features(images_that_fit(sizes, device), sizes, device)
        yield from gpu_kernels.large_msm_rows(z, sizes.runs)
        yield gpu_kernels.memory_peak(z)


def batch_stage(sizes: Sizes, device: torch.device) -> Iterator[Row]:
    """The whole `score_batch`: exact by the certified search, fast by the full 16-bit search."""
    name = "triton" if device.type == "cuda" else "torch"
    n, p, c = images_that_fit(sizes, device), sizes.side**2, sizes.channels
    layers = [draw_tokens(n, p, c, device, seed) for seed in range(sizes.layers)]
    grid = (sizes.side, sizes.side)
    calls: dict[str, Callable[[], Any]] = {
        f"score_batch, {precision}": partial(
            score_batch, layers, grid=grid, backend=name, precision=precision
        )
        for precision in ("exact", "fast")
    }
    found = {name: call() for name, call in calls.items()}
    again = calls["score_batch, exact"]().patch_scores
    repeated = torch.equal(found["score_batch, exact"].patch_scores, again)
    for what, timing in time_in_turns(calls, min(sizes.runs, 3), warm=0).items():
        yield {
            "what": what,
            "images": n,
            "seconds": timing.median,
            "spread": timing.spread,
            "images_per_second": n / timing.median,
            "same_bits_again": float(repeated),
        }


def bank_stage(sizes: Sizes, device: torch.device) -> Iterator[Row]:
    """One new image against a bank, features excluded."""
    name = "triton" if device.type == "cuda" else "torch"
    n, p, c = images_that_fit(sizes, device), sizes.side**2, sizes.channels
    layers = [draw_tokens(n + 3, p, c, device, seed) for seed in range(sizes.layers)]
    bank = ReferenceBank(grid=(sizes.side, sizes.side), backend=name)
    bank.add([layer[:n] for layer in layers])
    queries = [[layer[n + k : n + k + 1] for layer in layers] for k in range(3)]
    bank.score(queries[0])
    calls = {str(k): partial(bank.score, query) for k, query in enumerate(queries)}
    seconds = [each.median for each in time_in_turns(calls, max(3, sizes.runs)).values()]
    yield {
        "what": "one image against a bank",
        "images": n,
        "seconds": statistics.median(seconds),
        "spread": (max(seconds) - min(seconds)) / statistics.median(seconds),
    }


def images_stage(sizes: Sizes, device: torch.device) -> Iterator[Row]:
    """The mutual scoring with the channels of the backbone that throughput.py takes."""
    z = features(sizes.few, replace(sizes, channels=384), device)
    yield from gpu_kernels.large_msm_rows(z, sizes.runs)


def images_that_fit(sizes: Sizes, device: torch.device) -> int:
    """How many images' layers, their pooled copies and the search fit half the free memory."""
    if device.type != "cuda":
        return sizes.images
    image = 4 * sizes.side**2 * sizes.channels * (sizes.layers + 5)
    return max(2, min(sizes.images, int(0.5 * torch.cuda.mem_get_info(device)[0] / image)))
