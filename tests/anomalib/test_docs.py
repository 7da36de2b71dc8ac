"""The Python of docs/anomalib.md runs, on a tiny backbone; skipped without anomalib."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytest.importorskip("anomalib", reason="anomalib is not installed: pip install '.[anomalib]'")

from engine_data import parts
from tiny import TINY, tiny_weights

import musc_fast.anomalib

PAGE = Path(__file__).resolve().parents[2] / "docs" / "anomalib.md"
IMPORT = "from musc_fast.anomalib import MuSc\n"


@pytest.mark.filterwarnings("ignore")
def test_the_code_of_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts(tmp_path / "data")
    (tmp_path / "new_parts").symlink_to(tmp_path / "data" / "bad")
    monkeypatch.chdir(tmp_path)
    code = "".join(re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S))
    assert code.count(IMPORT) == 1
    options = {"weights": str(tiny_weights(tmp_path)), "engine": "torch"}
    tiny = f"import functools\nMuSc = functools.partial(MuSc, {TINY!r}, options={options!r})\n"
    names: dict[str, object] = {}
    exec(compile(code.replace(IMPORT, IMPORT + tiny), str(PAGE), "exec"), names)
    batches = names["batches"]
    assert isinstance(batches, list)
    assert len(batches) == 3
    assert isinstance(names["model"], musc_fast.anomalib.MuSc)
    assert list(tmp_path.glob("results/MuSc/parts/*/images/**/*.png"))
    assert list(tmp_path.glob("results_zero_shot/MuSc/parts/*/images/**/*.png"))
