"""A real notebook in a real kernel: bars, scores, a picture, a chart."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from tiny import product_folder

nbclient = pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")
pytest.importorskip("matplotlib")

CELLS = (
    "from pathlib import Path\n"
    "import numpy as np\n"
    "from musc_fast import judge_batch, score_batch\n"
    "tokens = np.random.default_rng(0).normal(size=(6, 9, 32)) + 3 * np.eye(9, 32)\n"
    "scores = score_batch(tokens, image_size=(96, 120), progress=True)",
    "judge_batch(scores, sorted(Path(FOLDER).iterdir()))",
    "judge_batch(scores).show(4)",
    "judge_batch(scores).plot();",
)


def test_scores_show_themselves_in_a_kernel(tmp_path: Path) -> None:
    import nbformat

    product_folder(tmp_path)
    cells = [f"FOLDER = {str(tmp_path)!r}\n{CELLS[0]}", *CELLS[1:]]
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    book.metadata.kernelspec = {"name": "python3", "display_name": "Python 3"}
    nbclient.NotebookClient(book, timeout=120).execute()
    bars, table, picture, chart = ([_data(each) for each in cell.outputs] for cell in book.cells)
    # One output each: no warning about widgets, no empty line, no second chart.
    assert [len(each) for each in (bars, table, picture, chart)] == [1, 1, 1, 1]
    assert bars[0]["text/html"].count("<progress") == 1
    assert re.search(r"scoring: (\d+) of \1, 100%", bars[0]["text/html"])
    assert table[0]["text/html"].count('alt="the image, and its heat map over it"') == 6
    assert "part5.png" in table[0]["text/html"]
    assert table[0]["text/plain"].startswith("<ImageScores of 6 images")
    assert "image/png" in picture[0]
    assert "image/png" in chart[0]


def _data(output: Any) -> dict[str, str]:
    """What an output holds, by kind; a warning or an error is of the kind "stream" or "error"."""
    data: dict[str, str] = output.get("data", {output["output_type"]: str(output)})
    return data
