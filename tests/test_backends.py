"""The choice of a backend, and the rules of the layering."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from musc_fast import backends
from musc_fast.backends import BACKENDS, resolve
from musc_fast.errors import BackendError

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "musc_fast"


def test_auto_takes_the_first_usable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(backends.ENVIRONMENT_VARIABLE, raising=False)
    device = torch.device("cpu")
    usable = [backend.name for backend in BACKENDS if backend.why_not(device) is None]
    assert resolve("auto", device).name == usable[0]
    assert "reference" in usable


def test_a_backend_that_cannot_run_says_why() -> None:
    with pytest.raises(BackendError, match="backend 'cpu' cannot run on cuda: "):
        resolve("cpu", "cuda")


def test_the_environment_stands_in_for_auto_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(backends.ENVIRONMENT_VARIABLE, "reference")
    assert resolve("auto", "cpu").name == "reference"
    monkeypatch.setenv(backends.ENVIRONMENT_VARIABLE, "nonsense")
    with pytest.raises(BackendError, match="nonsense"):
        resolve("auto", "cpu")
    assert resolve("reference", "cpu").name == "reference"


def imports(path: Path) -> set[str]:
    """Top-level names and musc_fast modules that a file imports anywhere."""
    found = set()
    package = path.relative_to(ROOT).with_suffix("").parts[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = list(package[: len(package) - node.level + 1]) if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            found |= {module} | {f"{module}.{alias.name}" for alias in node.names}
    return found


def uses(path: Path, *modules: str) -> set[str]:
    return {
        name
        for name in imports(path)
        for module in modules
        if name == module or name.startswith(module + ".")
    }


KERNEL_SIDE = (
    "ops", "reference", "reference_backend", "backends", "planning", "native", "_C", "kernels",
    "operands", "streaming", "device_planning", "torch_backend", "triton_backend", "library",
)  # fmt: skip
# Each may import those before it, none after.
LAYERS = ("reference", "backends", "ops", "scoring", "pipeline", "run", "evaluation", "cli")


def test_reference_imports_torch_alone() -> None:
    outside = {
        name.split(".")[0]
        for name in imports(PACKAGE / "reference.py")
        if name.split(".")[0] not in sys.stdlib_module_names
    }
    assert outside == {"torch"}


@pytest.mark.parametrize("folder", ["features", "datasets", "report", "metrics.py"])
def test_the_outer_parts_know_nothing_of_the_kernels(folder: str) -> None:
    path = PACKAGE / folder
    files = [path] if path.is_file() else list(path.rglob("*.py"))
    assert files
    for file in files:
        assert not uses(file, *(f"musc_fast.{name}" for name in KERNEL_SIDE)), file


def test_the_kernels_know_nothing_of_the_outer_parts() -> None:
    outer = ("features", "datasets", "report", "metrics", "pipeline", "cli", "scoring", "run")
    files = [PACKAGE / f"{name}.py" for name in KERNEL_SIDE]
    files += [*(PACKAGE / "native").rglob("*.py"), *(ROOT / "kernels").rglob("*.py")]
    for file in files:
        if file.is_file():
            assert not uses(file, *(f"musc_fast.{name}" for name in outer)), file


@pytest.mark.parametrize("rank", range(len(LAYERS)))
def test_arrows_run_one_way(rank: int) -> None:
    above = [f"musc_fast.{name}" for name in LAYERS[rank + 1 :]]
    assert not uses(PACKAGE / f"{LAYERS[rank]}.py", *above)


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = (
        "import sys, musc_fast; "
        "heavy = {'torch', 'triton', 'timm', 'open_clip', 'sklearn'} & set(sys.modules); "
        "assert not heavy, heavy; "
        "from musc_fast import score_batch; "
        "heavy = {'triton', 'timm', 'open_clip', 'sklearn'} & set(sys.modules); "
        "assert not heavy, heavy; assert callable(score_batch)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
