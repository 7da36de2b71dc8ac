"""Parity of every operator and of `score_batch` on one device, against fp64 and golden files."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from musc_fast import reference
from musc_fast.backends import BACKENDS
from musc_fast.backends.base import Operators
from musc_fast.backends.triton import planning as device_planning
from musc_fast.scoring import score_batch
from musc_fast.settings import DEFAULT_OPTIONS, SearchOptions

from .checkout import ROOT, SHARED
from .synthetic import draw_tokens

TOLERANCE = 1e-5
FAST_TOLERANCE = 5e-3
GOLDEN_TOLERANCE = 2e-5  # the official code works in fp32


@dataclass(frozen=True)
class Check:
    """One comparison: the largest error and its limit; an error of NaN never passes."""

    what: str
    error: float
    limit: float

    @property
    def passed(self) -> bool:
        return self.error <= self.limit


def runs_triton(device: torch.device) -> bool:
    """Whether Triton kernels run on `device`: a GPU, or the CPU where TRITON_INTERPRET=1."""
    return device.type == "cuda" or os.environ.get("TRITON_INTERPRET") == "1"


def load_backend(name: str) -> Operators:
    """The operators of a backend, whether or not `resolve` would take it for this machine."""
    return next(each for each in BACKENDS if each.name == name).operators()


def backends_of(device: torch.device) -> list[str]:
    """Names of the backends that can run on `device`, without the reference."""
    usable = [each.name for each in BACKENDS if each.why_not(device) is None]
    if runs_triton(device) and "triton" not in usable:
        usable.append("triton")
    return [name for name in usable if name != "reference"]


def difference(found: Tensor, wanted: Tensor) -> float:
    """The largest absolute difference; NaN where shapes or places of infinities differ."""
    if found.shape != wanted.shape or not torch.equal(torch.isinf(found), torch.isinf(wanted)):
        return float("nan")
    same = torch.where(torch.isinf(found), 0.0, found - wanted)
    return float(same.abs().max())


def operator_checks(device: torch.device, large: bool) -> Iterator[Check]:
    """Check every operator of every backend at several sizes, with (near-)duplicate images."""
    for shape in _shapes(device, large):
        yield from _checks_of_shape(device, *shape)


def _shapes(device: torch.device, large: bool) -> list[tuple[int, tuple[int, int], int]]:
    """Images, grid and channels of the operators' checks."""
    shapes = [(2, (1, 1), 40), (5, (1, 37), 40), (11, (4, 9), 72)]
    if large:
        return [*shapes, (4, (16, 16), 384), (3, (37, 37), 768), (3, (37, 37), 1024)]
    if runs_triton(device):  # the interpreter is slow
        return [*shapes[:1], (4, (2, 3), 40)]
    return shapes


def _checks_of_shape(
    device: torch.device, n: int, grid: tuple[int, int], c: int
) -> Iterator[Check]:
    tokens = draw_tokens(n, grid[0] * grid[1], c, device)
    if n > 2:
        tokens[1] = tokens[0]
        tokens[2] = tokens[0] + 1e-4 * tokens[2]
    for name in backends_of(device):
        for check in _operator_checks(name, tokens, grid):
            label = f"{check.what}, {name}, N = {n}, grid {grid}, C = {c}"
            yield Check(label, check.error, check.limit)


def _operator_checks(name: str, tokens: Tensor, grid: tuple[int, int]) -> Iterator[Check]:
    operators, n = load_backend(name), tokens.shape[0]
    pooled = reference.lnamd(tokens.double(), grid, [1, 3, 5])
    for z, truth in zip(operators.lnamd(tokens, grid, [1, 3, 5]), pooled, strict=True):
        yield Check("lnamd", difference(z, truth), TOLERANCE)
    z = pooled[1].float()
    truth = reference.patch_to_image(z.double())
    for precision, limit in (("exact", TOLERANCE), ("fast", FAST_TOLERANCE)):
        found = operators.patch_to_image(z, None, SearchOptions(precision))
        yield Check(f"patch_to_image {precision}", difference(found, truth), limit)
    k_min, k_max = reference.interval((0.0, 0.3), n - 1)
    wanted = reference.interval_mean(truth, k_min, k_max)
    found = operators.interval_mean(truth.float(), k_min, k_max)
    yield Check("interval_mean", difference(found, wanted), TOLERANCE)
    found = operators.msm(z, None, k_min, k_max, DEFAULT_OPTIONS)
    yield Check("msm", difference(found, wanted), TOLERANCE)
    again = operators.msm(z, None, k_min, k_max, DEFAULT_OPTIONS)
    yield Check("msm repeated", difference(again, found), 0.0)
    host = operators.msm(z.cpu(), None, k_min, k_max, DEFAULT_OPTIONS).to(z.device)
    # Triton streams rows from host memory to the GPU; other backends work where the tensors lie.
    yield Check("msm from host memory", difference(host, again), 0.0 if name == "triton" else 1e-5)
    truth = reference.patch_to_image(z[:1].double(), z[1:].double())
    found = operators.patch_to_image(z[:1], z[1:], DEFAULT_OPTIONS)
    yield Check("references", difference(found, truth), TOLERANCE)


def chunk_checks(device: torch.device) -> Iterator[Check]:
    """Check that the Triton search in chunks with streamed rows gives the same bits."""
    if not runs_triton(device):
        return
    from musc_fast.backends.triton.search import Search

    side = 6 if device.type == "cuda" else 3
    p = side * side
    z = reference.lnamd(draw_tokens(6, p, 72, device), (side, side), [1])[0]
    plans = [
        device_planning.Plan(chunk=chunk, room=2 * p * p, bytes=0, block=block)
        for chunk, block in ((6, None), (4, 3))
    ]
    whole, parts = (
        torch.cat([s for *_, s in Search(z, None, plan=plan).chunks()]) for plan in plans
    )
    yield Check("chunks and streamed rows", difference(parts, whole), 0.0)


def golden_checks(device: torch.device) -> Iterator[Check]:
    """Check `score_batch` against the outputs of the official code."""
    paths = sorted([*(ROOT / "tests/golden").glob("*.npz"), *(SHARED / "golden").glob("*.npz")])
    names = [each.name for each in BACKENDS if each.why_not(device) is None]
    for path in {path.stem: path for path in paths}.values():
        with np.load(path) as arrays:
            if "tokens" not in arrays or not np.isfinite(arrays["patch_scores"]).all():
                continue
            case = dict(arrays)
        tokens = [torch.from_numpy(layer).float().to(device) for layer in case["tokens"]]
        size = int(case["image_size"])
        for name in names:
            found = score_batch(
                tokens,
                prefix_tokens=1,
                image_size=size,
                degrees=[int(r) for r in case["degrees"]],
                topmin=(float(case["topmin"][0]), float(case["topmin"][1])),
                backend=name,
            )
            for what, values in (
                ("patch_scores", found.patch_scores.flatten(1)),
                ("anomaly_maps", found.anomaly_maps),
                ("image_scores_raw", found.raw_image_scores),
            ):
                wanted = torch.from_numpy(case[what]).to(device)
                error = difference(values.double(), wanted.double())
                yield Check(f"score_batch {what}, {name}, {path.stem}", error, GOLDEN_TOLERANCE)


def tasks(device: torch.device, large: bool) -> list[Callable[[], Iterator[Check]]]:
    """All checks, in parts that can run in processes of their own; the longest first."""
    shapes = reversed(_shapes(device, large))
    return [
        *(partial(_checks_of_shape, device, *shape) for shape in shapes),
        partial(golden_checks, device),
        partial(chunk_checks, device),
    ]
