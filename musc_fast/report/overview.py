"""A page over all categories of an evaluation, with links to their reports."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from markupsafe import Markup

from ..files import replacing
from .html import package_text, page_environment
from .names import metric_title, printable


def write_overview(
    path: Path, results: Sequence[Mapping[str, Any]], mean: Mapping[str, float | None]
) -> None:
    """Write the page of an evaluation, complete or not at all.

    path: of the page; the categories' reports lie in the folder "reports" beside it.
    results: by category: "category", "images", "defective", "metrics" and, where it is labelled,
        "flagged".
    mean: of each metric over the categories.
    """
    values = {
        "style": Markup(package_text("report.css")),
        "metrics": [(name, metric_title(name)) for name in mean],
        "mean": mean,
        "rows": [_row(result) for result in results],
    }
    page = page_environment().get_template("overview.html").stream(values)
    with replacing(path) as temporary, temporary.open("wb") as file:
        page.dump(file, encoding="utf-8", errors="replace")


def _row(result: Mapping[str, Any]) -> dict[str, Any]:
    name, flagged = result["category"], result.get("flagged")
    return {
        "name": printable(name),
        "link": f"reports/{quote(os.fsencode(name))}.html",
        "images": result["images"],
        "defective": result["defective"],
        "metrics": result["metrics"],
        "found": flagged and flagged["defects_found"],
        "alarms": flagged and flagged["images"] - flagged["defects_found"],
    }
