"""Every program in benchmarks/ starts, and the README's table names it and its result files."""

from __future__ import annotations

import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lib.drawn_images import draw_images
from lib.repeated_defect import draw_repeats, good_parts, make_stamp
from musc_fast.datasets.sample.draw import draw_sample

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "benchmarks"
PROGRAMS = sorted(FOLDER.glob("*.py"))
README = (FOLDER / "README.md").read_text(encoding="utf-8")
ROWS = dict(re.findall(r"^\| `(\w+\.py)` (\|.*\|)$", README, flags=re.MULTILINE))


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda path: path.name)
def test_help(
    program: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [str(program), "--help"])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(program), run_name="__main__")
    assert end.value.code == 0
    assert f"usage: {program.name}" in capsys.readouterr().out


def test_the_table_lists_the_programs_and_the_result_files() -> None:
    assert list(ROWS) == [program.name for program in PROGRAMS]
    assert all(row.count("|") == 5 for row in ROWS.values())
    links = re.findall(r"\]\((.*?)\)", README)
    assert [link for link in links if not (FOLDER / link).is_file()] == []
    named = {Path(link).name for link in links if link.startswith("results/")}
    assert named == {path.name for path in (FOLDER / "results").glob("*.json")}


def test_images_drawn_by_all_cores_are_those_of_the_sample(tmp_path: Path) -> None:
    drawing = draw_images(tmp_path / "cores", [2, 5])
    for count in (2, 5):
        sample = draw_sample(tmp_path / str(count), count=count, defects=1)
        found = drawing.first(count)
        assert [path.read_bytes() for path in found] == [s.path.read_bytes() for s in sample]


@pytest.mark.slow
def test_throughput_needs_no_package_that_images_and_weights_do_not(tmp_path: Path) -> None:
    """From files to maps, without the readers of other formats and models, and any network."""
    timm = pytest.importorskip("timm")
    from safetensors.torch import save_file

    model = timm.create_model("vit_small_patch14_dinov2.lvd142m", pretrained=False)
    half = {name: each.half().contiguous() for name, each in model.state_dict().items()}
    save_file(half, tmp_path / "weights.safetensors")
    absent = ("imagecodecs", "open_clip", "onnx", "openvino", "psutil", "jinja2", "sklearn")
    code = f"import runpy, sys; sys.modules.update(dict.fromkeys({absent})); "
    code += (
        f"sys.argv[0] = {str(FOLDER / 'throughput.py')!r}; sys.path.insert(0, {str(FOLDER)!r}); "
    )
    code += "runpy.run_path(sys.argv[0], run_name='__main__')"
    options = ["--n", "2", "3", "--size", "28", "--runs", "1", "--device", "cpu"]
    options += ["--backend", "torch", "--json", str(tmp_path / "out.json")]
    done = subprocess.run(
        [sys.executable, "-c", code, *options, "--weights", str(tmp_path / "weights.safetensors")],
        capture_output=True,
        text=True,
        timeout=600,
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
    )
    assert done.returncode == 0, done.stderr
    document = json.loads((tmp_path / "out.json").read_text())
    rows = document["results"]
    assert {row["images"] for row in rows} == {2, 3}
    assert {"end to end", "score_batch", "reading"} <= {row["stage"] for row in rows}
    assert all(row["median_s"] > 0 for row in rows)
    assert [each["shape"]["N"] for each in document["settings"]["batches"]] == [2, 3]
    assert all(each["max_error"] <= 1e-5 for each in document["settings"]["batches"])


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


def test_the_repeated_defect_is_drawn_on_the_parts_asked_for() -> None:
    stamp = make_stamp(0, size=128)
    found, good = draw_repeats(3, {1}, stamp), good_parts(range(3), size=128)
    changed = [(one != other).any(axis=2) for one, other in zip(found, good, strict=True)]
    assert [bool(each.any()) for each in changed] == [False, True, False]
    assert changed[1][stamp.mask].mean() > 0.9
    assert not changed[1][stamp.change.any(axis=2) == 0].any()
