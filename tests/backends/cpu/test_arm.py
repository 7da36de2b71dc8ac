"""The portable kernels compile for ARM, where a cross compiler is at hand."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
CPU = ROOT / "csrc" / "cpu"
SOURCES = sorted(
    path
    for path in CPU.rglob("*.cpp")
    if path.parent.name != "isa" or path.stem in ("dispatch", "portable")
)
# What CMakeLists.txt says where no instruction set of x86 is built.
NOT_BUILT = sorted(set(re.findall(r"MUSC_BUILT_[A-Z]\w+", (CPU / "isa" / "list.hpp").read_text())))


def cross_compiler() -> list[str] | None:
    gcc = shutil.which("aarch64-linux-gnu-g++")
    if gcc is not None:
        return [gcc]
    if importlib.util.find_spec("ziglang") is not None:
        return [sys.executable, "-m", "ziglang", "c++", "-target", "aarch64-linux-gnu"]
    return None


@pytest.mark.skipif(cross_compiler() is None, reason="no ARM cross compiler (g++ or ziglang)")
@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.name)
def test_compiles_for_arm(source: Path, tmp_path: Path) -> None:
    compiler = cross_compiler()
    assert compiler is not None
    out = tmp_path / "out.o"
    command = [*compiler, "-std=c++17", "-O2", "-Wall", "-Werror", "-fPIC", f"-I{ROOT / 'csrc'}"]
    command += [f"-D{name}=0" for name in NOT_BUILT]
    done = subprocess.run([*command, "-c", str(source), "-o", str(out)], capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    assert out.read_bytes()[18:20] == b"\xb7\x00"  # ELF: AArch64
