"""Version, changelog, tag, what goes into the sdist, and what the extension asks of a processor."""

from __future__ import annotations

import importlib.util
import platform
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

import musc_fast

ROOT = Path(__file__).resolve().parents[1]


def test_the_version_is_the_last_one_that_the_changelog_released() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    released = re.findall(r"^## \[(\d+\.\d+\.\d+)\] - (\d{4}-\d{2}-\d{2})$", text, re.MULTILINE)
    assert released[0][0] == musc_fast.__version__
    assert [date for _, date in released] == sorted((d for _, d in released), reverse=True)


def test_a_tag_of_this_version_is_on_a_commit_of_this_version() -> None:
    """Before the release there is no such tag."""
    file = f"v{musc_fast.__version__}:musc_fast/_version.py"
    shown = subprocess.run(["git", "show", file], cwd=ROOT, capture_output=True, text=True)
    if shown.returncode:
        pytest.skip("no git checkout, or the version has no tag yet")
    assert shown.stdout == (ROOT / "musc_fast" / "_version.py").read_text(encoding="utf-8")


def test_functions_that_files_share_use_no_avx() -> None:
    """Kernels of one instruction set are in unnamed namespaces, in files with flags of their own.

    A function with a name outside those, such as one of std::vector, is kept once for all files. If
    one of those files gave it, a processor without AVX would die of it.
    """
    spec = importlib.util.find_spec("musc_fast._C")
    if spec is None or spec.origin is None:
        pytest.skip("the extension is not built")
    if shutil.which("objdump") is None or platform.machine() != "x86_64":
        pytest.skip("no objdump, or another processor than x86-64")
    command = ["objdump", "-d", "-C", "--no-show-raw-insn", "--no-addresses", spec.origin]
    code = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    owned, shared = set(), set()
    for function in code.split("\n\n"):
        name, _, body = function.partition("\n")
        if re.search(r"^\tv(?!er[rw])|%[yz]mm|%k[0-7]", body, re.MULTILINE):
            (owned if "(anonymous namespace)" in name else shared).add(name)
    assert len(owned) > 20
    assert shared == set()


def test_the_sdist_has_every_tracked_file(tmp_path: Path) -> None:
    """But for what concerns the repository alone; a user of it builds, tests and measures."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("no git checkout")
    done = subprocess.run(
        [
            *(sys.executable, "setup.py", "-q", "egg_info", "--egg-base", tmp_path),
            *("sdist", "--formats", "tar", "--dist-dir", tmp_path),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    (archive,) = tmp_path.glob("*.tar")
    with tarfile.open(archive) as opened:
        names = {name.partition("/")[2] for name in opened.getnames()}
    tracked = {name for name in listed.stdout.splitlines() if (ROOT / name).is_file()}
    left_out = {name for name in tracked - names if not name.startswith((".", "findings/"))}
    assert left_out == set()
    strangers = {name for name in names if name.endswith((".so", ".pyc")) or "/__pycache__" in name}
    assert strangers == set()
