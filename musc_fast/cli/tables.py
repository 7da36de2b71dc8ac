"""Tables of results that the commands print."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich import box
from rich.table import Table

from .console import console, errors, named, print_place, print_plain

if TYPE_CHECKING:
    from ..report.scored_batch import ScoredBatch
    from ..runs.evaluate import Result

METRIC_HEADINGS = ("I-AUROC", "I-F1max", "I-AP", "P-AUROC", "P-F1max", "P-AP", "PRO")


def print_scores(batch: ScoredBatch, out: Path, limit: int = 10) -> None:
    """The `limit` most anomalous images, the threshold's reason, the seconds and the place."""
    from ..report.names import relative_names

    table = Table(title=f"Most anomalous of {len(batch.paths)} images")
    table.add_column("rank", justify="right")
    table.add_column("image", overflow="fold")
    table.add_column("image score", justify="right")
    table.add_column("raw score", justify="right")
    table.add_column("flagged")
    names = relative_names(batch.paths)
    for index in batch.ranks.argsort()[:limit]:
        table.add_row(
            str(batch.ranks[index]),
            named(names[index]),
            f"{batch.image_scores[index]:.4f}",
            f"{batch.raw_scores[index]:.4f}",
            "yes" if batch.threshold.flagged[index] else "",
        )
    console.print(table)
    print_plain(batch.threshold.reason)
    seconds = batch.settings["seconds"]
    times = ", ".join(f"{stage} {value:.1f} s" for stage, value in seconds.items())
    console.print(f"time: {times}", highlight=False)
    report = out / "report.html"
    print_place(report if report.is_file() else out)


def print_metrics(results: Sequence[Result], title: str) -> None:
    """The metrics of an evaluation; an undefined one is a dash, with its reason below."""
    from ..runs.evaluate import METRICS, mean_metrics

    # Close columns leave room for names at 80 characters; a longer name is folded, never cut.
    table = Table(title=named(title), box=box.SIMPLE_HEAD, collapse_padding=True, pad_edge=False)
    table.add_column("category", overflow="fold", min_width=12)
    for heading in ("images", *METRIC_HEADINGS):
        table.add_column(heading, justify="right", no_wrap=True)

    def cells(metrics: dict[str, float | None]) -> list[str]:
        return [
            "–" if (value := metrics[name]) is None else f"{100 * value:.2f}" for name in METRICS
        ]

    for result in results:
        table.add_row(named(result["category"]), str(result["images"]), *cells(result["metrics"]))
    if len(results) > 1:
        table.add_section()
        table.add_row("mean", "", *cells(mean_metrics(results)), style="bold")
    console.print(table)
    for result in results:
        for note in result["notes"]:
            print_plain(f"{result['category']}: {note}", to=errors)
