"""What every benchmark records: machine, versions, commit, medians with spread, JSON."""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import musc_fast
from musc_fast.files import replacing

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared"


@dataclass(frozen=True)
class Timing:
    """Seconds of repeated runs."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def spread(self) -> float:
        """(max - min) / median."""
        return (max(self.seconds) - min(self.seconds)) / self.median

    def __str__(self) -> str:
        return f"{self.median:.3f} s ±{50 * self.spread:.0f}%"


def settle(seconds: float = 0.05) -> None:
    """Let the threads of what ran before come to rest; on a GPU there is nothing to wait for.

    OpenBLAS's spin for 2^26 cycles after a call, OpenMP's for less, on the cores that the next one
    needs. Waits busily: after sleep, cores take tens of milliseconds to reach their speed again.
    """
    start = time.perf_counter()
    while not torch.cuda.is_available() and time.perf_counter() - start < seconds:
        pass


def interleaved(calls: dict[str, Callable[[], Any]], runs: int, warm: int = 1) -> dict[str, Timing]:
    """Time each call `runs` times, taking turns, so that drift of the machine hits all alike.

    Each begins when the one before has come to rest (`settle`).
    """
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(warm + runs):
        for name, call in calls.items():
            synchronise()
            settle()
            start = time.perf_counter()
            call()
            synchronise()
            if turn >= warm:
                seconds[name].append(time.perf_counter() - start)
    return {name: Timing(tuple(values)) for name, values in seconds.items()}


def features(n: int, p: int, c: int, device: torch.device, seed: int = 0) -> Tensor:
    """Tokens [N, P, C] float32 with the spectrum of real ones, drawn.

    A template of patches and each image's own deviation, spectrum 1 / k, noise, a hot channel.
    """
    generator = torch.Generator(device).manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, device=device)

    scale = torch.arange(1, c + 1, device=device).float() ** -1.0
    rotation = torch.linalg.qr(draw(c, c)).Q
    template = draw(1, p, c) * scale
    tokens = torch.empty(n, p, c, device=device)
    for i in range(n):
        tokens[i] = ((template[0] + 0.5 * draw(p, c) * scale) @ rotation) + 0.002 * draw(p, c)
    tokens[..., c // 3] *= 20
    return tokens


def synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def peak_memory() -> dict[str, float]:
    """Peak memory of this process in GiB: resident, and of the CUDA device if there is one."""
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30
    result = {"peak_rss_gib": round(peak, 3)}
    if torch.cuda.is_available():
        result["peak_cuda_gib"] = round(torch.cuda.max_memory_allocated() / 2**30, 3)
    return result


def machine() -> dict[str, Any]:
    """Hardware, versions and commit, as recorded with every result."""
    return {
        "when": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "commit": _git("rev-parse", "--short", "HEAD"),
        "changed_files": len(_git("status", "--porcelain").splitlines()),
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "musc_fast": musc_fast.__version__,
    }


def described(arguments: argparse.Namespace) -> dict[str, str]:
    """The settings of a run; of a path its name alone, for where it lay tells nobody anything."""
    return {
        key: value.name if isinstance(value, Path) else str(value)
        for key, value in vars(arguments).items()
        if key != "json"
    }


def write_json(path: Path, settings: dict[str, Any], results: Sequence[dict[str, Any]]) -> None:
    """Write a result file, complete or not at all."""
    document = {"machine": machine(), "settings": settings, "results": list(results)}
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def _git(*arguments: str) -> str:
    done = subprocess.run(
        ["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return done.stdout.strip()


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
