"""Tables: a name is never cut so that two look the same."""

from __future__ import annotations

import pytest
from rich.console import Console

from musc_fast.cli import tables
from musc_fast.runs.evaluate import METRICS


def test_long_names_of_categories_stay_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    console = Console(width=80, record=True, force_terminal=False)
    monkeypatch.setattr(tables, "console", console)
    names = [f"a_product_with_a_rather_long_name_{k}" for k in (1, 2)]
    tables.print_metrics(
        [
            {
                "category": name,
                "images": 12345,
                "metrics": dict.fromkeys(METRICS, 0.12345),
                "notes": [],
            }
            for name in names
        ],
        "title",
    )
    lines = console.export_text().splitlines()
    first = "".join(line[:14].strip() for line in lines)
    for name in names:
        assert name in first
    assert "…" not in "".join(lines)
    assert "12.35" in "".join(lines)
