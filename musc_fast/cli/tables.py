"""Tables of results that the commands print."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich import box
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from .console import console, errors, named, print_place, print_plain

if TYPE_CHECKING:
    from ..report.scored_batch import ScoredBatch
    from ..runs.finished import Result

IMAGE_HEADINGS = ("I-AUROC", "I-F1max", "I-AP")
METRIC_HEADINGS = (*IMAGE_HEADINGS, "P-AUROC", "P-F1max", "P-AP", "PRO")
_STYLES = {"flagged": "bold red", "look": "yellow", "clear": "dim"}


def print_scores(batch: ScoredBatch, out: Path, limit: int = 10) -> None:
    """The verdicts, most anomalous image first, what decided, the seconds and the place.

    Every image that is flagged or to be looked at is listed; others as far as there are fewer than
    `limit`.
    """
    from ..report.names import relative_names

    verdicts, names = batch.verdicts, relative_names(batch.paths)
    order = [int(index) for index in batch.order]
    shown = [i for rank, i in enumerate(order) if rank < limit or verdicts[i] != "clear"]
    table = Table(title=f"Most anomalous of {len(order)} images", box=box.SIMPLE_HEAD)
    table.add_column("rank", justify="right")
    table.add_column("image", overflow="fold")
    if batch.is_rescored:
        table.add_column("image score", justify="right")
    table.add_column("raw score", justify="right")
    if batch.p_values is not None:
        table.add_column("p-value", justify="right")
    table.add_column("verdict")
    for index in shown:
        cells: list[str | Text] = [f"{batch.ranks[index]}", named(names[index])]
        if batch.is_rescored:
            cells.append(f"{batch.image_scores[index]:.4f}")
        cells.append(f"{batch.raw_scores[index]:.4f}")
        if batch.p_values is not None:
            cells.append(f"{batch.p_values[index]:.2g}")
        style = _STYLES[verdicts[index]]
        table.add_row(*cells, f"[{style}]{verdicts[index]}[/]")
    if console.is_terminal:  # a name too long for it is folded
        console.print(table)
    else:
        _print_whole(table)
    if len(order) > len(shown):
        left = len(order) - len(shown)
        print_plain(f"and {left} more, all clear: {out / 'scores.csv'}", wrap=False)
    print_plain(batch.threshold.reason)
    value = batch.threshold.value
    if value is not None and math.isfinite(value):
        print_plain(f"threshold: raw scores from {value:.6g} on are flagged")
    seconds = batch.settings["seconds"]
    times = ", ".join(f"{stage} {value:.1f} s" for stage, value in seconds.items())
    console.print(f"time: {times}", highlight=False)
    report = out / "report.html"
    print_place(report if report.is_file() else out)


def print_metrics(results: Sequence[Result], title: str) -> None:
    """The metrics of an evaluation as shares; an undefined one is a dash, with its reason below.

    Names and headings are whole: where one table is too wide for the terminal, image and pixel
    metrics get a table each.
    """
    from ..runs.finished import METRICS

    tables = [_metrics_table(results, METRICS, title)]
    if _is_too_wide(tables[0]):
        count = len(IMAGE_HEADINGS)
        parts = (("images", METRICS[:count]), ("pixels", METRICS[count:]))
        tables = [_metrics_table(results, names, f"{title}: {part}") for part, names in parts]
    for table in tables:
        _print_whole(table)
    for result in results:
        low, high = result.get("image_auroc_interval") or (None, None)
        if low is not None:
            print_plain(
                f"{result['category']}: I-AUROC {low:.3f} to {high:.3f} at 95% confidence, since "
                f"{result['defective']} of {result['images']} images are defective"
            )
    for result in results:
        for note in result["notes"]:
            print_plain(f"{result['category']}: {note}", to=errors)


def _metrics_table(results: Sequence[Result], names: Sequence[str], title: str) -> Table:
    """A row a category and the mean; `names` are some of METRICS."""
    from ..runs.finished import METRICS, mean_metrics

    table = Table(title=named(title), box=box.SIMPLE_HEAD, collapse_padding=True, pad_edge=False)
    table.add_column("category", no_wrap=True, overflow="ignore")
    headings = dict(zip(METRICS, METRIC_HEADINGS, strict=True))
    for heading in ("images", *(headings[name] for name in names)):
        table.add_column(heading, justify="right", no_wrap=True)

    def cells(metrics: dict[str, float | None]) -> list[str]:
        return ["–" if (value := metrics[name]) is None else f"{value:.4f}" for name in names]

    for result in results:
        table.add_row(named(result["category"]), str(result["images"]), *cells(result["metrics"]))
    if len(results) > 1:
        table.add_section()
        table.add_row("mean", "", *cells(mean_metrics(results)), style="bold")
    return table


def _width_of(table: Table) -> int:
    return Measurement.get(console, console.options.update(max_width=10_000), table).maximum


def _is_too_wide(table: Table) -> bool:
    return console.is_terminal and _width_of(table) > console.width


def _print_whole(table: Table) -> None:
    """Print a table as wide as its text is: a terminal wraps its lines, a log keeps them."""
    table.width = _width_of(table)
    console.print(table, soft_wrap=True)
