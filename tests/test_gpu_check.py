"""`make gpu-check` without a GPU: it runs in the interpreter, and its verdicts judge."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import gpu_check

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


def measured() -> list[dict[str, Any]]:
    """Rows that meet every limit by a hair."""
    return [
        {"what": "search, float16, 1024 channels", "of_product": 0.76, "usual": 1},
        {"what": "search, float16, 1024 channels, by pointers", "of_product": 0.1},
        {"what": "search, int8, 1024 channels", "of_product": 0.1, "usual": 1},
        {"what": "msm, torch exact", "seconds": 1.6},
        {"what": "msm, triton exact", "seconds": 1.0},
        {"what": "msm, torch fast", "seconds": 3.2},
        {"what": "msm, triton fast", "seconds": 2.0},
        {"what": "LNAMD, 3 degrees", "of_copy": 0.81},
        {"what": "interval mean, [N, P, M]", "of_copy": 0.81},
        {"what": "interval mean, [N, M, P]", "of_copy": 0.81},
        {"what": "peak memory of msm", "of_plan": 0.96},
        {"what": "score_batch, exact", "seconds": 0.99},
        {"what": "score_batch, fast", "seconds": 2.9},
        {"what": "one image against a bank", "seconds": 0.029},
    ]


def test_what_meets_every_limit_passes() -> None:
    judged = gpu_check.verdicts(measured(), "NVIDIA H100 80GB HBM3", 5.9)
    assert len(judged) == 11
    assert all(each.passed for each in judged)
    elsewhere = gpu_check.verdicts(measured(), "NVIDIA GeForce RTX 4090", 5.9)
    assert not any("score_batch" in each.what for each in elsewhere)


@pytest.mark.parametrize(
    ("what", "key", "value"),
    [
        ("search, float16, 1024 channels", "of_product", 0.74),
        ("msm, triton exact", "seconds", 1.1),
        ("msm, triton fast", "seconds", 2.2),
        ("LNAMD, 3 degrees", "of_copy", 0.79),
        ("interval mean, [N, P, M]", "of_copy", 0.79),
        ("interval mean, [N, M, P]", "of_copy", 0.79),
        ("peak memory of msm", "of_plan", 1.06),
        ("peak memory of msm", "of_plan", 0.94),
        ("score_batch, exact", "seconds", 1.01),
        ("score_batch, fast", "seconds", 3.1),
        ("score_batch, fast", "seconds", float("nan")),
        ("one image against a bank", "seconds", 0.031),
    ],
)
def test_each_limit_fails_alone(what: str, key: str, value: float) -> None:
    rows = [row | ({key: value} if row["what"] == what else {}) for row in measured()]
    judged = gpu_check.verdicts(rows, "NVIDIA H100 80GB HBM3", 5.9)
    assert sum(not each.passed for each in judged) == 1


def test_what_was_not_measured_does_not_pass() -> None:
    judged = gpu_check.verdicts([], "NVIDIA H100 80GB HBM3", 5.9)
    assert [each.what for each in judged if each.passed] == ["this check: minutes"]
    assert not gpu_check.verdicts(measured(), "NVIDIA H100 80GB HBM3", 6.1)[-1].passed


@pytest.mark.slow
def test_the_rehearsal_runs_in_the_interpreter(tmp_path: Path) -> None:
    stages = ["parity", "search", "batch", "bank"]
    command = [sys.executable, str(BENCHMARKS / "gpu_check.py"), "--device", "cpu", "--quick"]
    done = subprocess.run(
        [*command, "--out", str(tmp_path), "--stages", *stages],
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "checks passed" in done.stdout
    found = {stage: json.loads((tmp_path / f"gpu_{stage}.json").read_text()) for stage in stages}
    checks = found.pop("parity")["results"]
    assert len(checks) > 50
    assert all(check["passed"] for check in checks)
    rows = [row for document in found.values() for row in document["results"]]
    timed = {row["what"]: row["seconds"] for row in rows}
    assert {"score_batch, exact", "one image against a bank"} <= timed.keys()
    assert all(seconds > 0 for seconds in timed.values())
