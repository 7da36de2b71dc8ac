"""`musc-fast evaluate`: accuracy on a labelled dataset."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from ..errors import InputError
from . import options
from .console import console, errors, interruptible, load

if TYPE_CHECKING:
    from ..runs.evaluate import Result

HEADINGS = ("I-AUROC", "I-F1max", "I-AP", "P-AUROC", "P-F1max", "P-AP", "PRO")


def evaluate(
    root: Annotated[Path, typer.Option(help="Folder of the dataset, or of one category.")],
    dataset: Annotated[
        str, typer.Option(help="Layout: mvtec (also MPDD, LOCO, ...), visa, btad or folder.")
    ] = "mvtec",
    category: Annotated[
        list[str] | None,
        typer.Option(help="Category to evaluate; repeat for several. Default: all."),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path(
        "musc_fast_evaluation"
    ),
    protocol: Annotated[
        str, typer.Option(help="PRO as the official MuSc code (musc) or as MVTec AD (mvtec).")
    ] = "musc",
    cache: Annotated[
        Path | None,
        typer.Option(help="Keep features in this folder for later runs.", show_default=False),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Redo finished categories.")] = False,
    backbone: options.BackboneOption = "dinov2-vit-s-14",
    size: options.SizeOption = None,
    degrees: options.DegreesOption = "1,3,5",
    topmin: options.TopminOption = "0,0.3",
    neighbors: options.NeighborsOption = "1,2,3",
    rscin: options.RscinOption = True,
    backend: options.BackendOption = "auto",
    precision: options.PrecisionOption = "exact",
    memory_limit: options.MemoryOption = None,
    device: options.DeviceOption = "auto",
    batch_size: options.BatchSizeOption = 4,
    weights: options.WeightsOption = None,
    offline: options.OfflineOption = False,
) -> None:
    """Measure accuracy on a labelled dataset: a table, results.json and results.csv.

    Each category is scored as one batch; labels are used afterwards alone. Run it again after an
    interruption: finished categories are kept as long as settings and files are the same.
    """
    from ..datasets.layouts import load_dataset, verify
    from ..progress import stage_bars
    from ..runs.evaluate import evaluate as run

    settings = options.scoring(
        degrees=degrees,
        topmin=topmin,
        neighbors=neighbors,
        rscin=rscin,
        backend=backend,
        precision=precision,
        memory_limit=memory_limit,
        device=device,
        batch_size=batch_size,
    )
    if protocol not in ("musc", "mvtec"):
        raise InputError(f"--protocol: found {protocol!r}, wanted musc or mvtec")
    categories = load_dataset(dataset, root, category)
    verify(categories)
    with interruptible("finished categories are kept; run the same command again to go on"):
        musc = load(
            backbone,
            image_size=options.size("--size", size),
            weights=weights,
            offline=offline,
            **settings,
        )
        with stage_bars() as report:
            results = run(
                musc,
                categories,
                out,
                protocol="mvtec" if protocol == "mvtec" else "musc",
                cache=cache,
                force=force,
                progress=report,
            )
    side = "x".join(map(str, musc.backbone.image_size))
    print_results(results, f"{backbone} at {side}, {protocol} protocol")
    console.print(f"results: {out}", markup=False, highlight=False, soft_wrap=True)


def print_results(results: Sequence[Result], title: str) -> None:
    """The table of a finished evaluation; an undefined metric is a dash with its reason below."""
    from ..runs.evaluate import METRICS, mean_metrics

    table = Table(title=title)
    table.add_column("category")
    table.add_column("images", justify="right")
    for heading in HEADINGS:
        table.add_column(heading, justify="right")

    def cells(metrics: dict[str, float | None]) -> list[str]:
        return [
            "–" if (value := metrics[name]) is None else f"{100 * value:.2f}" for name in METRICS
        ]

    for result in results:
        table.add_row(result["category"], str(result["images"]), *cells(result["metrics"]))
    if len(results) > 1:
        table.add_section()
        table.add_row("mean", "", *cells(mean_metrics(results)), style="bold")
    console.print(table)
    for result in results:
        for note in result["notes"]:
            errors.print(f"{result['category']}: {note}", markup=False, highlight=False)
