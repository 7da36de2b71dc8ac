"""`make gpu-check` without a GPU: it runs in the interpreter, and its verdicts judge."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import gpu_check
from lib import gpu_kernels, gpu_profile, gpu_programs, gpu_stages, gpu_verdicts

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
    judged = gpu_verdicts.verdicts(measured(), "NVIDIA H100 80GB HBM3", 5.9)
    assert len(judged) == 11
    assert all(each.passed for each in judged)
    elsewhere = gpu_verdicts.verdicts(measured(), "NVIDIA GeForce RTX 4090", 5.9)
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
    judged = gpu_verdicts.verdicts(rows, "NVIDIA H100 80GB HBM3", 5.9)
    assert sum(not each.passed for each in judged) == 1


def test_what_was_not_measured_does_not_pass() -> None:
    judged = gpu_verdicts.verdicts([], "NVIDIA H100 80GB HBM3", 5.9)
    assert [each.what for each in judged if each.passed] == ["this check: minutes"]
    assert not gpu_verdicts.verdicts(measured(), "NVIDIA H100 80GB HBM3", 6.1)[-1].passed


def as_csv(*fields: str) -> str:
    return ",".join(f'"{field}"' for field in fields) + "\n"


# What ncu prints, cut to two launches and to some counters.
NCU = (
    """==PROF== Connected to process 727 (/usr/bin/python3.12)
==PROF== Profiling "find_nearest_kernel": 0%....50%....100% - 12 passes
==PROF== Disconnected from process 727
"""
    + as_csv(
        *("ID", "Process ID", "Process Name", "Host Name", "Kernel Name", "Context", "Stream"),
        *("Block Size", "Grid Size", "Device", "CC"),
        "dram__throughput.avg.pct_of_peak_sustained_elapsed",
        "gpu__time_duration.sum",
        "launch__registers_per_thread",
        "smsp__average_warps_issue_stalled_barrier_per_issue_active.ratio",
        "smsp__average_warps_issue_stalled_wait_per_issue_active.ratio",
        "smsp__issue_active.avg.pct_of_peak_sustained_active",
    )
    + as_csv(*[""] * 11, "%", "ns", "register/thread", "inst", "inst", "%")
    + as_csv(
        *("0", "727", "python3.12", "127.0.0.1"),
        "void musc::<unnamed>::find_nearest_kernel<128, 1>(musc::Pairs)",
        *("1", "7", "(256, 1, 1)", "(2976, 1, 1)", "0", "9.0"),
        *("1.22", "408,384", "124", "0.96", "1.38", "55.90"),
    )
    + as_csv(
        *("1", "727", "python3.12", "127.0.0.1", "_min_distance_kernel"),
        *("1", "7", "(128, 1, 1)", "(19360, 1, 1)", "0", "9.0"),
        *("n/a", "847552", "245", "", "2.5", "25.61"),
    )
)


def test_the_profile_is_read() -> None:
    few, wide = gpu_profile.read_rows(NCU)
    assert few["what"] == "find_nearest_kernel<128, 1>"
    assert few["seconds"] == pytest.approx(408.384e-6)
    assert few["dram"] == pytest.approx(0.0122)
    assert few["issue_slots"] == pytest.approx(0.559)
    assert few["registers"] == 124
    assert list(few["stalls"].items()) == [("wait", 1.38), ("barrier", 0.96)]
    assert wide["what"] == "_min_distance_kernel"
    assert "dram" not in wide  # not measured is not zero
    assert wide["stalls"] == {"wait": 2.5}
    with pytest.raises(ValueError, match="no table"):
        gpu_profile.read_rows("==ERROR== The user does not have permission")


def put_ncu(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program of the name ncu that prints what is wanted; the real one needs a GPU."""
    path = folder / "ncu"
    path.write_text("#!/bin/sh\n" + script, encoding="utf-8")
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


def test_the_profile_stage_reads_what_ncu_prints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "printed").write_text(NCU, encoding="utf-8")
    put_ncu(tmp_path, f"cat {tmp_path / 'printed'}\nexit 3\n", monkeypatch)
    rows, reason = gpu_programs.profile(Path("gpu_check.py"), 60, tmp_path / "words")
    assert len(rows) == 2
    assert reason is not None
    assert reason.startswith("exit status 3")
    assert not (tmp_path / "words").exists()


def test_an_ncu_without_a_table_leaves_its_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_ncu(tmp_path, "echo '==ERROR== no permission'\nexit 1\n", monkeypatch)
    rows, reason = gpu_programs.profile(Path("gpu_check.py"), 60, tmp_path / "words")
    assert rows == []
    assert reason is not None
    assert "==ERROR== no permission" in reason
    assert (tmp_path / "words").read_text() == "==ERROR== no permission\n"
    monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))
    assert gpu_programs.profile(Path("gpu_check.py"), 60, None) == ([], "there is no ncu")


@pytest.mark.parametrize(
    ("signature", "name"),
    [
        ("void a::<unnamed>::lnamd_kernel<(int)4, (int)-2>(a::Tokens)", "lnamd_kernel<4, -2>"),
        ("void mean_kernel<(int)4, (a::Layout)2>(a::Rows)", "mean_kernel<4, 2>"),
        ("_refine_kernel", "_refine_kernel"),
    ],
)
def test_names_of_kernels(signature: str, name: str) -> None:
    assert gpu_profile.kernel_name(signature) == name


def test_a_program_is_ended_at_its_limit_with_all_it_started(tmp_path: Path) -> None:
    child = f"import os, time; open({str(tmp_path / 'child')!r}, 'w').write(str(os.getpid()))"
    child += "; time.sleep(60)"
    code = "import subprocess, sys; print('begun', flush=True); "
    code += f"subprocess.run([sys.executable, '-c', {child!r}])"
    start = time.perf_counter()
    output = gpu_programs.run_within([sys.executable, "-c", code], 3)
    assert time.perf_counter() - start < 30
    assert output.printed == "begun\n"
    assert output.failure == "ended at its limit of 3 s"
    pid = int((tmp_path / "child").read_text())
    for _ in range(100):
        state = Path(f"/proc/{pid}/stat")
        if not state.exists() or state.read_text().rpartition(")")[2].split()[0] == "Z":
            break
        time.sleep(0.05)
    else:
        pytest.fail("what the program had started lives on")


def test_a_program_that_fails_says_its_last_words() -> None:
    command = [sys.executable, "-c", "raise SystemExit('no weights')"]
    assert gpu_programs.run_within(command, 60).failure == "exit status 1: no weights"
    assert gpu_programs.run_within([sys.executable, "-c", "pass"], 60).failure is None


def new_run(folder: Path) -> gpu_check.Run:
    return gpu_check.Run(torch.device("cpu"), gpu_stages.QUICK, folder, [])


def test_a_stage_keeps_the_rows_it_had_at_its_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def slow(*_: object) -> Iterator[dict[str, Any]]:
        yield {"what": "first", "seconds": 1.0}
        time.sleep(60)
        yield {"what": "second", "seconds": 1.0}

    monkeypatch.setattr(gpu_check, "stage_rows", slow)
    before = signal.getsignal(signal.SIGALRM)
    run, start = new_run(tmp_path), time.perf_counter()
    run.measure("variants", 0.5)
    assert time.perf_counter() - start < 30
    assert "stage variants: ended at its limit" in capsys.readouterr().out
    document = json.loads((tmp_path / "gpu_variants.json").read_text())
    assert [row["what"] for row in document["results"]] == ["first"]
    assert signal.getsignal(signal.SIGALRM) is before
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_no_stage_gets_more_than_is_left(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    assert run.seconds_for("images") == math.inf  # a rehearsal has no limits
    run.device = torch.device("cuda")
    assert run.seconds_for("images") == gpu_check.LIMITS["images"]
    run.start -= 60 * gpu_verdicts.MINUTES - gpu_check.RESERVE - 20
    assert 19 < run.seconds_for("images") <= 20
    run.start -= 30
    assert run.seconds_for("images") < 0


def test_every_stage_of_this_process_is_compiled_beside_parity() -> None:
    found = gpu_check.compilations(gpu_stages.QUICK, torch.device("cpu"))
    variants = [each.args[2] for each in found if each.func is gpu_stages.variants_stage]
    assert variants == [[space] for space in gpu_kernels.SPACES]
    assert set(gpu_kernels.USUAL) <= set(gpu_kernels.SPACES)  # hence the search stage is compiled
    stages = {each.args[0] for each in found if each.func is gpu_check.stage_rows}
    assert stages == set(gpu_check.STAGES) - {"parity", "search", "variants", "profile"}


@pytest.mark.long
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
