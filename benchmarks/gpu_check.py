"""Everything a machine with a GPU can tell, in one command: parity, then speed, then verdicts.

    python benchmarks/gpu_check.py [--json benchmarks/results/gpu.json]
    python benchmarks/gpu_check.py --device cpu --quick   # rehearsal in Triton's interpreter

The check needs torch, triton, numpy and rich; neither network nor an installation. Parity
(`lib/gpu_parity.py`): every operator of every backend and `score_batch`, against fp64 and
tests/golden; one failure ends the run before any speed. Speed: the kernels (`lib/gpu_kernels.py`,
which says what the work needs at least), `score_batch` on four layers of features, then
`throughput.py` from images to maps where the backbone and its weights are at hand. The verdicts
compare the figures with their limits; any FAIL makes the exit status 1.
"""

from __future__ import annotations

import os
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

MINUTES = 8.0


@dataclass(frozen=True)
class Sizes:
    """Sizes of the timed work; a GPU with too little memory for it gets fewer images."""

    images: int
    side: int
    channels: int
    layers: int
    runs: int


FULL = Sizes(images=200, side=37, channels=1024, layers=4, runs=5)
QUICK = Sizes(images=4, side=3, channels=40, layers=2, runs=1)


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
    """The verdicts on the measured rows; seconds of `score_batch` have limits on an H100 alone."""
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
    return [*found, Verdict("this check: minutes", minutes, MINUTES, at_least=False)]


def official_ratio(rows: list[dict[str, Any]]) -> float:
    """Time a pair of images of the official mutual scoring, divided by that of exact Triton."""
    key = "microseconds_a_pair"
    pair: dict[str, float] = {row["what"]: row[key] for row in rows if key in row}
    return pair["msm, official (cdist)"] / pair["msm, triton exact"]


def batch_rows(sizes: Sizes, device: torch.device) -> Iterator[dict[str, Any]]:
    """The whole `score_batch`: exact by the certified search, fast by the full 16-bit search."""
    from functools import partial

    from lib.synthetic import draw_tokens
    from lib.timing import time_on_device
    from musc_fast.scoring import score_batch

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
    for what, timing in time_on_device(calls, device, min(sizes.runs, 3)).items():
        yield {
            "what": what,
            "images": n,
            "seconds": timing.median,
            "spread": timing.spread,
            "images_per_second": n / timing.median,
        }


def images_that_fit(sizes: Sizes, device: torch.device) -> int:
    """How many images' layers, their pooled copies and the search fit half the free memory."""
    import torch

    if device.type != "cuda":
        return sizes.images
    image = 4 * sizes.side**2 * sizes.channels * (sizes.layers + 5)
    return max(2, min(sizes.images, int(0.5 * torch.cuda.mem_get_info(device)[0] / image)))


def throughput(json: Path) -> str:
    """Run `throughput.py` on the GPU; its output, or in a sentence why there is none."""
    command = [sys.executable, str(Path(__file__).with_name("throughput.py"))]
    command += ["--device", "cuda", "--backend", "triton", "--json", str(json)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode == 0:
        return done.stdout
    reason = (done.stderr.strip() or done.stdout.strip() or "no word").splitlines()[-1]
    return f"throughput.py: not measured here: {reason}"


def main() -> int:
    """Parity, timings, verdicts, JSON; the exit status."""
    parser = make_parser(__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: does it run at all?")
    parser.add_argument(
        "--json", type=Path, help="write here (a GPU's default: benchmarks/results/gpu.json)"
    )
    arguments = parser.parse_args()
    if arguments.device == "cpu":
        os.environ["TRITON_INTERPRET"] = "1"  # Triton reads it when the kernels are imported
    import torch

    device = torch.device(arguments.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print("no CUDA GPU: this check measures one; `make test` checks the rest", file=sys.stderr)
        return 1
    path = arguments.json
    if path is None and device.type == "cuda":
        path = RESULTS / "gpu.json"
    return check(device, QUICK if arguments.quick else FULL, path)


def check(device: torch.device, sizes: Sizes, path: Path | None) -> int:
    """Everything, in order; nothing is timed after a failure of parity."""
    import torch
    import triton
    from rich.console import Console

    from lib import gpu_kernels, gpu_parity
    from lib.results import write_results

    start, console = time.perf_counter(), Console()
    checks = gpu_parity.all_checks(device, large=sizes.side >= 16)
    failures = [each for each in checks if not each.passed]
    for failure in failures:
        console.print(f"FAIL {failure.what}: error {failure.error:.2e}, limit {failure.limit:.0e}")
    console.print(f"parity: {len(checks) - len(failures)} of {len(checks)} checks passed")
    if failures:
        return 1
    rows = gpu_kernels.measure_and_show(
        sizes.images, sizes.side, sizes.channels, device, sizes.runs
    )
    batch = list(batch_rows(sizes, device))
    gpu_kernels.show(batch)
    ratio = official_ratio(rows)
    console.print(f"exact mutual scoring, a pair: {ratio:.3g} times as fast as the official code")
    on_gpu = device.type == "cuda"
    if on_gpu and path is not None:
        console.print(throughput(path.with_name("throughput_gpu.json")))
    minutes = (time.perf_counter() - start) / 60
    name = torch.cuda.get_device_name(device) if on_gpu else "rehearsal on a CPU"
    judgements = verdicts([*rows, *batch], name, minutes) if on_gpu else []
    for verdict in judgements:
        console.print(str(verdict))
    settings = {
        **asdict(sizes),
        "device": name,
        "triton": triton.__version__,
        "checks": len(checks),
        "largest_error": max(each.error for each in checks),
        "minutes": minutes,
        "times_official": ratio,
        "verdicts": [asdict(each) | {"passed": each.passed} for each in judgements],
    }
    if path is not None:
        write_results(path, settings, [*rows, *batch])
        console.print(f"{path} written after {minutes:.1f} minutes")
    return 0 if all(each.passed for each in judgements) else 1


if __name__ == "__main__":
    sys.exit(main())
