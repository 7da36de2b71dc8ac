"""The CPU kernels one by one, with the fraction of this machine's limits (for kernels.py).

The job of MSM: for Z [N, P, C] the distance of every patch to the nearest patch of every other
image, then the mean of the lowest 30%. "Effective" counts 2 N (N-1) P^2 C operations for every
code. What the parts need at least:
  search, m channels: N (N-1) / 2 P^2 2 m operations (int8), since one tile serves both images;
    it reads 2 m bytes a patch and writes 2 N P bytes a segment (16 patches of long rows, 192 of
    short ones);
  second pass: m bytes a patch of a scanned segment, 2 m bytes a fine look, C bytes a look at the
    remaining channels, 4 C bytes a recomputed distance;
  LNAMD: 4 N P C bytes read, as many written a degree; interval mean: 4 N P M bytes read.
The limits (int8, bf16 and fp32 dot products of one core, times threads; memory read) are measured
in the same run. Where parity fails (1e-5 against fp64), the run ends before any speed is printed.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from musc_fast.backends.cpu import operators as cpu
from musc_fast.backends.cpu.options import Outputs, SearchSettings, SearchStatistics
from musc_fast.backends.cpu.rounded_images import default_isa
from musc_fast.backends.cpu.search import run_search
from musc_fast.settings import SearchOptions

from .bench_extension import bench_extension
from .official import OFFICIAL, distances_in_fp64, mean_of_lowest, other_images
from .plain_search import plain_distances, plain_kinds
from .real_images import Case
from .timing import Call, Timing, time_in_turns

TOLERANCE = 1e-5


@dataclass(frozen=True)
class Sizes:
    """What is measured besides the cases of MSM.

    images, side, channels: of the other operators' input [images, side^2, channels].
    steps: dot products of one measurement of the limits.
    floats: that are read to measure the memory.
    """

    images: int
    side: int
    channels: int
    steps: int
    floats: int


USUAL = Sizes(16, 37, 384, 5_000_000, 1 << 27)  # floats: 512 MiB
QUICK = Sizes(5, 8, 48, 10_000, 1 << 16)


def measure(
    cases: list[Case], sizes: Sizes, scaling: bool, runs: int
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Measure and print tables; return the settings and the rows of the result file."""
    console = Console()
    limits = machine_limits(sizes)
    console.print(limit_table(limits))
    results: list[dict[str, Any]] = [{"limits": limits}]
    for case in cases:
        require_parity(case)
        results.append(measure_msm(case, runs, limits, console))
    results.extend(measure_others(sizes, runs, limits, console))
    if scaling:
        results.extend(measure_scaling(console))
    return {"runs": runs, "isa": default_isa()}, results


def machine_limits(sizes: Sizes) -> dict[str, float]:
    """Operations a second of pure dot products (all threads) and bytes a second of reading."""
    limits = {}
    for kind in ("int8", *plain_kinds()):
        best = 0.0
        for _ in range(3):
            start = time.perf_counter()
            operations = bench_extension().peak(isa=default_isa(), kind=kind, steps=sizes.steps)
            best = max(best, operations / (time.perf_counter() - start))
        limits[kind] = best * torch.get_num_threads()
    memory = torch.ones(sizes.floats)
    timing = time_in_turns({"read": memory.sum}, 5)["read"]
    limits["memory"] = memory.numel() * 4 / min(timing.seconds)
    return limits


def limit_table(limits: dict[str, float]) -> Table:
    """The limits in units of 1e9 a second."""
    table = Table(title=f"Limits of this machine, {torch.get_num_threads()} threads")
    table.add_column("what")
    table.add_column("G/s", justify="right")
    for name, value in limits.items():
        table.add_row(name, f"{value * 1e-9:.1f}")
    return table


def require_parity(case: Case) -> None:
    """Compare two images of the case with fp64; exit where they differ."""
    ours = cpu.msm(case.z, None, 0, case.k_max)
    for image in (0, len(case.z) - 1):
        distances = distances_in_fp64(case.z[image], other_images(case.z, image))
        error = float((ours[image] - mean_of_lowest(distances, case.k_max)).abs().max())
        if not error <= TOLERANCE:
            raise SystemExit(f"{case.name}: image {image} is off by {error:.1e}; no speeds")


def search_with_statistics(case: Case, prefix: int | None = None) -> SearchStatistics:
    """What the exact search of MSM did on a case; prefix: the channels that it must take."""
    statistics = SearchStatistics()
    outputs = Outputs(means=torch.empty(case.z.shape[:2]))
    settings = SearchSettings(statistics=statistics, prefix=prefix)
    run_search(case.z, None, 0, case.k_max, outputs, settings)
    return statistics


def measure_msm(
    case: Case, runs: int, limits: dict[str, float], console: Console
) -> dict[str, Any]:
    """Time MSM on one case by every code; print and return rates, and the stages of our search."""
    queries = min(2, len(case.z))  # the official loops run on these images; their time is scaled
    channels = case.z.shape[2]
    exact, full = SearchStatistics(), SearchStatistics()

    def ours() -> None:
        nonlocal exact
        exact = search_with_statistics(case)

    def all_channels() -> None:
        nonlocal full
        full = search_with_statistics(case, prefix=channels)

    calls: dict[str, Call] = {
        "exact": ours,
        "exact, all channels": all_channels,
        "fast": lambda: cpu.msm(case.z, None, 0, case.k_max, SearchOptions("fast")),
        **{name: partial(score_officially, name, case, queries) for name in OFFICIAL},
    }
    if len(case.z) <= 32:
        for kind in plain_kinds():
            calls[f"plain {kind}"] = partial(plain_distances, case.z, kind)
    timings = time_in_turns(calls, runs)
    share = {name: queries / len(case.z) if name in OFFICIAL else 1.0 for name in calls}
    rates = {name: case.flops * share[name] / timings[name].median for name in calls}
    title = f"MSM, {case.name}, (N, P, C) = {tuple(case.z.shape)}"
    console.print(msm_table(title, timings, share, rates))
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


def score_officially(name: str, case: Case, queries: int) -> list[Tensor]:
    """Scores [P] of the first `queries` images by one of the official loops."""
    return [mean_of_lowest(OFFICIAL[name](case.z, i), case.k_max) for i in range(queries)]


def msm_table(
    title: str, timings: dict[str, Timing], share: dict[str, float], rates: dict[str, float]
) -> Table:
    """Time for all images and rate of each code, beside the better official loop."""
    best = max(rates[name] for name in OFFICIAL)
    table = Table(title=title)
    for column in ("code", "time", "effective GFLOP/s", "to official"):
        table.add_column(column, justify="left" if column == "code" else "right")
    for name, rate in rates.items():
        note = " (scaled)" if name in OFFICIAL else ""
        whole = Timing(tuple(seconds / share[name] for seconds in timings[name].seconds))
        table.add_row(name + note, str(whole), f"{rate * 1e-9:.0f}", f"{rate / best:.1f} x")
    return table


def stage_rows(statistics: SearchStatistics, limits: dict[str, float]) -> dict[str, float]:
    """Seconds of each stage, and counts of the second pass for each patch."""
    patches = max(1, statistics.rows)
    return {
        **{f"{stage} s": seconds for stage, seconds in statistics.seconds.items()},
        "search of int8 limit": statistics.operations
        / statistics.seconds["search"]
        / limits["int8"],
        "channels": statistics.space,
        "images examined a patch": statistics.examined / patches,
        "segments scanned a patch": statistics.scanned / patches,
        "fine looks a patch": statistics.fine / patches,
        "rest looks a patch": statistics.rest / patches,
        "distances recomputed a patch": statistics.recomputed / patches,
    }


def stage_table(name: str, statistics: SearchStatistics, rows: dict[str, float]) -> Table:
    """The rows of `stage_rows` as a table."""
    table = Table(
        title=f"stages, {name} ({statistics.space} channels, segments of {statistics.segment})"
    )
    table.add_column("what")
    table.add_column("value", justify="right")
    for key, value in rows.items():
        table.add_row(key, f"{value:.3f}")
    return table


def fast_errors(case: Case) -> dict[str, float]:
    """Mean and worst error of precision="fast" on this case, of scores and of single distances."""
    calls: dict[str, Callable[[str], Tensor]] = {
        "scores": lambda precision: cpu.msm(case.z, None, 0, case.k_max, SearchOptions(precision)),
        "distances": lambda precision: cpu.patch_to_image(case.z, None, SearchOptions(precision)),
    }
    errors: dict[str, float] = {}
    for what, call in calls.items():
        exact = call("exact")
        # The distance of an image to itself is infinite.
        error = (call("fast") - exact)[exact.isfinite()].abs()
        errors |= {f"{what}, mean": float(error.mean()), f"{what}, worst": float(error.max())}
    return errors


def measure_others(
    sizes: Sizes, runs: int, limits: dict[str, float], console: Console
) -> list[dict[str, Any]]:
    """LNAMD, interval mean and the plain kernels alone."""
    shape, grid = (sizes.images, sizes.side**2, sizes.channels), (sizes.side, sizes.side)
    tokens = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    distances = torch.rand(*shape[:2], 199, generator=torch.Generator().manual_seed(2))
    timings = time_in_turns(
        {
            "lnamd, degrees 1 3 5": lambda: cpu.lnamd(tokens, grid, (1, 3, 5)),
            "interval mean, 60 of 199": lambda: cpu.interval_mean(distances, 0, 60),
            "interval mean by torch.topk": lambda: distances.topk(60, largest=False).values.mean(2),
        },
        runs,
    )
    moved = {"lnamd, degrees 1 3 5": 4 * tokens.numel() * 4}
    results = []
    table = Table(title=f"other operators, (N, P, C) = {shape}")
    for column in ("operator", "time", "of its limit"):
        table.add_column(column)
    for name, timing in timings.items():
        bytes_moved = moved.get(name, distances.numel() * 4)
        fraction = bytes_moved / timing.median / limits["memory"]
        table.add_row(name, str(timing), f"{fraction:.0%} of memory")
        results.append({"operator": name, "seconds": timing.seconds, "of_memory": fraction})
    z = torch.nn.functional.normalize(tokens[:8], dim=2)  # 28 pairs: 14 for each of 2 threads
    operations = len(z) * (len(z) - 1) / 2 * shape[1] ** 2 * 2 * shape[2]
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
    """The effective rate by N, on synthetic features whose spectrum falls like a real one."""
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
        timing = time_in_turns({"exact": partial(search_with_statistics, case)}, 3)["exact"]
        channels = search_with_statistics(case).space
        rate = case.flops / timing.median
        table.add_row(str(count), str(timing), f"{rate * 1e-9:.0f}", str(channels))
        results.append({"scaling": count, "seconds": timing.seconds, "effective_flops": rate})
    console.print(table)
    return results
