"""The CUDA kernels as nvcc compiles them for sm_90: products of groups of warps, few spills."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NVCC = shutil.which("nvcc", path="/usr/local/cuda/bin") or shutil.which("nvcc")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(NVCC is None, reason="there is no nvcc"),
]


@pytest.mark.parametrize("name", ["find_nearest", "find_nearest_16", "list_candidates"])
def test_registers_and_products(name: str, tmp_path: Path) -> None:
    source = ROOT / "csrc" / "cuda" / f"{name}.cu"
    assert NVCC is not None
    target = ["-gencode", "arch=compute_90a,code=sm_90a"]
    command = [NVCC, "-std=c++17", "-O3", *target, "-Xptxas", "-v", "-Werror", "all-warnings"]
    ptx = subprocess.run(
        [*command, "-keep", "-keep-dir", str(tmp_path), "-c", str(source), "-o", f"{tmp_path}/o"],
        check=False,
        capture_output=True,
        text=True,
    )
    assert ptx.returncode == 0, ptx.stderr
    spills = [int(each) for each in re.findall(r"(\d+) bytes spill stores", ptx.stderr)]
    assert spills
    assert max(spills) <= 64  # a few registers, outside of the loops' products
    text = next(tmp_path.glob("*.ptx")).read_text()
    assert "wgmma.mma_async" in text
