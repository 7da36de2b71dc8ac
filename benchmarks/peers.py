"""Mutual scoring side by side with other codes that could do it, in one process, in turns.

    python benchmarks/peers.py [--case N] [--json PATH]

The job: for Z [N, P, C] the distance of every patch to the nearest patch of every other image.
A peer does it for a few query images, and its time is scaled to all; musc_fast does all images.
First the distances of each code are compared with fp64: the worst error is printed beside the
speed, and a code that is off by more than 0.05 is not timed. faiss-cpu, scikit-learn and NumKong
are optional; the table lists a missing one with the reason.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from lib.official import OFFICIAL, distances_in_fp64, mean_of_lowest, other_images
from lib.program import add_json, make_parser
from lib.real_images import Case, backbone_tokens, load_cases, tiny_cases
from lib.results import write_results
from lib.timing import Call, Timing, time_in_turns
from musc_fast.backends.cpu import operators as cpu
from musc_fast.settings import SearchOptions

QUERIES = 1
Peer = Callable[[Tensor, int], Tensor]


def numpy_gemm(z: Tensor, i: int) -> Tensor:
    """OpenBLAS through numpy: inner products, then a maximum (rows have norm 1)."""
    best = [(z[i].numpy() @ y.numpy().T).max(1) for y in other_images(z, i)]
    return torch.from_numpy(np.sqrt(np.maximum(0, 2 - 2 * np.stack(best, 1))))


def bf16_gemm(z: Tensor, i: int) -> Tensor:
    """torch in bf16: inner products, then a maximum."""
    rounded = z.bfloat16()
    best = [(rounded[i] @ y.T).amax(1).float() for y in other_images(rounded, i)]
    return (2 - 2 * torch.stack(best, 1)).clamp_min(0).sqrt()


def with_faiss(faiss: ModuleType) -> Peer:
    """faiss-cpu: the nearest neighbour of each patch, in blocks that suit this size."""
    faiss.omp_set_num_threads(torch.get_num_threads())
    faiss.cvar.distance_compute_blas_query_bs = 4096
    faiss.cvar.distance_compute_blas_database_bs = 1024

    def knn(z: Tensor, i: int) -> Tensor:
        x = z[i].numpy()
        squares = [faiss.knn(x, y.numpy(), 1)[0][:, 0] for y in other_images(z, i)]
        return torch.from_numpy(np.sqrt(np.maximum(0, np.stack(squares, 1))))

    return knn


def with_sklearn(metrics: ModuleType) -> Peer:
    """scikit-learn's fused argmin and minimum."""

    def argmin(z: Tensor, i: int) -> Tensor:
        x = z[i].numpy()
        distances = [
            metrics.pairwise_distances_argmin_min(x, y.numpy())[1] for y in other_images(z, i)
        ]
        return torch.from_numpy(np.stack(distances, 1)).float()

    return argmin


def with_numkong(numkong: ModuleType) -> Peer:
    """NumKong's distance matrix of a pair, then a minimum."""

    def squared(z: Tensor, i: int) -> Tensor:
        x = z[i].numpy()
        squares = [
            np.asarray(numkong.cdist(x, y.numpy(), metric="sqeuclidean")).min(1)
            for y in other_images(z, i)
        ]
        return torch.from_numpy(np.sqrt(np.maximum(0, np.stack(squares, 1)))).float()

    return squared


OPTIONAL: dict[str, tuple[str, Callable[[ModuleType], Peer]]] = {
    "faiss-cpu knn, k = 1": ("faiss", with_faiss),
    "scikit-learn argmin_min": ("sklearn.metrics", with_sklearn),
    "NumKong cdist": ("numkong", with_numkong),
}


def load_peers() -> tuple[dict[str, Peer], dict[str, str]]:
    """The peers that are installed; for every other one the reason why it is missing."""
    peers: dict[str, Peer] = {
        **OFFICIAL,
        "numpy GEMM + max": numpy_gemm,
        "torch bf16 GEMM + max": bf16_gemm,
    }
    missing: dict[str, str] = {}
    for name, (module, make) in OPTIONAL.items():
        try:
            peers[name] = make(importlib.import_module(module))
        except ImportError as error:
            missing[name] = f"missing ({error})"
    return peers, missing


def measure(case: Case, runs: int, console: Console) -> dict[str, Any]:
    """Compare all codes with fp64, then time them in turns; print a table, return a row."""
    peers, missing = load_peers()
    errors = errors_of_ours(case)
    errors |= errors_of_peers(case, peers, missing)
    k = case.k_max
    calls: dict[str, Call] = {
        "musc_fast, exact": lambda: cpu.msm(case.z, None, 0, k),
        "musc_fast, fast": lambda: cpu.msm(case.z, None, 0, k, SearchOptions("fast")),
        "musc_fast, exact, all distances": lambda: cpu.patch_to_image(case.z),
    }
    shares = dict.fromkeys(calls, 1.0)
    for name, peer in peers.items():
        calls[name] = partial(score_queries, peer, case)
        shares[name] = QUERIES / len(case.z)
    timings = time_in_turns(calls, runs)
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


def score_queries(peer: Peer, case: Case) -> list[Tensor]:
    """Scores [P] of the first QUERIES images by a peer."""
    return [mean_of_lowest(peer(case.z, i), case.k_max) for i in range(QUERIES)]


def errors_of_ours(case: Case) -> dict[str, float]:
    """Worst errors of musc_fast on image 0; exits where the exact distances are off."""
    expected = distances_in_fp64(case.z[0], other_images(case.z, 0))
    errors = {}
    for precision in ("exact", "fast"):
        distances = cpu.patch_to_image(case.z, None, SearchOptions(precision))[0][:, 1:]
        errors[f"musc_fast, {precision}"] = float((distances - expected).abs().max())
    exact = errors["musc_fast, exact"]
    if not exact <= 1e-5:
        raise SystemExit(f"{case.name}: off by {exact:.1e}; no speeds")
    return errors | {"musc_fast, exact, all distances": exact}


def errors_of_peers(
    case: Case, peers: dict[str, Peer], missing: dict[str, str]
) -> dict[str, float]:
    """Worst errors of the peers on image 0; an unfit peer moves to `missing`, with the reason."""
    expected = distances_in_fp64(case.z[0], other_images(case.z, 0))
    errors = {}
    for name, peer in list(peers.items()):
        try:
            errors[name] = float((peer(case.z, 0).double() - expected).abs().max())
        except (AttributeError, TypeError, ValueError) as error:
            missing[name] = f"cannot do it ({error})"
            del peers[name]
            continue
        if not errors[name] <= 0.05:
            missing[name] = f"off by {errors[name]:.2g}, not timed"
            del peers[name]
    return errors


def all_cases() -> list[Case]:
    """The cases of kernels.py, and (12, 1369, 1024) made from two backbone layers at 518."""
    cases = load_cases(large=False)
    tokens = backbone_tokens("dinov2-vit-s-14", 518, [2, 5, 8], 12)
    if tokens is not None:
        # No backbone here has 1024 channels, so three layers lie side by side, cut to 1024.
        joined = torch.cat(tokens[0], dim=2)[..., :1024].contiguous()
        z = cpu.lnamd(joined, tokens[1], (1,))[0]
        cases.append(Case("DINOv2-S blocks 2, 5, 8 joined", z))
    return cases


def main() -> None:
    """Measure, print tables, write JSON."""
    parser = make_parser(__doc__)
    parser.add_argument("--quick", action="store_true", help="tiny sizes: does it run at all?")
    parser.add_argument("--case", type=int, help="only the case of this number, from 0")
    parser.add_argument("--runs", type=int, default=3)
    add_json(parser)
    arguments = parser.parse_args()
    cases = tiny_cases() if arguments.quick else all_cases()
    if arguments.case is not None:
        cases = cases[arguments.case : arguments.case + 1]
    console = Console()
    results: list[dict[str, Any]] = []
    for case in cases:
        results.append(measure(case, arguments.runs, console))
        # After each case: a cut leaves some.
        write_results(arguments.json, {"runs": arguments.runs, "queries": QUERIES}, results)


if __name__ == "__main__":
    main()
