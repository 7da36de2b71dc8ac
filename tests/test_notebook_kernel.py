"""A real notebook in a real kernel: bars, scores, a picture, a chart."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tiny import TINY, product_folder, tiny_weights

nbclient = pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")
pytest.importorskip("matplotlib")

CELLS = (
    "from musc_fast import MuSc\n"
    "musc = MuSc({name!r}, recipe='paper', weights={weights!r}, engine='torch', offline=True, image_size=64)\n"
    "scores = musc.score({folder!r}, progress=True)\n"
    "scores",
    "scores.show(4)",
    "scores.plot();",
)


def test_scores_show_themselves_in_a_kernel(tmp_path: Path) -> None:
    import nbformat

    product_folder(tmp_path / "images")
    values = {"name": TINY, "weights": str(tiny_weights(tmp_path))}
    cells = [cell.format(**values, folder=str(tmp_path / "images")) for cell in CELLS]
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    book.metadata.kernelspec = {"name": "python3", "display_name": "Python 3"}
    nbclient.NotebookClient(book, timeout=120).execute()
    first, second, third = ([_data(each) for each in cell.outputs] for cell in book.cells)
    assert [kinds for kinds, _ in first] == [{"text/html", "text/plain"}] * 2, first
    bars = first[0][1]["text/html"]
    assert bars.count("<progress") == 2
    assert "features: 6 of 6, 100%" in bars
    assert "part4.png" in first[1][1]["text/html"]
    assert "image/png" in second[0][0]
    assert len(third) == 1  # one chart, not two
    assert "image/png" in third[0][0]
    assert len(json.dumps(book)) < 2_000_000


def _data(output: Any) -> tuple[set[str], Any]:
    """The kinds of an output and what it holds; a warning or error would be of another kind."""
    data = output.get("data", {output["output_type"]: output.get("text", "")})
    return set(data), data
