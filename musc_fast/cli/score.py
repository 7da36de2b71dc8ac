"""`musc-fast score`: a folder of images in, a results folder out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..recipes import DEFAULT_RECIPE
from . import options
from .console import errors, interruptible, load, print_plain
from .tables import print_scores


def score(
    context: typer.Context,
    images: Annotated[
        list[Path], typer.Argument(help="Folders (searched recursively) or image files.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("musc_fast_results"),
    backbone: options.BackboneOption = "dinov2-vit-s-14",
    size: options.SizeOption = None,
    references: Annotated[
        Path | None,
        typer.Option(
            help="Folder of other images to score against, instead of the batch itself.",
            show_default=False,
        ),
    ] = None,
    cache: Annotated[
        Path | None,
        typer.Option(
            help="Keep the features of the references in this folder for later runs.",
            show_default=False,
        ),
    ] = None,
    recipe: options.RecipeOption = DEFAULT_RECIPE,
    degrees: options.DegreesOption = None,
    topmin: options.TopminOption = "0,0.3",
    neighbors: options.NeighborsOption = "1,2,3",
    rscin: options.RscinOption = None,
    backend: options.BackendOption = "auto",
    precision: options.PrecisionOption = "exact",
    memory_limit: options.MemoryOption = None,
    max_references: options.MaxReferencesOption = None,
    device: options.DeviceOption = "auto",
    engine: options.EngineOption = "auto",
    feature_precision: options.FeaturePrecisionOption = "auto",
    batch_size: options.BatchSizeOption = 4,
    weights: options.WeightsOption = None,
    offline: options.OfflineOption = False,
    white: options.WhiteOption = None,
    max_pixels: options.MaxPixelsOption = None,
    threshold: options.ThresholdOption = None,
    expected_defect_rate: options.DefectRateOption = None,
    map_scale: options.MapScaleOption = "batch",
    maps: Annotated[bool, typer.Option(help="Write heat maps, overlays and the report.")] = True,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Skip unreadable images instead of stopping.")
    ] = False,
) -> None:
    """Score images against each other: report.html, scores.csv, heat maps, overlays, regions.csv.

    A higher score is more anomalous. Give one product at a time, ten images or more, most of them
    good. Results appear in --out only when the run is complete.

    Several processes share the work under `torchrun --nproc-per-node 2 -m musc_fast score ...`.
    """
    from ..distributed.launch import joined
    from ..runs.score import ScoreJob

    arguments = options.musc_arguments(context)
    job = ScoreJob(
        images,
        out,
        references=None if references is None else [references],
        cache=cache,
        maps=maps,
        map_scale=map_scale,
        threshold=threshold,
        expected_defect_rate=expected_defect_rate,
        skip_bad=skip_bad,
    )
    with interruptible("no result was written, an earlier one is untouched"), joined():
        batch = job.run(load(arguments))
    if batch is None:  # rank 0 prints
        return
    skipped = batch.settings["skipped"]
    for reason in skipped:
        print_plain(f"skipped: {reason}", to=errors, wrap=False)
    if skipped:
        errors.print(f"{len(skipped)} unreadable images were skipped")
    print_scores(batch, out)
    if batch.settings.get("watch"):
        print_plain(f"new images by themselves: {batch.settings['watch']['command']}", wrap=False)
