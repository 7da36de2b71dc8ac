"""The build as users meet it: wheels with and without a compiler, and MUSC_FAST_BUILD.

The tools come from the test environment (no build isolation), so nothing is downloaded.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("musc_fast", "csrc", "kernels")
FILES = ("pyproject.toml", "setup.py", "CMakeLists.txt", "README.md", "LICENSE")

needs_tools = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("setuptools", "pybind11", "wheel")),
    reason="setuptools, wheel or pybind11 is not installed here, and nothing is downloaded",
)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A clean copy of the files that a build needs."""
    copy = tmp_path / "source"
    copy.mkdir()
    for name in PARTS:
        if (ROOT / name).is_dir():
            shutil.copytree(
                ROOT / name,
                copy / name,
                ignore=shutil.ignore_patterns("*.so", "__pycache__", "*.pyd"),
            )
    for name in FILES:
        if (ROOT / name).is_file():
            shutil.copy(ROOT / name, copy / name)
    return copy


def build_wheel(
    source: Path, mode: str | None, compiler: bool
) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    """`pip wheel` in the copy; returns the process and the names inside the wheel."""
    environment = {k: v for k, v in os.environ.items() if k not in ("MUSC_FAST_BUILD", "CXX")}
    if mode is not None:
        environment["MUSC_FAST_BUILD"] = mode
    environment["CXX"] = str(quick_compiler(source) if compiler else source / "no-such-compiler")
    out = source.parent / "wheels"
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "wheel",
            "-v",
            "--no-build-isolation",
            "--no-deps",
            "--no-index",
            "--disable-pip-version-check",
            "-w",
            str(out),
            ".",
        ],
        cwd=source,
        env=environment,
        capture_output=True,
        text=True,
        timeout=280,
    )
    wheels = list(out.glob("*.whl"))
    names = zipfile.ZipFile(wheels[0]).namelist() if wheels else []
    return done, names


def quick_compiler(folder: Path) -> Path:
    """The C++ compiler without its optimisation, which takes most of a build's time."""
    compiler = shutil.which("c++") or shutil.which("g++")
    program = folder.parent / "quick-c++"
    program.write_text(f'#!/bin/sh\nexec {compiler} "$@" -O0\n', encoding="utf-8")
    program.chmod(0o755)
    return program


def extensions(names: list[str]) -> list[str]:
    return [name for name in names if "_C" in Path(name).name and not name.endswith(".pyi")]


@needs_tools
@pytest.mark.skipif(
    shutil.which("c++") is None and shutil.which("g++") is None, reason="no C++ compiler here"
)
@pytest.mark.long
def test_wheel_with_a_compiler_works_outside_the_repository(source: Path) -> None:
    done, names = build_wheel(source, "1", compiler=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(extensions(names)) == 1
    assert "musc_fast/backends/cpu/search.py" in names
    for data in ("py.typed", "report/line_page.html", "report/line_page.css", "report/report.js"):
        assert f"musc_fast/{data}" in names
    wheel = next((source.parent / "wheels").glob("*.whl"))
    target = source.parent / "installed"
    zipfile.ZipFile(wheel).extractall(target)
    code = (
        "import musc_fast, torch; from musc_fast.backends.cpu import operators as native; "
        "print(musc_fast.__file__); print(native.msm(torch.eye(8)[None].repeat(3, 1, 1), None, "
        "0, 1).abs().max().item())"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code],
        cwd=source.parent,
        env={**os.environ, "PYTHONPATH": str(target)},
        capture_output=True,
        text=True,
    )
    assert ran.stdout.split() == [str(target / "musc_fast" / "__init__.py"), "0.0"], ran.stderr


@needs_tools
def test_wheel_without_a_compiler_has_everything_else(source: Path) -> None:
    done, names = build_wheel(source, None, compiler=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert extensions(names) == []
    assert "musc_fast/backends/cpu/operators.py" in names
    assert "building musc_fast._C failed" in done.stdout + done.stderr


@needs_tools
def test_a_failure_is_fatal_on_request(source: Path) -> None:
    done, names = build_wheel(source, "1", compiler=False)
    assert done.returncode != 0
    assert names == []
    assert "building musc_fast._C failed" in done.stdout + done.stderr


@needs_tools
def test_the_extension_can_be_skipped(source: Path) -> None:
    done, names = build_wheel(source, "0", compiler=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert extensions(names) == []
    assert "cmake" not in done.stdout.lower().replace("cmakelists", "")


@needs_tools
def test_other_modes_are_refused(source: Path) -> None:
    done, _ = build_wheel(source, "yes", compiler=True)
    assert done.returncode != 0
    assert "MUSC_FAST_BUILD must be unset, 0 or 1" in done.stdout + done.stderr


@needs_tools
def test_top_level_kernels_install_as_musc_fast_kernels(source: Path) -> None:
    (source / "kernels").mkdir(exist_ok=True)
    (source / "kernels" / "__init__.py").touch()
    done, names = build_wheel(source, "0", compiler=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "musc_fast/kernels/__init__.py" in names
    assert not any(name.startswith("kernels/") for name in names)
