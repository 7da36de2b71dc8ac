"""Everything a machine with a GPU can tell, in one command: parity first, then speed.

    python benchmarks/gpu_check.py [--json benchmarks/results/gpu.json]

Needs torch, triton, and neither network nor backbones. Parity: every operator of the triton and
torch backends and `score_batch`, against fp64 and tests/golden; results must be the same to the bit
when repeated, in chunks, and from host memory. A failure ends the run before any speed. Timings
are medians of interleaved runs between CUDA events; inputs are features with the spectrum of real
ones (power law, one template for all images), larger than the L2 cache.

What the work needs, hence the time no version can beat (dense peaks of the data sheets: H100 SXM
989 TFLOPS in 16 bits, 1979 TOPS in int8, 3.35 TB/s; RTX 4090 165 TFLOPS in 16 bits with 32-bit
sums, 661 TOPS, 1.0 TB/s), a layer and degree of N = 200, P = 1369, C = 1024:

    operator            operations or bytes                        H100        RTX 4090
    search, 16 bits     N (N-1) P^2 C        = 76.4 TFLOP          77 ms       463 ms
    search, int8        the same             = 76.4 TOP            39 ms       116 ms
    subspace, m = 128   N (N-1) P^2 m        =  9.5 TOP             5 ms        14 ms
      second pass       the same again                              5 ms        14 ms
    refinement          8 C bytes a candidate (0.3 N^2 P of them,
                        L2 or memory)        = 135 GB              40 ms       134 ms
    keys                16 N^2 P bytes       = 0.88 GB            0.3 ms       0.9 ms
    LNAMD, 3 degrees    16 N P C bytes       = 4.5 GB             1.3 ms       4.5 ms
    interval mean       4 N^2 P bytes        = 0.22 GB           0.07 ms      0.22 ms

The official code does 2 N (N-1) P^2 C operations (no symmetry) and stores each distance.
"""

from __future__ import annotations

import argparse
import importlib
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
import triton
from musc_fast.kernels import candidates, interval_mean, min_distance, resident, tiles
from musc_fast.kernels.devices import arch_of
from rich.console import Console
from rich.table import Table
from torch import Tensor

from common import ROOT, SHARED, write_json
from musc_fast import device_planning, operands, reference
from musc_fast.backends import BACKENDS
from musc_fast.scoring import score_batch
from musc_fast.triton_backend import Search

TOLERANCE = 1e-5
FAST_TOLERANCE = 5e-3
console = Console()


def backend(name: str) -> ModuleType:
    return importlib.import_module(f"musc_fast.{name}_backend")


def features(n: int, p: int, c: int, device: torch.device, seed: int = 0) -> Tensor:
    """Tokens [N, P, C]: a template of patches and each image's own deviation, spectrum 1 / k."""
    generator = torch.Generator(device).manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, device=device)

    scale = torch.arange(1, c + 1, device=device).float() ** -1.0
    rotation = torch.linalg.qr(draw(c, c)).Q
    template = draw(1, p, c) * scale
    tokens = torch.empty(n, p, c, device=device)
    for i in range(n):
        tokens[i] = ((template[0] + 0.5 * draw(p, c) * scale) @ rotation) + 0.002 * draw(p, c)
    tokens[..., c // 3] *= 20  # a hot channel
    return tokens


def difference(found: Tensor, wanted: Tensor) -> float:
    if not torch.equal(torch.isinf(found), torch.isinf(wanted)):
        return float("nan")
    return float((found - wanted).nan_to_num(0, 0, 0).abs().max())


def operator_parity(device: torch.device, large: bool) -> Iterator[tuple[str, float, float]]:
    """(what, error, tolerance) of every operator of both backends."""
    shapes = [(2, (1, 1), 40), (5, (1, 37), 40), (11, (4, 9), 72)]
    if large:
        shapes += [(4, (16, 16), 384), (3, (37, 37), 768), (3, (37, 37), 1024)]
    for name in ("triton", "torch"):
        module = backend(name)
        for n, grid, c in shapes:
            tokens = features(n, grid[0] * grid[1], c, device)
            if n > 2:
                tokens[1] = tokens[0]
                tokens[2] = tokens[0] + 1e-4 * tokens[2]
            label = f"{name}, N = {n}, grid {grid}, C = {c}"
            pooled = reference.lnamd(tokens.double(), grid, [1, 3, 5])
            for z, truth in zip(module.lnamd(tokens, grid, [1, 3, 5]), pooled, strict=True):
                yield f"lnamd, {label}", difference(z, truth), TOLERANCE
            z = pooled[1].float()
            truth = reference.patch_to_image(z.double())
            for precision, limit in (("exact", TOLERANCE), ("fast", FAST_TOLERANCE)):
                found = module.patch_to_image(z, precision=precision)
                yield f"patch_to_image {precision}, {label}", difference(found, truth), limit
            k_min, k_max = reference.interval((0.0, 0.3), n - 1)
            wanted = reference.interval_mean(truth, k_min, k_max)
            found = module.interval_mean(truth.float(), k_min, k_max)
            yield f"interval_mean, {label}", difference(found, wanted), TOLERANCE
            found = module.msm(z, None, k_min, k_max)
            yield f"msm, {label}", difference(found, wanted), TOLERANCE
            again = module.msm(z, None, k_min, k_max)
            yield f"msm repeated, {label}", difference(again, found), 0.0
            truth = reference.patch_to_image(z[:1].double(), z[1:].double())
            found = module.patch_to_image(z[:1], z[1:])
            yield f"references, {label}", difference(found, truth), TOLERANCE
            host = module.msm(z.cpu(), None, k_min, k_max).to(device)
            limit = 0.0 if name == "triton" else TOLERANCE
            yield f"msm from host memory, {label}", difference(host, again), limit
    z = reference.lnamd(features(6, 36, 72, device), (6, 6), [1])[0]
    plans = [
        device_planning.Plan(chunk, 2 * 36 * 36, 0, block) for chunk, block in ((6, None), (4, 3))
    ]
    whole, parts = (
        torch.cat([s for *_, s in Search(z, None, None, "exact", None, plan=plan).chunks()])
        for plan in plans
    )
    yield "chunks and streamed rows", difference(parts, whole), 0.0


def golden_parity(device: torch.device) -> Iterator[tuple[str, float, float]]:
    """score_batch against the outputs of the official code."""
    known = {each.name for each in BACKENDS}
    paths = sorted([*(ROOT / "tests/golden").glob("*.npz"), *(SHARED / "golden").glob("*.npz")])
    for path in {path.stem: path for path in paths}.values():
        with np.load(path) as arrays:
            if "tokens" not in arrays or not np.isfinite(arrays["patch_scores"]).all():
                continue
            case = dict(arrays)
        tokens = [torch.from_numpy(layer).float().to(device) for layer in case["tokens"]]
        wanted = torch.from_numpy(case["patch_scores"]).to(device)
        for name in sorted({"triton", "torch"} & known):
            found = score_batch(
                tokens,
                prefix_tokens=1,
                degrees=[int(r) for r in case["degrees"]],
                topmin=tuple(float(k) for k in case["topmin"]),
                backend=name,
            )
            error = difference(found.patch_scores.reshape(wanted.shape), wanted)
            yield f"score_batch, {name}, golden {path.stem}", error, 2e-5


def parity(device: torch.device, large: bool) -> list[dict[str, Any]]:
    """Run every check; exit with the list of failures if there are any."""
    results, failed = [], []
    for checks in (operator_parity(device, large), golden_parity(device)):
        for what, error, limit in checks:
            results.append({"check": what, "error": error, "limit": limit})
            if not error <= limit:
                failed.append(f"{what}: {error:.2e}, limit {limit:.0e}")
    if failed:
        sys.exit("parity failed, no speed is reported:\n" + "\n".join(failed))
    console.print(f"parity: {len(results)} checks passed")
    return results


def timed(
    calls: dict[str, Callable[[], Any]], device: torch.device, runs: int = 5
) -> dict[str, tuple[float, float]]:
    """Median seconds and spread (max - min) / median of each call, taking turns."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(runs + 1):
        for name, call in calls.items():
            taken = _once(call, device)
            if turn:
                seconds[name].append(taken)
    return {
        name: (statistics.median(each), (max(each) - min(each)) / statistics.median(each))
        for name, each in seconds.items()
    }


def _once(call: Callable[[], Any], device: torch.device) -> float:
    if device.type != "cuda":
        start = time.perf_counter()
        call()
        return time.perf_counter() - start
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    begin.record()
    call()
    end.record()
    torch.cuda.synchronize()
    return float(begin.elapsed_time(end)) / 1000


def search_timings(n: int, p: int, c: int, device: torch.device) -> Iterator[dict[str, Any]]:
    """The search alone beside cuBLAS, in executed operations, and other configs for float16."""
    z = torch.nn.functional.normalize(features(n, p, c, device), dim=2)
    executed = n * (n - 1) * p * p
    calls: dict[str, Callable[[], Any]] = {}
    work: dict[str, float] = {}
    half = z.reshape(-1, c).half()
    rows = min(half.shape[0], 16384)
    calls["cuBLAS float16"] = lambda: half[:rows] @ half[:rows].T
    work["cuBLAS float16"] = 2.0 * rows * rows * c
    for dtype, channels in [(torch.float16, None), (torch.int8, None)] + [
        (torch.int8, m - 1) for m in (64, 128, 256) if 2 * m <= c
    ]:
        side = operands.fit_space(z, None, dtype, channels).apply(z)
        depth = side.values.shape[2]
        usual = tiles.pick_config(arch_of(z.device), dtype, p, p, depth)
        configs = {"": usual}
        if channels is None and p > 128:
            configs[" 128x256"] = replace(usual, BLOCK_Q=256, num_stages=3, max_registers=0)
            configs[" unbounded"] = replace(usual, max_registers=0)
            configs[" group x2"] = replace(usual, GROUP=2 * usual.GROUP)
        keys = min_distance.new_keys(n, n, p, device)
        variants = {suffix: (config, None) for suffix, config in configs.items()}
        if channels is None:
            variants[" by pointers"] = (usual, False)
        for suffix, (config, descriptors) in variants.items():
            name = f"search {str(dtype).removeprefix('torch.')} {depth} channels{suffix}"
            calls[name] = partial(
                min_distance.min_distance,
                *(side.values, side.norms, side.values, side.norms, keys),
                triangle=True,
                config=config,
                descriptors=descriptors,
            )
            work[name] = float(executed) * depth
        if depth <= resident.LARGEST_DEPTH:
            name = f"resident search {str(dtype).removeprefix('torch.')} {depth} channels"
            calls[name] = lambda side=side, keys=keys: resident.resident_min_distance(
                side.values, side.norms, side.values, side.norms, keys, triangle=True
            )
            work[name] = float(executed) * depth
        limits = torch.full(keys.shape, -torch.inf, device=device)
        limits[..., 0] = 0.0  # one patch an image, so that every tile is multiplied
        name = f"second pass {str(dtype).removeprefix('torch.')} {depth} channels"
        calls[name] = lambda side=side, keys=keys, limits=limits: candidates.candidates(
            side.values, side.norms, side.values, side.norms, keys, limits, 1 << 20, triangle=True
        )
        work[name] = float(executed) * depth
    for name, (seconds, spread) in timed(calls, device).items():
        yield {
            "what": name, "seconds": seconds, "spread": spread,
            "executed_tflops": work[name] / seconds / 1e12,
        }  # fmt: skip


def memory_timings(n: int, grid: tuple[int, int], c: int, device: torch.device
                   ) -> Iterator[dict[str, Any]]:  # fmt: skip
    """LNAMD and the interval mean beside a copy, in bytes they must move."""
    p = grid[0] * grid[1]
    tokens = features(n, p, c, device)
    target = torch.empty_like(tokens)
    distances = torch.rand(n, p, n, device=device)
    squared = torch.rand(n, n, p, device=device)
    module = backend("triton")
    k = max(1, int(0.3 * (n - 1)))
    calls: dict[str, Callable[[], Any]] = {
        "copy": lambda: target.copy_(tokens),
        "LNAMD, 3 degrees": lambda: module.lnamd(tokens, grid, [1, 3, 5]),
        "interval mean [N, P, M]": lambda: module.interval_mean(distances, 0, k),
        "interval mean [N, M, P]": lambda: interval_mean.interval_mean(
            squared.transpose(1, 2), 0, k, squared=True
        ),
    }
    moved = [8 * n * p * c, 16 * n * p * c, 4 * n * n * p, 4 * n * n * p]
    found = timed(calls, device)
    for (name, (seconds, spread)), count in zip(found.items(), moved, strict=True):
        yield {"what": name, "seconds": seconds, "spread": spread, "tb_s": count / seconds / 1e12}


def official(z: Tensor) -> Tensor:
    """The official mutual scoring: torch.cdist of every image with every other."""
    rows = []
    for i in range(z.shape[0]):
        others = [torch.cdist(z[i], z[j]).amin(1) for j in range(z.shape[0]) if j != i]
        k = max(1, int(0.3 * len(others)))
        rows.append(torch.stack(others, 1).topk(k, largest=False).values.mean(1))
    return torch.stack(rows)


def msm_timings(n: int, p: int, c: int, device: torch.device) -> Iterator[dict[str, Any]]:
    """Mutual scoring whole: ours on N images, the unfused and the official code on a few."""
    z = torch.nn.functional.normalize(features(n, p, c, device), dim=2)
    few = z[: min(n, 12)]
    ours, unfused = backend("triton"), backend("torch")
    k, k_few = max(1, int(0.3 * (n - 1))), max(1, int(0.3 * (few.shape[0] - 1)))
    calls: dict[str, tuple[Tensor, Callable[[], Any]]] = {
        "triton exact": (z, lambda: ours.msm(z, None, 0, k)),
        "triton fast": (z, lambda: ours.msm(z, None, 0, k, precision="fast")),
        "torch fast": (few, lambda: unfused.msm(few, None, 0, k_few, precision="fast")),
        "torch exact": (few, lambda: unfused.msm(few, None, 0, k_few)),
        "official (cdist)": (few, lambda: official(few)),
    }
    found = timed({name: call for name, (_, call) in calls.items()}, device, runs=3)
    for name, (seconds, spread) in found.items():
        m = calls[name][0].shape[0]
        pairs = m * (m - 1)
        yield {
            "what": f"msm, {name}", "images": m, "seconds": seconds, "spread": spread,
            "microseconds_a_pair": 1e6 * seconds / pairs,
            "effective_tflops": 2.0 * pairs * p * p * c / seconds / 1e12,
        }  # fmt: skip
    if device.type == "cuda":
        yield peak_memory(z, k)


def peak_memory(z: Tensor, k: int) -> dict[str, Any]:
    """The peak of one exact msm beside its plan."""
    n, p, c = z.shape
    limit = device_planning.limit_of(z.device, None)
    plan = device_planning.plan_search(device_planning.Shape(n, p, n, p, c, True), limit)
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    backend("triton").msm(z, None, 0, k)
    used = torch.cuda.max_memory_allocated() - before
    return {"what": "peak memory of msm", "planned_bytes": plan.bytes, "peak_bytes": used}


def batch_timing(n: int, grid: tuple[int, int], c: int, device: torch.device) -> dict[str, Any]:
    """score_batch: four layers, three degrees."""
    layers = [features(n, grid[0] * grid[1], c, device, seed) for seed in range(4)]
    found = timed({"": lambda: score_batch(layers, grid=grid, backend="triton")}, device, runs=2)
    seconds, spread = found[""]
    return {
        "what": "score_batch, 4 layers, 3 degrees, exact", "images": n, "seconds": seconds,
        "spread": spread, "images_per_second": n / seconds,
    }  # fmt: skip


def show(rows: list[dict[str, Any]]) -> None:
    table = Table()
    table.add_column("what")
    table.add_column("result")
    for row in rows:
        values = [f"{key} {value:.4g}" for key, value in row.items() if key != "what"]
        table.add_row(row["what"], ", ".join(values))
    console.print(table)


def main() -> None:
    """Parity, timings, JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--side", type=int, default=37, help="patches a side of the grid")
    parser.add_argument("--channels", type=int, default=1024)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--json", type=Path, default=ROOT / "benchmarks/results/gpu.json")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        sys.exit("no CUDA GPU: this check measures one; `make test` checks the rest")
    start = time.perf_counter()
    n, side, c = arguments.images, arguments.side, arguments.channels
    if device.type == "cuda":  # four layers of tokens, z of three degrees and the search
        free = torch.cuda.mem_get_info(device)[0]
        n = min(n, int(0.5 * free / (4 * side * side * c * 9)))
    checks = parity(device, large=side >= 16)
    p = side * side
    results: list[dict[str, Any]] = []
    for part in (
        search_timings(min(n, 48), p, c, device),
        memory_timings(n, (side, side), c, device),
        msm_timings(n, p, c, device),
    ):
        rows = list(part)
        show(rows)
        results += rows
    if "triton" in {each.name for each in BACKENDS}:
        results.append(batch_timing(n, (side, side), c, device))
        show(results[-1:])
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    settings = {
        "images": n, "patches": p, "channels": c, "triton": triton.__version__,
        "checks": len(checks), "largest_error": max(check["error"] for check in checks),
        "minutes": (time.perf_counter() - start) / 60,
    }  # fmt: skip
    write_json(arguments.json, settings, results)
    console.print(f"{arguments.json} written after {settings['minutes']:.1f} minutes")


if __name__ == "__main__":
    main()
