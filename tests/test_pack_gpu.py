"""The pack for a GPU machine without a network: what is fetched, its size, and its unpacking."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from rich.console import Console

import pack_gpu
from lib import wheels


def make_wheel(folder: Path, name: str, *needs: str) -> None:
    """A wheel of one empty module."""
    info = f"{name}-1.0.dist-info"
    metadata = [f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0"]
    metadata += [f"Requires-Dist: {each}" for each in needs]
    with zipfile.ZipFile(folder / f"{name}-1.0-py3-none-any.whl", "w") as archive:
        archive.writestr(f"{name}.py", "")
        archive.writestr(f"{info}/METADATA", "\n".join(metadata) + "\n")
        tag = "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        archive.writestr(f"{info}/WHEEL", tag)
        archive.writestr(f"{info}/RECORD", "")


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of wheels that pip takes in place of an index."""
    folder = tmp_path / "index"
    folder.mkdir()
    make_wheel(folder, "first", "second>=1", "third; extra == 'more'", "torch>=2", "there")
    make_wheel(folder, "second", "fourth; python_version < '3'", "fifth; python_version >= '3.12'")
    make_wheel(folder, "fifth")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.mark.usefixtures("index")
def test_what_is_needed_in_turn_is_fetched_and_nothing_else(tmp_path: Path) -> None:
    found = wheels.fetch_wheels(["first"], {"there"}, "3.12", tmp_path / "wheels")
    assert set(found) == {"first", "second", "fifth"}
    files = {path.name for path in (tmp_path / "wheels").iterdir()}
    assert files == {f"{name}-1.0-py3-none-any.whl" for name in found}
    older = wheels.fetch_wheels(["first"], {"there"}, "3.11", tmp_path / "older")
    assert set(older) == {"first", "second"}
    assert wheels.fetch_wheels(["first"], {"first"}, "3.12", tmp_path / "none") == {}


@pytest.mark.usefixtures("index")
def test_a_wheel_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(subprocess.CalledProcessError):
        wheels.fetch_wheels(["absent"], set(), "3.12", tmp_path / "wheels")


def test_what_a_python_has() -> None:
    assert {"torch", "pytest", "ruff"} <= wheels.installed_in(Path(sys.executable))


def test_a_pack_beyond_the_limit_is_an_error(tmp_path: Path) -> None:
    console = Console(record=True, width=200)
    files = [("weights/a", 3 << 20), ("tracked files", 1 << 20)]
    assert pack_gpu.judge(files, 4.0, tmp_path, console) == 0
    assert "4.0 MiB of 4" in console.export_text()
    assert pack_gpu.judge(files, 3.9, tmp_path, console) == 1
    assert "too large by 0.1 MiB" in console.export_text()


@pytest.mark.parametrize("option", ["--python", "--out"])
def test_a_folder_that_is_no_pack_stays_and_an_interpreter_must_be_there(
    option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = tmp_path / "kept" / "file"
    kept.parent.mkdir()
    kept.write_text("mine")
    value = "no-such-python" if option == "--python" else str(kept.parent)
    monkeypatch.setattr(sys, "argv", ["pack_gpu.py", "--parts", "golden", option, value])
    with pytest.raises(SystemExit) as ended:
        pack_gpu.main()
    assert ended.value.code == 2
    assert f"{option} {value}: no" in capsys.readouterr().err
    assert kept.read_text() == "mine"


def test_a_part_that_cannot_be_gathered_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "pack"
    options = ["--parts", "kernels", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", ["pack_gpu.py", *options])
    for _ in range(2):  # a pack may be made anew
        assert pack_gpu.main() == 0
        printed = capsys.readouterr().out
        assert "kernels: not all was gathered: --python names no interpreter" in printed
        assert [path.name for path in out.iterdir()] == ["unpack.sh"]


@pytest.mark.usefixtures("index")
def test_the_pack_is_unpacked_without_a_network(tmp_path: Path) -> None:
    root, pack = tmp_path / "repository", tmp_path / "repository" / "gpu_pack"
    (root / "musc_fast").mkdir(parents=True)
    for folder in ("wheels", "weights", "golden"):
        (pack / folder).mkdir(parents=True)
    make_wheel(pack / "wheels", "brought")
    (pack / "weights" / "backbone.safetensors").write_bytes(b"w")
    (pack / "golden" / "case.npz").write_bytes(b"g")
    (pack / "_C_cuda.cpython-312-x86_64-linux-gnu.so").write_bytes(b"k")
    (pack / "unpack.sh").write_text(pack_gpu.UNPACK, encoding="utf-8")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["sh", "gpu_pack/unpack.sh"],
        cwd=root,
        env=os.environ | {"PATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    assert (pack / "site" / "brought.py").is_file()
    assert (root / "musc_fast" / "_C_cuda.cpython-312-x86_64-linux-gnu.so").read_bytes() == b"k"
    assert (tmp_path / "shared" / "golden" / "case.npz").read_bytes() == b"g"
    command = "PYTHONPATH=gpu_pack/site python3 benchmarks/gpu_check.py --images "
    command += "'--weights gpu_pack/weights/backbone.safetensors'"
    assert done.stdout.strip() == command
