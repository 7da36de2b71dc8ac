"""The import graph of the whole package: no circle, and what each floor may know.

Read from the sources, so imports inside functions and under TYPE_CHECKING count too.
"""

from __future__ import annotations

import ast
import graphlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

import musc_fast
from musc_fast.backends import BACKENDS

ROOT = Path(__file__).resolve().parents[1]
# From the ground up: a module may import its own floor and those before it. A name is a module or
# a folder with everything below it.
FLOORS = (
    ("errors", "_version", "_C"),
    ("progress", "files", "scratch", "shown", "reference", "settings", "checks", "kernels"),
    ("backends",),
    ("ops", "torch_ops", "native"),
    ("neighbors", "scoring"),
    ("bank",),
    ("recipes", "image_scores", "musc"),
    ("sklearn",),
    ("distributed",),
    ("anomalib",),
    ("runs",),
    ("cli",),
    ("__main__",),
)
# These stand beside the floors: they know the ground floors, each other as listed, and no backend.
SIDES = {
    "metrics": (),
    "threshold": (),
    "datasets": (),
    "registration": (),
    "features": ("datasets", "registration"),
    "report": ("datasets", "metrics", "threshold"),
}
GROUND = ("errors", "_version", "progress", "files", "scratch", "shown", "settings")


def modules() -> dict[str, Path]:
    """Every module of the package and of kernels/, by its dotted name when installed."""
    found = {}
    for path in [*(ROOT / "musc_fast").rglob("*.py"), *(ROOT / "kernels").glob("*.py")]:
        parts = list(path.relative_to(ROOT).with_suffix("").parts)
        parts = ["musc_fast", *parts] if parts[0] == "kernels" else parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def imports(name: str) -> set[str]:
    """Modules of the project that `name` imports, and the packages that this runs on the way."""
    path = MODULES[name]
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: len(package.split(".")) - node.level + 1]
            module = ".".join(
                [*(base if node.level else ()), *([node.module] if node.module else ())]
            )
            found |= {module} | {f"{module}.{alias.name}" for alias in node.names}
    known = {each for each in found if each in MODULES or each == "musc_fast._C"}
    for each in list(known):
        parts = each.split(".")
        known |= {".".join(parts[:k]) for k in range(1, len(parts))}
    # A package is being imported already while a module below it is.
    above = {name} | {name.rsplit(".", k)[0] for k in range(1, name.count(".") + 1)}
    return known - above


GRAPH = {name: imports(name) for name in MODULES}


def test_the_graph_sees_what_is_there() -> None:
    assert "musc_fast.reference" in GRAPH["musc_fast.ops"]
    assert "musc_fast.kernels.tiles" in GRAPH["musc_fast.kernels.min_distance"]


def test_no_circle() -> None:
    graph = dict(GRAPH)
    # What is loaded by name counts as imported.
    graph["musc_fast.backends.registry"] |= {f"musc_fast.backends.{b.module}" for b in BACKENDS}
    try:
        tuple(graphlib.TopologicalSorter(graph).static_order())
    except graphlib.CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_every_module_has_a_floor_or_stands_beside() -> None:
    placed = {name for floor in FLOORS for name in floor} | set(SIDES)
    top = {name.split(".")[1] for name in MODULES if "." in name} | {"_C"}
    assert top == placed


def _top(name: str) -> str:
    return name.split(".")[1]


@pytest.mark.parametrize("name", [name for name in MODULES if "." in name])
def test_arrows_run_one_way(name: str) -> None:
    targets = {each for each in GRAPH[name] if "." in each and _top(each) != _top(name)}
    if _top(name) in SIDES:
        allowed = {*GROUND, *SIDES[_top(name)]}
    else:
        height = next(k for k, floor in enumerate(FLOORS) if _top(name) in floor)
        allowed = {each for floor in FLOORS[: height + 1] for each in floor} | set(SIDES)
        if height < next(k for k, floor in enumerate(FLOORS) if "bank" in floor):
            allowed -= set(SIDES)  # from tokens to scores nothing outside is needed
    assert {_top(each) for each in targets} <= allowed


def test_kernels_meet_their_backend_in_few_files() -> None:
    users = {
        name
        for name, found in GRAPH.items()
        if not name.startswith("musc_fast.kernels")
        and any(each.startswith("musc_fast.kernels") for each in found)
    }
    folder = "musc_fast.backends.triton"
    names = "all_channels cuda_kernels few_channels local search sides streaming winners"
    assert users == {f"{folder}.{name}" for name in names.split()}


@pytest.mark.parametrize(
    ("folder", "known"), [("search", ()), ("inner", ()), ("isa", ("inner",)), ("", ())]
)
def test_cpp_folders_know_those_below(folder: str, known: tuple[str, ...]) -> None:
    """The search sees kernels as a table of functions, and no instruction set."""
    sources = [*(ROOT / "csrc" / "cpu" / folder).glob("*.[ch]pp")]
    assert sources
    for path in sources:
        for included in re.findall(r'#include "cpu/(\w+)/', path.read_text(encoding="utf-8")):
            assert included in (folder, *known), path


@pytest.mark.parametrize("name", ["reference", "settings"])
def test_ground_floor_imports(name: str) -> None:
    """The reference needs torch alone; the settings need no torch, so that the command is quick."""
    tree = ast.parse(MODULES[f"musc_fast.{name}"].read_text(encoding="utf-8"))
    outside = {
        module.split(".")[0]
        for node in ast.walk(tree)
        for module in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom) and not node.level
            else []
        )
    } - sys.stdlib_module_names
    assert outside == ({"torch"} if name == "reference" else {"numpy"})


def test_few_modules_at_the_top() -> None:
    assert len(list((ROOT / "musc_fast").glob("*.py"))) <= 19


def test_files_and_functions_are_short() -> None:
    long = []
    folders = ("musc_fast", "kernels", "tests", "benchmarks")
    for path in (each for folder in folders for each in (ROOT / folder).rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        limit = 250 if path.parent.name == "kernels" and path.parent.parent == ROOT else 400
        if text.count("\n") > limit:
            long.append(f"{path.relative_to(ROOT)}: {text.count(chr(10))} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                first = node.body[0]
                doc = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
                start = first.end_lineno if doc else node.body[0].lineno - 1
                if (node.end_lineno or 0) - (start or 0) > 60:
                    long.append(f"{path.relative_to(ROOT)}: {node.name}")
    sources = (ROOT / "csrc").rglob("*.[ch]pp")
    long += [
        str(path.relative_to(ROOT))
        for path in sources
        if path.read_text(encoding="utf-8").count("\n") > 400
    ]
    assert not long


def test_paths_that_the_readme_named_still_import() -> None:
    from musc_fast import MuSc, ReferenceBank, native, score_batch
    from musc_fast.backends import resolve
    from musc_fast.bank import ReferenceBank as Bank
    from musc_fast.cli import main
    from musc_fast.distributed import score_shard
    from musc_fast.native import release_memory
    from musc_fast.neighbors import batched_zero_shot, dual_image, few_shot, top_mean
    from musc_fast.ops import msm
    from musc_fast.report.anomalyncd import write_anomalyncd_maps
    from musc_fast.scoring import BatchScores
    from musc_fast.scoring import score_batch as scored

    assert Bank is ReferenceBank
    assert scored is score_batch
    named = (
        native.msm,
        release_memory,
        MuSc,
        resolve,
        main,
        score_shard,
        batched_zero_shot,
        dual_image,
        few_shot,
        top_mean,
    )
    assert all(callable(each) for each in (*named, msm, write_anomalyncd_maps, BatchScores))
    assert musc_fast.__version__


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = (
        "import sys, musc_fast; "
        "heavy = {'torch', 'triton', 'timm', 'open_clip', 'sklearn', 'cv2'} & set(sys.modules); "
        "assert not heavy, heavy; "
        "from musc_fast import score_batch; "
        "heavy = {'triton', 'timm', 'open_clip', 'sklearn'} & set(sys.modules); "
        "assert not heavy, heavy; assert callable(score_batch)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_scoring_without_labels_imports_no_scikit_learn() -> None:
    """Its import is two thirds of what the command imports besides torch."""
    code = (
        "import sys, musc_fast.runs.score, musc_fast.runs.watch; "
        "found = {'sklearn', 'scipy.stats'} & set(sys.modules); assert not found, found"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
