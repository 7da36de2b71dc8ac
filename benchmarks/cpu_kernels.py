"""The CPU kernels operator by operator, with the fraction of this machine's limits: `kernels.py`.

The job of MSM: for Z [N, P, C] the distance of every patch to the nearest patch of every other
image, then the mean of the lowest 30%. "Effective" counts 2 N (N-1) P^2 C operations for every
code. What the parts need at least:
  search, m channels: N (N-1) / 2 P^2 2 m operations (int8), since one tile serves both images;
    it reads 2 m bytes a patch and writes 2 N P bytes a segment (16 patches of long rows, 192 of
    short ones);
  second pass: bytes of what it looks at: m a patch of a scanned segment, 2 m a fine look, C a look
    at the rest, 4 C a recomputed distance;
  LNAMD: 4 N P C bytes read, as many written a degree; interval mean: 4 N P M bytes read.
Limits (int8, bf16, fp32 dot products, one core, times threads; memory read) are measured in the
same run. A red parity gate (1e-5 against fp64) stops it before any speed is printed.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from _inputs import OFFICIAL, Case, cases, truth
from common import Timing, interleaved
from lib.bench_extension import bench_extension
from lib.plain_search import plain_distances, plain_kinds
from musc_fast.backends.cpu import operators as native
from musc_fast.backends.cpu.operands import default_isa
from musc_fast.backends.cpu.options import Outputs, SearchSettings, SearchStatistics
from musc_fast.backends.cpu.search import run_search
from musc_fast.settings import SearchOptions

TOLERANCE = 1e-5


def measure(large: bool, scaling: bool, runs: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Measure, print tables; settings and results."""
    console = Console()
    limits = machine_limits()
    console.print(limit_table(limits))
    results: list[dict[str, Any]] = [{"limits": limits}]
    for case in cases(large):
        gate(case)
        results.append(measure_msm(case, runs, limits, console))
    results.extend(measure_others(runs, limits, console))
    if scaling:
        results.extend(measure_scaling(console))
    return {"runs": runs, "isa": default_isa()}, results


def machine_limits() -> dict[str, float]:
    """Operations a second of pure dot products (all threads) and bytes a second of reading."""
    limits = {}
    for kind in ("int8", *plain_kinds()):
        best = 0.0
        for _ in range(3):
            start = time.perf_counter()
            operations = bench_extension().peak(isa=default_isa(), kind=kind, steps=5_000_000)
            best = max(best, operations / (time.perf_counter() - start))
        limits[kind] = best * torch.get_num_threads()
    memory = torch.ones(1 << 27)  # 512 MiB
    timing = interleaved({"read": memory.sum}, 5)["read"]
    limits["memory"] = memory.numel() * 4 / min(timing.seconds)
    return limits


def limit_table(limits: dict[str, float]) -> Table:
    table = Table(title=f"Limits of this machine, {torch.get_num_threads()} threads")
    table.add_column("what")
    table.add_column("G/s", justify="right")
    for name, value in limits.items():
        table.add_row(name, f"{value * 1e-9:.1f}")
    return table


def gate(case: Case) -> None:
    """No speed without parity: two images of the case against fp64."""
    found = native.msm(case.z, None, 0, case.k_max)
    for image in (0, len(case.z) - 1):
        error = float((found[image] - truth(case.z, image, case.k_max)).abs().max())
        if not error <= TOLERANCE:
            raise SystemExit(f"{case.name}: image {image} is off by {error:.1e}; no speeds")


def search_with_statistics(case: Case, prefix: int | None = None) -> SearchStatistics:
    statistics = SearchStatistics()
    out = torch.empty(case.z.shape[:2])
    settings = SearchSettings(statistics=statistics, prefix=prefix)
    run_search(case.z, None, 0, case.k_max, Outputs(means=out), settings)
    return statistics


def measure_msm(
    case: Case, runs: int, limits: dict[str, float], console: Console
) -> dict[str, Any]:
    """All ways to do MSM on one case, and the stages of ours."""
    queries = min(2, len(case.z))  # the official loops on a sub-sample, scaled
    channels = case.z.shape[2]
    exact, full = SearchStatistics(), SearchStatistics()

    def ours() -> None:
        nonlocal exact
        exact = search_with_statistics(case)

    def all_channels() -> None:
        nonlocal full
        full = search_with_statistics(case, prefix=channels)

    calls = {
        "exact": ours,
        "exact, all channels": all_channels,
        "fast": lambda: native.msm(case.z, None, 0, case.k_max, options=SearchOptions("fast")),
        **{
            name: lambda call=call: [call(case.z, i, case.k_max) for i in range(queries)]
            for name, call in OFFICIAL.items()
        },
    }
    for kind in plain_kinds():
        calls[f"plain {kind}"] = lambda kind=kind: plain_distances(case.z, kind)
    if len(case.z) > 32:
        calls = {name: call for name, call in calls.items() if not name.startswith("plain")}
    timings = interleaved(calls, runs)
    share = {name: queries / len(case.z) if name in OFFICIAL else 1.0 for name in calls}
    rates = {name: case.flops * share[name] / timings[name].median for name in calls}
    best = max(rates[name] for name in OFFICIAL)
    table = Table(title=f"MSM, {case.name}, (N, P, C) = {tuple(case.z.shape)}")
    for column in ("code", "time", "effective GFLOP/s", "to official"):
        table.add_column(column, justify="left" if column == "code" else "right")
    for name in calls:
        note = " (scaled)" if name in OFFICIAL else ""
        whole = Timing(tuple(seconds / share[name] for seconds in timings[name].seconds))
        table.add_row(
            name + note, str(whole), f"{rates[name] * 1e-9:.0f}", f"{rates[name] / best:.1f} x"
        )
    console.print(table)
    errors = fast_errors(case)
    console.print("fast is off by", ", ".join(f"{what} {e:.1e}" for what, e in errors.items()))
    stages = {"chosen": stage_rows(exact, limits), "all channels": stage_rows(full, limits)}
    for name, report in (("chosen", exact), ("all channels", full)):
        console.print(stage_table(name, report, stages[name]))
    return {
        "case": case.name,
        "shape": list(case.z.shape),
        "seconds": {name: timings[name].seconds for name in calls},
        "effective_flops": rates,
        "official_share_timed": queries / len(case.z),
        "stages": stages,
        "fast_error": errors,
    }


def stage_rows(report: SearchStatistics, limits: dict[str, float]) -> dict[str, float]:
    """Seconds of each stage, and per row and counted image what the second pass looked at."""
    counted = max(1, report.rows)
    return {
        **{f"{stage} s": seconds for stage, seconds in report.seconds.items()},
        "search of int8 limit": report.operations / report.seconds["search"] / limits["int8"],
        "channels": report.space,
        "images examined a patch": report.examined / counted,
        "segments scanned a patch": report.scanned / counted,
        "fine looks a patch": report.fine / counted,
        "rest looks a patch": report.rest / counted,
        "distances recomputed a patch": report.recomputed / counted,
    }


def stage_table(name: str, report: SearchStatistics, rows: dict[str, float]) -> Table:
    table = Table(title=f"stages, {name} ({report.space} channels, segments of {report.segment})")
    table.add_column("what")
    table.add_column("value", justify="right")
    for key, value in rows.items():
        table.add_row(key, f"{value:.3f}")
    return table


def fast_errors(case: Case) -> dict[str, float]:
    """Mean and worst error of precision="fast" on this case: of scores, and of single distances."""
    calls: dict[str, Callable[[str], Tensor]] = {
        "scores": lambda precision: native.msm(
            case.z, None, 0, case.k_max, options=SearchOptions(precision)
        ),
        "distances": lambda precision: native.patch_to_image(
            case.z, options=SearchOptions(precision)
        ),
    }
    found = {}
    for what, call in calls.items():
        exact = call("exact")
        error = (call("fast") - exact)[exact.isfinite()].abs()  # none to the image itself
        found |= {f"{what}, mean": float(error.mean()), f"{what}, worst": float(error.max())}
    return found


def measure_others(runs: int, limits: dict[str, float], console: Console) -> list[dict[str, Any]]:
    """LNAMD, interval mean and the plain kernels alone."""
    tokens = torch.randn(16, 1369, 384, generator=torch.Generator().manual_seed(1))
    distances = torch.rand(16, 1369, 199, generator=torch.Generator().manual_seed(2))
    timings = interleaved(
        {
            "lnamd, degrees 1 3 5": lambda: native.lnamd(tokens, (37, 37), (1, 3, 5)),
            "interval mean, 60 of 199": lambda: native.interval_mean(distances, 0, 60),
            "interval mean by torch.topk": lambda: distances.topk(60, largest=False).values.mean(2),
        },
        runs,
    )
    moved = {"lnamd, degrees 1 3 5": 4 * tokens.numel() * 4}
    results = []
    table = Table(title="other operators, (N, P, C) = (16, 1369, 384)")
    for column in ("operator", "time", "of its limit"):
        table.add_column(column)
    for name, timing in timings.items():
        bytes_moved = moved.get(name, distances.numel() * 4)
        fraction = bytes_moved / timing.median / limits["memory"]
        table.add_row(name, str(timing), f"{fraction:.0%} of memory")
        results.append({"operator": name, "seconds": timing.seconds, "of_memory": fraction})
    z = torch.nn.functional.normalize(tokens[:8], dim=2)  # 28 pairs: as many for each of 2 threads
    operations = 8 * 7 / 2 * 1369**2 * 2 * 384
    for kind in plain_kinds():
        seconds: dict[str, float] = {}
        times = []
        for _ in range(runs):
            plain_distances(z, kind, seconds)
            times.append(seconds["search"])
        fraction = operations / sorted(times)[len(times) // 2] / limits[kind]
        table.add_row(
            f"plain {kind} search", str(Timing(tuple(times))), f"{fraction:.0%} of {kind}"
        )
        results.append({"operator": f"plain {kind}", "seconds": times, "of_limit": fraction})
    console.print(table)
    return results


def measure_scaling(console: Console) -> list[dict[str, Any]]:
    """The effective rate over N, on synthetic features with the decay of real ones."""
    generator = torch.Generator().manual_seed(3)
    weights = torch.arange(1, 385).float().pow(-0.6)
    layout = torch.randn(784, 384, generator=generator)
    own = torch.randn(128, 784, 384, generator=generator)
    z = torch.nn.functional.normalize((layout + 0.4 * own) * weights, dim=2)
    table = Table(title="rate over N, P = 784, C = 384, synthetic features")
    for column in ("N", "time", "effective GFLOP/s", "channels"):
        table.add_column(column, justify="right")
    results = []
    for count in (8, 16, 32, 64, 128):
        case = Case("synthetic", z[:count])
        timing = interleaved({"exact": lambda c=case: search_with_statistics(c)}, 3)["exact"]
        channels = search_with_statistics(case).space
        rate = case.flops / timing.median
        table.add_row(str(count), str(timing), f"{rate * 1e-9:.0f}", str(channels))
        results.append({"scaling": count, "seconds": timing.seconds, "effective_flops": rate})
    console.print(table)
    return results
