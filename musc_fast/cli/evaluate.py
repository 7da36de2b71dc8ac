"""`musc-fast evaluate`: accuracy on a labelled dataset."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..errors import InputError
from ..recipes import DEFAULT_RECIPE
from ..settings import ReadSettings
from . import options
from .console import interruptible, load, print_place
from .tables import print_metrics


def evaluate(
    context: typer.Context,
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
        str,
        typer.Option(
            help="Pixels as the official MuSc code (musc: masks shrunk to the maps) or as MVTec AD "
            "(mvtec: maps enlarged to the masks; its PRO)."
        ),
    ] = "musc",
    cache: Annotated[
        Path | None,
        typer.Option(help="Keep features in this folder for later runs.", show_default=False),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Redo finished categories.")] = False,
    backbone: options.BackboneOption = "dinov2-vit-s-14",
    size: options.SizeOption = None,
    recipe: options.RecipeOption = DEFAULT_RECIPE,
    degrees: options.DegreesOption = None,
    topmin: options.TopminOption = "0,0.3",
    neighbors: options.NeighborsOption = "1,2,3",
    rscin: options.RscinOption = None,
    backend: options.BackendOption = "auto",
    precision: options.PrecisionOption = "exact",
    memory_limit: options.MemoryOption = None,
    device: options.DeviceOption = "auto",
    engine: options.EngineOption = "auto",
    feature_precision: options.FeaturePrecisionOption = "auto",
    batch_size: options.BatchSizeOption = 4,
    weights: options.WeightsOption = None,
    offline: options.OfflineOption = False,
    white: options.WhiteOption = None,
    max_pixels: options.MaxPixelsOption = None,
) -> None:
    """Measure accuracy on a labelled dataset: a table, results.json and results.csv.

    Each category is scored as one batch; labels are used afterwards alone. Run it again after an
    interruption: finished categories are kept as long as settings and files are the same.
    """
    from ..datasets.layouts import load_dataset, verify
    from ..progress import stage_bars
    from ..runs.evaluate import evaluate as run

    arguments = options.musc_arguments(context)
    if protocol not in ("musc", "mvtec"):
        raise InputError(f"--protocol: found {protocol!r}, wanted musc or mvtec")
    reading = ReadSettings(white, arguments["max_pixels"] or ReadSettings.max_pixels)
    categories = load_dataset(dataset, root, category)
    verify(categories, reading)
    with interruptible("finished categories are kept; run the same command again to go on"):
        musc = load(arguments)
        with stage_bars() as on_progress:
            results = run(
                musc,
                categories,
                out,
                protocol="mvtec" if protocol == "mvtec" else "musc",
                cache=cache,
                force=force,
                progress=on_progress,
            )
    side = "x".join(map(str, musc.backbone.image_size))
    print_metrics(results, f"{backbone} at {side}, {protocol} protocol")
    print_place(out)
