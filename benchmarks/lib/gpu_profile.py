"""What ncu (Nsight Compute) says of the main kernels, as a row of figures a launch.

The counters are few, so that a kernel is replayed about ten times instead of the forty of ncu's
full set, and one call of each operator is looked at, after another that compiled it.
"""

from __future__ import annotations

import csv
import re
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from musc_fast.backends.triton import streaming
from musc_fast.settings import SearchOptions

from .gpu_parity import load_backend
from .gpu_stages import Sizes, features, images_that_fit
from .official import count_lowest
from .synthetic import draw_tokens

Row = dict[str, Any]

KERNELS = "lnamd|interval_mean|find_nearest|list_candidates|winner|min_distance|candidates|refine"
LAUNCHES = 20
# Counter of ncu -> name in a row, and what one unit of the row's figure is in those of ncu.
COUNTERS = {
    "gpu__time_duration.sum": ("seconds", 1e-9),
    "dram__throughput.avg.pct_of_peak_sustained_elapsed": ("dram", 1e-2),
    "lts__throughput.avg.pct_of_peak_sustained_elapsed": ("l2", 1e-2),
    "dram__bytes.sum": ("dram_gb", 1e-9),
    "lts__t_bytes.sum": ("l2_gb", 1e-9),
    "smsp__issue_active.avg.pct_of_peak_sustained_active": ("issue_slots", 1e-2),
    "sm__warps_active.avg.per_cycle_active": ("warps", 1.0),
    "launch__registers_per_thread": ("registers", 1.0),
    "smsp__inst_executed.sum": ("instructions", 1.0),
    "sm__inst_executed_pipe_alu.sum": ("alu_instructions", 1.0),
    "sm__inst_executed_pipe_fma.sum": ("fma_instructions", 1.0),
    "sm__inst_executed_pipe_lsu.sum": ("lsu_instructions", 1.0),
    "sm__inst_executed_pipe_tensor.sum": ("tensor_instructions", 1.0),
    "l1tex__data_pipe_lsu_wavefronts_mem_shared.sum": ("shared_wavefronts", 1.0),
}
_STALL = "smsp__average_warps_issue_stalled_{}_per_issue_active.ratio"
STALLS = (
    *("barrier", "branch_resolving", "dispatch_stall", "drain", "gmma", "imc_miss"),
    *("lg_throttle", "long_scoreboard", "math_pipe_throttle", "membar", "mio_throttle"),
    *("no_instruction", "not_selected", "short_scoreboard", "sleeping", "wait"),
)


def command(ncu: str, script: Path) -> list[str]:
    """The command that has ncu look at `gpu_check.py --profiled`, figures as CSV on stdout."""
    metrics = [*COUNTERS, *(_STALL.format(name) for name in STALLS)]
    return [
        *(ncu, "--clock-control", "none", "--profile-from-start", "off"),
        *("--kernel-name", f"regex:{KERNELS}", "--launch-count", str(LAUNCHES)),
        *("--csv", "--page", "raw", "--print-units", "base", "--metrics", ",".join(metrics)),
        *(sys.executable, str(script), "--profiled"),
    ]


def profiled(sizes: Sizes, device: torch.device) -> None:
    """Every operator twice; a profiler that waits for it sees the second time alone."""
    module, few = load_backend("triton"), features(sizes.few, sizes, device)
    n, grid = images_that_fit(sizes, device), (sizes.side, sizes.side)
    tokens = draw_tokens(n, grid[0] * grid[1], sizes.channels, device)
    squared = torch.rand(n, n, grid[0] * grid[1], device=device)
    k = count_lowest(n - 1)
    average = streaming.average_interval
    calls: list[Callable[[], Any]] = [
        partial(module.lnamd, tokens, grid, [1, 3, 5]),
        partial(average, squared.transpose(1, 2).contiguous(), 0, k),
        partial(average, squared.transpose(1, 2), 0, k, squared=True),
        *(
            partial(module.msm, few, None, 0, count_lowest(sizes.few - 1), SearchOptions(precision))
            for precision in ("exact", "fast")
        ),
    ]
    for watched in (False, True):
        if watched:
            torch.cuda.synchronize()
            torch.cuda.profiler.start()  # type: ignore[no-untyped-call]
        for call in calls:
            call()
    torch.cuda.synchronize()
    torch.cuda.profiler.stop()  # type: ignore[no-untyped-call]


def read_rows(text: str) -> list[Row]:
    """The figures of each launch from the output of `command`, which other lines may surround.

    Raises ValueError where it has no table.
    """
    lines = text.splitlines()
    starts = [k for k, line in enumerate(lines) if line.startswith('"ID"')]
    if not starts:
        raise ValueError("ncu printed no table")
    reader = csv.DictReader(line for line in lines[starts[0] :] if line.startswith('"'))
    return [_row(launch) for launch in reader if launch["ID"]]  # the first line holds the units


def _row(launch: dict[str, str]) -> Row:
    row: Row = {"what": kernel_name(launch["Kernel Name"])}
    for counter, (name, unit) in COUNTERS.items():
        value = _number(launch.get(counter, ""))
        if value is not None:
            row[name] = value * unit
    stalls = {name: _number(launch.get(_STALL.format(name), "")) for name in STALLS}
    found = {name: value for name, value in stalls.items() if value is not None}
    row["stalls"] = dict(sorted(found.items(), key=lambda item: -item[1])[:4])
    return row


def _number(text: str) -> float | None:
    try:
        return float(text.replace(",", ""))
    except ValueError:
        return None


def kernel_name(signature: str) -> str:
    """`find_nearest_kernel<128, 1>` of "void musc::<unnamed>::find_nearest_kernel<128, 1>(Pairs)".

    A name of another form comes back as it is.
    """
    plain = re.sub(r"\((?:int|bool|unsigned int|[\w:]+)\)(?=-?\w)", "", signature)
    found = re.search(r"(\w+(?:<[\w, :-]*>)?)(?:\(|$)", plain)
    return found[1] if found else signature
