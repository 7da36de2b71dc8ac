"""Everything a machine with a GPU can tell, in one command: parity, then speed, then verdicts.

    python benchmarks/gpu_check.py [--out benchmarks/results] [--stages parity search batch]
    python benchmarks/gpu_check.py --device cpu --quick   # rehearsal in Triton's interpreter

The check needs torch, triton, numpy and rich; neither network nor an installation. Its stages come
in the order of what they are worth, and each writes gpu_STAGE.json when it ends, so that a run that
is cut off leaves what it had measured. A stage has a limit of its own and gets no more than is left
of the whole check's minutes; one that is ended by it says so and keeps the rows it had:

    parity    every operator of every backend and `score_batch`, against fp64 and tests/golden
    search    the 16-bit search and the search in a subspace, beside products of cuBLAS
    batch     `score_batch` of 200 images, exact and fast
    memory    LNAMD, interval mean, rounding beside a copy
    msm       the mutual scoring by every backend and the official code; peak memory
    bank      one image against a bank of 200
    images    `throughput.py`, from image files to maps; writes throughput_gpu.json
    profile   what ncu says of the largest kernels
    variants  the search in other configs

Parity runs in several processes at once, which also compile what later stages run; one failure
ends the check before any speed. `lib/gpu_kernels.py` says what the work needs at least. The
verdicts compare figures with their limits; any FAIL makes the exit status 1.
"""

from __future__ import annotations

import json
import math
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lib.checkout import RESULTS
from lib.gpu_verdicts import MINUTES, official_ratio, verdicts
from lib.program import make_parser

if TYPE_CHECKING:
    import torch

    from lib.gpu_parity import Check
    from lib.gpu_stages import Sizes

# The stages in their order, and the seconds that each may take.
LIMITS = {
    "parity": 120.0,
    "search": 40.0,
    "batch": 60.0,
    "memory": 20.0,
    "msm": 40.0,
    "bank": 20.0,
    "images": 90.0,
    "profile": 75.0,
    "variants": 75.0,
}
STAGES = tuple(LIMITS)
RESERVE = 5.0  # seconds for the end of the check: verdicts, files
PROCESSES = 14


def run_part(device: torch.device, sizes: Sizes, part: int, parts: int) -> list[Check]:
    """The checks of one process; on a GPU it also compiles kernels of later stages."""
    from lib import gpu_parity

    every: list[Callable[[], Iterator[Check]]] = gpu_parity.tasks(device, large=sizes.side >= 16)
    checks = [check for task in every[part::parts] for check in task()]
    if device.type == "cuda":
        for compile_rows in compilations(sizes, device)[(part - len(every)) % parts :: parts]:
            for _ in compile_rows():
                pass
    return checks


def compilations(sizes: Sizes, device: torch.device) -> list[partial[Iterator[dict[str, Any]]]]:
    """The later stages with few images, in parts that compile in processes of their own."""
    from lib import gpu_kernels, gpu_stages

    small = replace(sizes, images=3, few=3, runs=1)
    variants = [partial(gpu_stages.variants_stage, small, device, [s]) for s in gpu_kernels.SPACES]
    stages = ("batch", "memory", "msm", "bank", "images")  # the search is among the variants
    return [*variants, *(partial(stage_rows, stage, small, device) for stage in stages)]


def parity(device: torch.device, sizes: Sizes, quick: bool, seconds: float) -> list[Check]:
    """All checks, on a GPU in PROCESSES processes; one that takes longer than `seconds` fails."""
    from lib.gpu_parity import Check

    if device.type != "cuda":
        return run_part(device, sizes, 0, 1)
    command = [sys.executable, __file__, *(["--quick"] if quick else []), "--part"]
    running = [
        subprocess.Popen([*command, str(k)], stdout=subprocess.PIPE, text=True)
        for k in range(PROCESSES)
    ]
    found, end = [], time.perf_counter() + seconds
    for k, process in enumerate(running):
        try:
            output, _ = process.communicate(timeout=max(0.1, end - time.perf_counter()))
        except subprocess.TimeoutExpired:
            process.kill()
            output, _ = process.communicate()
        if process.returncode != 0:
            found.append(Check(f"process {k} of the parity checks ended early", float("nan"), 0.0))
            continue
        found += [Check(*fields) for fields in json.loads(output.splitlines()[-1])]
    return found


class OverLimit(BaseException):
    """A stage took longer than its seconds; it is no Exception, which code within might catch."""


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Raise OverLimit in the code within when `seconds` have passed; between calls, not inside."""

    def stop(*_: object) -> None:
        raise OverLimit

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


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
        "images": gpu_stages.images_stage,
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
    parser.add_argument("--profiled", action="store_true", help="what the profiler looks at")
    arguments = parser.parse_args()
    if arguments.device == "cpu":
        os.environ["TRITON_INTERPRET"] = "1"  # Triton reads it when the kernels are imported
    import torch

    from lib import gpu_profile, gpu_stages

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
        gpu_profile.profiled(sizes, device)
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
            seconds = self.seconds_for(stage)
            if seconds <= 0:
                self.console.print(f"stage {stage}: left out, the check's minutes are spent")
                continue
            if stage == "parity":
                if not self.parity_holds(quick, seconds):
                    return 1
            elif stage == "profile":
                self.profile(seconds)
            elif stage == "images":
                self.throughput(seconds)
            else:
                self.measure(stage, seconds)
            self.console.print(f"stage {stage}: {time.perf_counter() - begin:.0f} s")
        return self.judge(stages)

    def seconds_for(self, stage: str) -> float:
        """The seconds that a stage may take now; without a GPU there is no limit."""
        if self.device.type != "cuda":
            return math.inf
        spent = time.perf_counter() - self.start
        return min(LIMITS[stage], 60 * MINUTES - RESERVE - spent)

    def parity_holds(self, quick: bool, seconds: float) -> bool:
        """Run the parity stage; whether every check passed."""
        checks = parity(self.device, self.sizes, quick, seconds)
        failures = [each for each in checks if not each.passed]
        for failure in failures:
            error, limit = failure.error, failure.limit
            self.console.print(f"FAIL {failure.what}: error {error:.2e}, limit {limit:.0e}")
        passed = len(checks) - len(failures)
        self.console.print(f"parity: {passed} of {len(checks)} checks passed")
        self.write("parity", [asdict(each) | {"passed": each.passed} for each in checks])
        return not failures

    def measure(self, stage: str, seconds: float) -> None:
        """Measure a stage in this process, show its rows, write its file."""
        rows: list[dict[str, Any]] = []
        try:
            with limited(seconds) if seconds < math.inf else nullcontext():
                for row in stage_rows(stage, self.sizes, self.device):
                    rows.append(row)  # noqa: PERF402  (what there is remains at the limit)
        except OverLimit:
            self.console.print(f"stage {stage}: ended at its limit of {seconds:.0f} s")
        self.keep(stage, rows)

    def keep(self, stage: str, rows: list[dict[str, Any]]) -> None:
        """Show the rows of a stage and write its file."""
        from lib import gpu_kernels

        if rows:
            gpu_kernels.show(rows)
            self.rows += rows
            self.write(stage, rows)

    def profile(self, seconds: float) -> None:
        """Run ncu, show its figures, write their file."""
        from lib import gpu_programs

        if self.device.type == "cuda":
            words = None if self.out is None else self.out / "gpu_profile.txt"
            rows, reason = gpu_programs.profile(Path(__file__), seconds, words)
            self.keep("profile", rows)
            if reason is not None:
                self.console.print(f"profile: not all was measured: {reason}")

    def throughput(self, seconds: float) -> None:
        """Run throughput.py, which writes a file of its own."""
        from lib import gpu_programs

        if self.device.type == "cuda" and self.out is not None:
            self.out.mkdir(parents=True, exist_ok=True)
            path = self.out / "throughput_gpu.json"
            output = gpu_programs.throughput(path, self.images, seconds)
            self.console.print(output.printed, markup=False, highlight=False)
            if output.failure is not None:
                self.console.print(f"images: not all was measured: {output.failure}")

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
