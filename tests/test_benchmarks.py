"""Every program in benchmarks/ starts, and the README's table names it and its result files."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "benchmarks"
PROGRAMS = sorted(FOLDER.glob("*.py"))
README = (FOLDER / "README.md").read_text(encoding="utf-8")
ROWS = dict(re.findall(r"^\| `(\w+\.py)` (\|.*\|)$", README, flags=re.MULTILINE))


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda path: path.name)
def test_help(program: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(program), "--help"], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert f"usage: {program.name}" in done.stdout


def test_the_table_lists_the_programs_and_the_result_files() -> None:
    assert list(ROWS) == [program.name for program in PROGRAMS]
    assert all(row.count("|") == 5 for row in ROWS.values())
    links = re.findall(r"\]\((.*?)\)", README)
    assert [link for link in links if not (FOLDER / link).is_file()] == []
    named = {Path(link).name for link in links if link.startswith("results/")}
    assert named == {path.name for path in (FOLDER / "results").glob("*.json")}


@pytest.mark.slow
def test_a_checkout_that_is_not_installed(tmp_path: Path) -> None:
    packages = Path(torch.__file__).parents[1]
    if (packages / "musc_fast").exists():
        pytest.skip("musc_fast is installed beside torch")
    for name in ("musc_fast", "kernels", "benchmarks"):
        ignore = shutil.ignore_patterns("__pycache__", "kernels", "results")
        shutil.copytree(ROOT / name, tmp_path / name, ignore=ignore)
    programs = tmp_path / "benchmarks"
    code = "import lib, musc_fast as m, musc_fast.kernels as k; print(m.__file__, k.__file__)"
    for command in (["-c", code], [str(programs / "static_report.py"), "--help"]):
        # -S leaves out the .pth files by which an editable installation is found.
        done = subprocess.run(
            [sys.executable, "-S", *command],
            capture_output=True,
            text=True,
            timeout=120,
            cwd=programs,
            env=os.environ | {"PYTHONPATH": str(packages)},
        )
        assert done.returncode == 0, done.stderr
        if command[0] == "-c":
            files = [str(tmp_path / name / "__init__.py") for name in ("musc_fast", "kernels")]
            assert done.stdout.split() == files
