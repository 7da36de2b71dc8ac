"""Tables: a name is never cut so that two look the same."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from musc_fast.cli import console as console_module
from musc_fast.cli import tables
from musc_fast.report.scored_batch import ScoredBatch
from musc_fast.runs.evaluate import METRICS
from musc_fast.threshold import find_threshold

NAMES = [f"a_product_with_a_rather_long_name_{k}" for k in (1, 2)]


def printed(
    monkeypatch: pytest.MonkeyPatch, names: list[str], *, terminal: bool, width: int = 80
) -> list[str]:
    console = Console(width=width, record=True, force_terminal=terminal, file=io.StringIO())
    monkeypatch.setattr(tables, "console", console)
    metrics = dict.fromkeys(METRICS, 0.12345)
    results = [{"category": n, "images": 12345, "metrics": metrics, "notes": []} for n in names]
    tables.print_metrics(results, "title")
    return console.export_text().splitlines()


@pytest.mark.parametrize("terminal", [True, False])
@pytest.mark.parametrize("names", [["cable", "transistor"], NAMES])
def test_names_and_headings_are_whole(
    monkeypatch: pytest.MonkeyPatch, names: list[str], terminal: bool
) -> None:
    lines = printed(monkeypatch, names, terminal=terminal)
    text = "\n".join(lines)
    for word in (*names, *tables.METRIC_HEADINGS, "0.1235", "12345"):
        assert word in text
    assert "…" not in text
    if terminal:
        assert max(map(len, lines)) <= 80
    else:  # one table in a log, however wide
        assert text.count("category") == 1


def test_the_interval_of_the_auroc_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    known = {"category": "bolt", "images": 24, "defective": 6, "notes": []}
    known |= {"metrics": dict.fromkeys(METRICS, 1.0), "image_auroc_interval": [0.783, 1.0]}
    unknown = {**known, "category": "nut", "image_auroc_interval": [None, None]}
    kept = {**known, "category": "screw"}  # by an earlier version
    del kept["image_auroc_interval"]
    tables.print_metrics([known, unknown, kept], "title")
    text = " ".join(capsys.readouterr().out.split())
    assert "bolt: I-AUROC 0.783 to 1.000 at 95% confidence, since 6 of 24 images are" in text
    assert text.count("confidence") == 1


def test_every_flagged_image_is_listed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    console = Console(width=80, record=True, force_terminal=False, file=io.StringIO())
    monkeypatch.setattr(tables, "console", console)
    monkeypatch.setattr(console_module, "console", console)
    raw = np.linspace(1, 0.01, 40, dtype=np.float32)
    run = ScoredBatch(
        paths=[tmp_path / f"part{k:02}.png" for k in range(40)],
        image_scores=raw,
        raw_scores=raw,
        anomaly_maps=np.zeros((40, 1, 1), dtype=np.float32),
        settings={"seconds": {}},
        threshold=find_threshold(raw, value=float(raw[13])),
    )
    tables.print_scores(run, tmp_path)
    text = console.export_text()
    assert text.count(" flagged") == 14 + 1  # the rows, and "... are flagged"
    assert [f"part{k:02}.png" in text for k in (0, 13, 14)] == [True, True, False]
    assert "and 26 more, all clear" in text
    assert f"threshold: raw scores from {raw[13]:.6g} on are flagged" in text
    assert "image score" not in text  # it is the raw score: one column will do
