"""The stages of gpu_check.py that run a program: ncu, and throughput.py; each within seconds."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import gpu_profile

SIZE = 518
IMAGES = (48, 200)


@dataclass(frozen=True)
class Output:
    """What a program printed, and why it did not end well, or None."""

    printed: str
    errors: str
    failure: str | None


def run_within(command: list[str], seconds: float) -> Output:
    """Run a program for at most `seconds`; then it and all that it started are ended."""
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        printed, errors = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        printed, errors = process.communicate()
        return Output(printed, errors, f"ended at its limit of {seconds:.0f} s")
    if process.returncode == 0:
        return Output(printed, errors, None)
    words = (errors.strip() or printed.strip() or "no word").splitlines()[-1]
    return Output(printed, errors, f"exit status {process.returncode}: {words}")


def profile(
    script: Path, seconds: float, words: Path | None
) -> tuple[list[dict[str, Any]], str | None]:
    """The rows of ncu, and in a sentence why there are none, or not all.

    words: a file for what ncu printed, written where its table cannot be read.
    """
    ncu = shutil.which("ncu")
    if ncu is None:
        return [], "there is no ncu"
    output = run_within(gpu_profile.command(ncu, script), seconds)
    try:
        return gpu_profile.read_rows(output.printed), output.failure
    except ValueError as error:
        if words is not None:
            words.write_text(output.printed + output.errors, encoding="utf-8")
        said = [line for line in output.printed.splitlines() if line.startswith("==ERROR==")]
        return [], "; ".join([output.failure or str(error), *said[:3]])


def throughput(json: Path, arguments: list[str], seconds: float) -> Output:
    """Run `throughput.py` on the GPU, at the sizes of the figures; `arguments` come last."""
    command = [sys.executable, str(Path(__file__).parents[1] / "throughput.py")]
    command += ["--device", "cuda", "--backend", "triton", "--size", str(SIZE)]
    command += ["--n", *(str(n) for n in IMAGES), "--batch-size", "16", "--json", str(json)]
    return run_within([*command, *arguments], seconds)
