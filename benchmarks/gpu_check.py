"""Everything a machine with a GPU can tell, in one command: parity, then speed, then verdicts.

    python benchmarks/gpu_check.py [--out benchmarks/results] [--stages parity search batch]
    python benchmarks/gpu_check.py --device cpu --quick   # rehearsal in Triton's interpreter

The check needs torch, triton, numpy and rich; neither network nor an installation. Its stages come
in the order of what they are worth, and each writes gpu_STAGE.json when it ends, so that a run that
is cut off leaves what it had measured:

    parity    every operator of every backend and `score_batch`, against fp64 and tests/golden
    search    the 16-bit search and the search in a subspace, beside products of cuBLAS
    batch     `score_batch` of 200 images, exact and fast
    memory    LNAMD, interval mean, rounding beside a copy
    msm       the mutual scoring by every backend and the official code; peak memory
    bank      one image against a bank of 200
    variants  the search in other configs
    profile   what ncu says of the largest kernels
    images    `throughput.py`, from images to maps

Parity runs in several processes at once, which also compile what later stages run; one failure
ends the check before any speed. `lib/gpu_kernels.py` says what the work needs at least. The
verdicts compare figures with their limits; any FAIL makes the exit status 1.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lib.checkout import RESULTS
from lib.program import make_parser

if TYPE_CHECKING:
    import torch

    from lib.gpu_parity import Check
    from lib.gpu_stages import Sizes

MINUTES = 6.0
STAGES: tuple[str, ...] = (
    "parity",
    "search",
    "batch",
    "memory",
    "msm",
    "bank",
    "variants",
    "profile",
    "images",
)
PROCESSES = 10


@dataclass(frozen=True)
class Verdict:
    """A figure beside its limit; a figure that is missing does not pass."""

    what: str
    value: float | None
    limit: float
    at_least: bool = True

    @property
    def passed(self) -> bool:
        if self.value is None:
            return False
        return self.value >= self.limit if self.at_least else self.value <= self.limit

    def __str__(self) -> str:
        value = "not measured" if self.value is None else f"{self.value:.3g}"
        sign = ">=" if self.at_least else "<="
        verdict = "PASS" if self.passed else "FAIL"
        return f"{verdict} {self.what} {value} ({sign} {self.limit:g})"


def verdicts(rows: list[dict[str, Any]], device: str, minutes: float) -> list[Verdict]:
    """The verdicts on the measured rows; seconds of whole jobs have limits on an H100 alone."""
    named = {row["what"]: row for row in rows}

    def figure(what: str, key: str) -> float | None:
        return named.get(what, {}).get(key)

    def ratio(slow: str, fast: str) -> float | None:
        numerator, denominator = figure(slow, "seconds"), figure(fast, "seconds")
        return None if numerator is None or denominator is None else numerator / denominator

    found = [
        Verdict(f"{row['what']}: share of the product", row["of_product"], 0.75)
        for row in rows
        if row["what"].startswith("search, ") and "float16" in row["what"] and row.get("usual")
    ] or [Verdict("16-bit search: share of the product", None, 0.75)]
    for precision in ("exact", "fast"):
        times = ratio(f"msm, torch {precision}", f"msm, triton {precision}")
        found.append(Verdict(f"msm {precision}: times as fast as unfused", times, 1.5))
    found += [
        Verdict(f"{what}: share of the copy", figure(what, "of_copy"), 0.8)
        for what in ("LNAMD, 3 degrees", "interval mean, [N, P, M]", "interval mean, [N, M, P]")
    ]
    peak = figure("peak memory of msm", "of_plan")
    off = None if peak is None else abs(peak - 1)
    found.append(Verdict("peak memory: off the plan by", off, 0.05, at_least=False))
    if "H100" in device:
        for precision, limit in (("exact", 1.0), ("fast", 3.0)):
            seconds = figure(f"score_batch, {precision}", "seconds")
            found.append(Verdict(f"score_batch {precision}: seconds", seconds, limit, False))
        what = "one image against a bank"
        found.append(Verdict(f"{what}: seconds", figure(what, "seconds"), 0.03, False))
    return [*found, Verdict("this check: minutes", minutes, MINUTES, at_least=False)]


def official_ratio(rows: list[dict[str, Any]]) -> float | None:
    """Time a pair of images of the official mutual scoring, divided by that of exact Triton."""
    key = "microseconds_a_pair"
    pair: dict[str, float] = {row["what"]: row[key] for row in rows if key in row}
    official = pair.get("msm, official (cdist)")
    ours = pair.get("large msm, triton exact", pair.get("msm, triton exact"))
    return None if official is None or ours is None else official / ours


def run_part(device: torch.device, sizes: Sizes, part: int, parts: int) -> list[Check]:
    """The checks of one process; on a GPU it also compiles kernels of later stages."""
    from dataclasses import replace

    from lib import gpu_parity

    every: list[Callable[[], Iterator[Check]]] = gpu_parity.tasks(device, large=sizes.side >= 16)
    checks = [check for task in every[part::parts] for check in task()]
    if device.type == "cuda":
        small = replace(sizes, images=3, few=3, runs=1)
        stages = ("search", "batch", "memory", "msm", "bank", "variants")
        for stage in stages[(part - len(every)) % parts :: parts]:
            for _ in stage_rows(stage, small, device):
                pass
    return checks


def parity(device: torch.device, sizes: Sizes, quick: bool) -> list[Check]:
    """All checks, on a GPU in PROCESSES processes."""
    from lib.gpu_parity import Check

    if device.type != "cuda":
        return run_part(device, sizes, 0, 1)
    command = [sys.executable, __file__, *(["--quick"] if quick else []), "--part"]
    running = [
        subprocess.Popen([*command, str(k)], stdout=subprocess.PIPE, text=True)
        for k in range(PROCESSES)
    ]
    found = []
    for k, process in enumerate(running):
        output, _ = process.communicate()
        if process.returncode != 0:
            found.append(Check(f"process {k} of the parity checks ended early", float("nan"), 0.0))
            continue
        found += [Check(*fields) for fields in json.loads(output.splitlines()[-1])]
    return found


def stage_rows(stage: str, sizes: Sizes, device: torch.device) -> Iterator[dict[str, Any]]:
    """The rows of a stage that is measured in this process."""
    from lib import gpu_stages

    measure: dict[str, Callable[[Sizes, torch.device], Iterator[dict[str, Any]]]] = {
        "search": gpu_stages.search_stage,
        "batch": gpu_stages.batch_stage,
        "memory": gpu_stages.memory_stage,
        "msm": gpu_stages.msm_stage,
        "bank": gpu_stages.bank_stage,
        "variants": gpu_stages.variants_stage,
    }
    yield from measure[stage](sizes, device)


def main() -> int:
    """Parity, timings, verdicts, JSON; the exit status."""
    parser = make_parser(__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: does it run at all?")
    parser.add_argument(
        "--out", type=Path, help="folder of the JSON files (a GPU's default: results)"
    )
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=STAGES, metavar="STAGE")
    parser.add_argument(
        "--images", type=shlex.split, default=[], help="more arguments of throughput.py, one string"
    )
    parser.add_argument("--part", type=int, help="one of the processes of the parity stage")
    parser.add_argument("--profiled", action="store_true", help="one exact msm, for the profiler")
    arguments = parser.parse_args()
    if arguments.device == "cpu":
        os.environ["TRITON_INTERPRET"] = "1"  # Triton reads it when the kernels are imported
    import torch

    from lib import gpu_stages

    device = torch.device(arguments.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print("no CUDA GPU: this check measures one; `make test` checks the rest", file=sys.stderr)
        return 1
    sizes = gpu_stages.QUICK if arguments.quick else gpu_stages.FULL
    if arguments.part is not None:
        checks = run_part(device, sizes, arguments.part, PROCESSES)
        print(json.dumps([[each.what, each.error, each.limit] for each in checks]))
        return 0
    if arguments.profiled:
        gpu_stages.profiled(sizes, device)
        return 0
    out = arguments.out or (RESULTS if device.type == "cuda" else None)
    return Run(device, sizes, out, arguments.images).check(arguments.stages, arguments.quick)


class Run:
    """The stages one after another, their rows and their files."""

    def __init__(
        self, device: torch.device, sizes: Sizes, out: Path | None, images: list[str]
    ) -> None:
        import torch
        from rich.console import Console

        self.device, self.sizes, self.out, self.images = device, sizes, out, images
        self.start, self.console = time.perf_counter(), Console()
        on_gpu = device.type == "cuda"
        self.name = torch.cuda.get_device_name(device) if on_gpu else "rehearsal on a CPU"
        self.rows: list[dict[str, Any]] = []

    def check(self, stages: tuple[str, ...], quick: bool) -> int:
        """Everything, in order; nothing is timed after a failure of parity."""
        for stage in stages:
            begin = time.perf_counter()
            if stage == "parity":
                if not self.parity_holds(quick):
                    return 1
            elif stage in ("profile", "images"):
                self.run_program(stage)
            else:
                self.measure(stage)
            self.console.print(f"stage {stage}: {time.perf_counter() - begin:.0f} s")
        return self.judge(stages)

    def parity_holds(self, quick: bool) -> bool:
        """Run the parity stage; whether every check passed."""
        checks = parity(self.device, self.sizes, quick)
        failures = [each for each in checks if not each.passed]
        for failure in failures:
            error, limit = failure.error, failure.limit
            self.console.print(f"FAIL {failure.what}: error {error:.2e}, limit {limit:.0e}")
        passed = len(checks) - len(failures)
        self.console.print(f"parity: {passed} of {len(checks)} checks passed")
        self.write("parity", [asdict(each) | {"passed": each.passed} for each in checks])
        return not failures

    def measure(self, stage: str) -> None:
        """Measure a stage in this process, show its rows, write its file."""
        from lib import gpu_kernels

        rows = list(stage_rows(stage, self.sizes, self.device))
        if rows:
            gpu_kernels.show(rows)
            self.rows += rows
            self.write(stage, rows)

    def run_program(self, stage: str) -> None:
        """Run ncu or throughput.py, which write their own files."""
        from lib import gpu_stages

        if self.device.type != "cuda" or self.out is None:
            return
        if stage == "profile":
            kernels = "find_nearest|list_candidates|min_distance|few_channels|candidates"
            self.console.print(gpu_stages.profile(Path(__file__), self.out, kernels))
        else:
            path = self.out / "throughput_gpu.json"
            self.console.print(gpu_stages.throughput(path, self.images))

    def judge(self, stages: tuple[str, ...]) -> int:
        """Print and write the verdicts; the exit status."""
        ratio = official_ratio(self.rows)
        if ratio is not None:
            words = "times as fast as the official code"
            self.console.print(f"exact mutual scoring, a pair: {ratio:.3g} {words}")
        minutes = (time.perf_counter() - self.start) / 60
        whole = self.device.type == "cuda" and set(stages) == set(STAGES)
        judgements = verdicts(self.rows, self.name, minutes) if whole else []
        for verdict in judgements:
            self.console.print(str(verdict))
        if whole:
            self.write("verdicts", [asdict(each) | {"passed": each.passed} for each in judgements])
        return 0 if all(each.passed for each in judgements) else 1

    def write(self, stage: str, rows: list[dict[str, Any]]) -> None:
        """Write gpu_STAGE.json."""
        import triton

        from lib.results import write_results

        if self.out is None:
            return
        settings = {
            **asdict(self.sizes),
            "device": self.name,
            "driver": driver_version() if self.device.type == "cuda" else None,
            "triton": triton.__version__,
            "seconds_since_start": round(time.perf_counter() - self.start, 1),
            "times_official": official_ratio(self.rows),
        }
        self.out.mkdir(parents=True, exist_ok=True)
        write_results(self.out / f"gpu_{stage}.json", settings, rows)


def driver_version() -> str | None:
    """The version of the GPU's driver, as nvidia-smi tells it."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True)
    except OSError:
        return None
    return done.stdout.strip().splitlines()[0] if done.stdout.strip() else None


if __name__ == "__main__":
    sys.exit(main())
