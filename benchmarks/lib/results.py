"""Result files: figures beside the machine, the versions and the commit that they belong to."""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

import musc_fast
from musc_fast.files import replacing

from .checkout import ROOT


def machine() -> dict[str, Any]:
    """Hardware, versions and commit, as every result file records them."""
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


def peak_memory() -> dict[str, float]:
    """Peak memory of this process in GiB: resident, and of the CUDA device if there is one."""
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30
    result = {"peak_rss_gib": round(peak, 3)}
    if torch.cuda.is_available():
        result["peak_cuda_gib"] = round(torch.cuda.max_memory_allocated() / 2**30, 3)
    return result


def anonymous_bytes() -> int:
    """Bytes of this process's memory that lie in no file (Linux)."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("RssAnon")).split()[1])


def settings_of(arguments: argparse.Namespace) -> dict[str, str]:
    """The arguments of a run but `--json`; a path is recorded by its last part alone."""
    return {
        key: value.name if isinstance(value, Path) else str(value)
        for key, value in vars(arguments).items()
        if key != "json"
    }


def write_results(
    path: Path | None, settings: dict[str, Any], rows: Sequence[dict[str, Any]]
) -> None:
    """Write a result file, complete or not at all; without a path write nothing."""
    if path is None:
        return
    document = {"machine": machine(), "settings": settings, "results": list(rows)}
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
