"""Mutual scoring side by side with what else could do it, in one process, interleaved.

    python benchmarks/peers.py [--case N] [--json PATH]

The job: for Z [N, P, C] the distance of every patch to the nearest patch of every other image.
Peers do it for a few query images, scaled to all; ours does all. First each one's distances are
compared with fp64: the worst error is printed beside its speed, and one that is off by more than
0.05 is not timed. faiss-cpu, scikit-learn and NumKong are optional; a missing one is listed so.
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from _inputs import Case, backbone_tokens, cases
from common import Timing, interleaved, write_json
from musc_fast.backends.cpu import operators as native
from musc_fast.settings import SearchOptions

QUERIES = 1
Peer = Callable[[Tensor, int], Tensor]


def _others(z: Tensor, i: int) -> list[int]:
    return [j for j in range(len(z)) if j != i]


def cdist_all(z: Tensor, i: int) -> Tensor:
    """The official algorithm: one torch.cdist against all others."""
    patches, channels = z.shape[1:]
    others = torch.cat([z[:i], z[i + 1 :]]).reshape(1, -1, channels)
    return torch.cdist(z[i : i + 1], others)[0].view(patches, len(z) - 1, patches).amin(2)


def cdist_pairs(z: Tensor, i: int) -> Tensor:
    """The official algorithm: one torch.cdist per pair."""
    return torch.stack([torch.cdist(z[i], z[j]).amin(1) for j in _others(z, i)], 1)


def numpy_gemm(z: Tensor, i: int) -> Tensor:
    """OpenBLAS through numpy: inner products, then a maximum (rows have norm 1)."""
    arrays = z.numpy()
    best = [(arrays[i] @ arrays[j].T).max(1) for j in _others(z, i)]
    return torch.from_numpy(np.sqrt(np.maximum(0, 2 - 2 * np.stack(best, 1))))


def bf16_gemm(z: Tensor, i: int) -> Tensor:
    """torch in bf16: inner products, then a maximum."""
    rounded = z.bfloat16()
    best = [(rounded[i] @ rounded[j].T).amax(1).float() for j in _others(z, i)]
    return (2 - 2 * torch.stack(best, 1)).clamp_min(0).sqrt()


def with_faiss(faiss: ModuleType) -> Peer:
    faiss.omp_set_num_threads(torch.get_num_threads())
    faiss.cvar.distance_compute_blas_query_bs = 4096
    faiss.cvar.distance_compute_blas_database_bs = 1024

    def knn(z: Tensor, i: int) -> Tensor:
        arrays = z.numpy()
        found = [faiss.knn(arrays[i], arrays[j], 1)[0][:, 0] for j in _others(z, i)]
        return torch.from_numpy(np.sqrt(np.maximum(0, np.stack(found, 1))))

    return knn


def with_sklearn(metrics: ModuleType) -> Peer:
    def argmin(z: Tensor, i: int) -> Tensor:
        arrays = z.numpy()
        found = [
            metrics.pairwise_distances_argmin_min(arrays[i], arrays[j])[1] for j in _others(z, i)
        ]
        return torch.from_numpy(np.stack(found, 1)).float()

    return argmin


def with_numkong(numkong: ModuleType) -> Peer:
    def squared(z: Tensor, i: int) -> Tensor:
        arrays = z.numpy()
        found = [
            np.asarray(numkong.cdist(arrays[i], arrays[j], metric="sqeuclidean")).min(1)
            for j in _others(z, i)
        ]
        return torch.from_numpy(np.sqrt(np.maximum(0, np.stack(found, 1)))).float()

    return squared


OPTIONAL: dict[str, tuple[str, Callable[[ModuleType], Peer]]] = {
    "faiss-cpu knn, k = 1": ("faiss", with_faiss),
    "scikit-learn argmin_min": ("sklearn.metrics", with_sklearn),
    "NumKong cdist": ("numkong", with_numkong),
}


def peers() -> tuple[dict[str, Peer], dict[str, str]]:
    """The peers at hand, and for the others the reason."""
    found: dict[str, Peer] = {
        "official, one cdist": cdist_all,
        "official, cdist per pair": cdist_pairs,
        "numpy GEMM + max": numpy_gemm,
        "torch bf16 GEMM + max": bf16_gemm,
    }
    missing = {}
    for name, (module, make) in OPTIONAL.items():
        try:
            found[name] = make(importlib.import_module(module))
        except ImportError as error:
            missing[name] = f"missing ({error})"
    return found, missing


def truth(z: Tensor, i: int) -> Tensor:
    """Distances of image i in fp64, [P, N - 1]."""
    x, columns = z[i].double(), []
    for j in _others(z, i):
        y = z[j].double()
        square = x.square().sum(1)[:, None] + y.square().sum(1) - 2 * (x @ y.T)
        columns.append((x - y[square.argmin(1)]).norm(dim=1))
    return torch.stack(columns, 1)


def measure(case: Case, runs: int, console: Console) -> dict[str, Any]:
    """Parity of all, then speed of all, taking turns."""
    found, missing = peers()
    expected = truth(case.z, 0)
    k = case.k_max

    def distances_of_first(precision: str) -> Tensor:
        return native.patch_to_image(case.z, options=SearchOptions(precision))[0][:, 1:]

    errors = {"musc_fast, exact": float((distances_of_first("exact") - expected).abs().max())}
    if not errors["musc_fast, exact"] <= 1e-5:
        raise SystemExit(f"{case.name}: off by {errors['musc_fast, exact']:.1e}; no speeds")
    errors["musc_fast, fast"] = float((distances_of_first("fast") - expected).abs().max())
    errors["musc_fast, exact, all distances"] = errors["musc_fast, exact"]
    for name, peer in list(found.items()):
        try:
            errors[name] = float((peer(case.z, 0).double() - expected).abs().max())
        except (AttributeError, TypeError, ValueError) as error:
            missing[name] = f"cannot do it ({error})"
            del found[name]
            continue
        if not errors[name] <= 0.05:
            missing[name] = f"off by {errors[name]:.2g}, not timed"
            del found[name]
    calls: dict[str, Callable[[], Any]] = {
        "musc_fast, exact": lambda: native.msm(case.z, None, 0, k),
        "musc_fast, fast": lambda: native.msm(case.z, None, 0, k, options=SearchOptions("fast")),
        "musc_fast, exact, all distances": lambda: native.patch_to_image(case.z),
    }
    shares = dict.fromkeys(calls, 1.0)
    for name, peer in found.items():
        calls[name] = lambda peer=peer: [
            peer(case.z, i).topk(k, largest=False).values.mean(1) for i in range(QUERIES)
        ]
        shares[name] = QUERIES / len(case.z)
    timings = interleaved(calls, runs)
    rates = {name: case.flops * shares[name] / timings[name].median for name in calls}
    table = Table(title=f"{case.name}, (N, P, C) = {tuple(case.z.shape)}")
    for column in ("code", "all images", "effective GFLOP/s", "worst error", "exact is"):
        table.add_column(column, justify="left" if column == "code" else "right")
    for name, rate in sorted(rates.items(), key=lambda item: -item[1]):
        whole = Timing(tuple(s / shares[name] for s in timings[name].seconds))
        ratio = rates["musc_fast, exact"] / rate
        table.add_row(
            name, str(whole), f"{rate * 1e-9:.0f}", f"{errors[name]:.1e}", f"{ratio:.1f} x"
        )
    for name, reason in missing.items():
        table.add_row(name, reason, "-", "-", "-")
    console.print(table)
    return {
        "case": case.name,
        "shape": list(case.z.shape),
        "seconds": {name: timing.seconds for name, timing in timings.items()},
        "queries_timed": {name: round(share * len(case.z)) for name, share in shares.items()},
        "effective_flops": rates,
        "worst_error": errors,
        "missing": missing,
    }


def all_cases() -> list[Case]:
    """The cases of kernels.py, and (12, 1369, 1024) made from two backbone layers at 518."""
    found = cases(large=False)
    tokens = backbone_tokens("dinov2-vit-s-14", 518, [2, 5, 8], 12)
    if tokens is not None:
        # No backbone at hand has 1024 channels: three layers side by side, cut to 1024.
        joined = torch.cat(tokens[0], dim=2)[..., :1024].contiguous()
        z = native.lnamd(joined, tokens[1], (1,))[0]
        found.append(Case("DINOv2-S blocks 2, 5, 8 joined", z))
    return found


def main() -> None:
    """Measure, print tables, write JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--case", type=int, help="only the case of this number, from 0")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the result here")
    arguments = parser.parse_args()
    chosen = all_cases()
    if arguments.case is not None:
        chosen = chosen[arguments.case : arguments.case + 1]
    console = Console()
    results = [measure(case, arguments.runs, console) for case in chosen]
    if arguments.json is not None:
        write_json(arguments.json, {"runs": arguments.runs, "queries": QUERIES}, results)


if __name__ == "__main__":
    main()
