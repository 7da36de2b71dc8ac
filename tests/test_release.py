"""Version, changelog and what goes into the sdist."""

from __future__ import annotations

import re
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
