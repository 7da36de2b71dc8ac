"""`musc-fast score`: a folder of images in, a results folder out."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from ..recipes import DEFAULT_RECIPE
from . import beyond, options
from .console import errors, interruptible, load, print_plain, printing_to_errors, stages
from .exit_status import status_of
from .tables import print_scores

if TYPE_CHECKING:
    from ..report.scored_batch import ScoredBatch
    from ..threshold import Rule


def score(
    context: typer.Context,
    images: Annotated[
        list[Path],
        typer.Argument(metavar="IMAGES", help="Folders (searched recursively) or image files."),
    ],
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Folder for the results.")] = Path(
        "musc_fast_results"
    ),
    references: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Folder of good images to score against, instead of the batch itself; 20 or more "
            "also decide better.",
            show_default=False,
        ),
    ] = None,
    cache: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Keep the features of the references in this folder for later runs.",
            show_default=False,
        ),
    ] = None,
    false_alarms: options.FalseAlarmsOption = None,
    rule: options.RuleOption = None,
    look_share: options.LookShareOption = None,
    threshold: options.ThresholdOption = None,
    expected_defect_rate: options.DefectRateOption = None,
    fail_on_flagged: options.FailOption = False,
    json: options.JsonOption = None,
    maps: Annotated[
        bool,
        typer.Option(
            help="Write heat maps, overlays and the report.", rich_help_panel=options.RESULTS
        ),
    ] = True,
    map_scale: options.MapScaleOption = "batch",
    skip_bad: Annotated[
        bool,
        typer.Option(
            "--skip-bad",
            help="Skip unreadable images instead of stopping.",
            rich_help_panel=options.IMAGES,
        ),
    ] = False,
    white: options.WhiteOption = None,
    max_pixels: options.MaxPixelsOption = None,
    ignore: beyond.IgnoreOption = None,
    pooling: beyond.PoolingOption = "lnamd",
    temperature: beyond.TemperatureOption = 1.0,
    similarity: beyond.SimilarityOption = "class",
    backbone: options.BackboneOption = "dinov2-vit-s-14",
    size: options.SizeOption = "auto",
    tiles: beyond.TilesOption = None,
    tile_margin: beyond.TileMarginOption = None,
    weights: options.WeightsOption = None,
    offline: options.OfflineOption = False,
    engine: options.EngineOption = "auto",
    feature_precision: options.FeaturePrecisionOption = "auto",
    batch_size: options.BatchSizeOption = 4,
    recipe: options.RecipeOption = DEFAULT_RECIPE,
    degrees: options.DegreesOption = None,
    place: beyond.PlaceOption = "off",
    topmin: options.TopminOption = "0,0.3",
    neighbors: options.NeighborsOption = "1,2,3",
    rscin: options.RscinOption = None,
    align: beyond.AlignOption = "off",
    max_references: options.MaxReferencesOption = None,
    copies: beyond.CopiesOption = None,
    repeats: beyond.RepeatsOption = "off",
    precision: options.PrecisionOption = "exact",
    device: options.DeviceOption = "auto",
    backend: options.BackendOption = "auto",
    memory_limit: options.MemoryOption = None,
) -> None:
    """Find the defective images of a folder: report.html, scores.csv, results.json, heat maps.

    The images are scored against each other; a higher score is more anomalous. Give one product at
    a time, ten images or more, most of them good. Results appear in --out only when the run is
    complete.

    Several processes share the work under `torchrun --nproc-per-node 2 -m musc_fast score ...`.
    """
    from ..distributed.launch import joined
    from ..report.tables import check_json_target, records, write_json_lines
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
        false_alarms=false_alarms,
        rule=cast("Rule | None", rule),  # of an unknown one the job tells the known ones
        look_share=look_share,
        skip_bad=skip_bad,
        reading=options.reading(arguments),
    )
    to_stdout = json == "-"
    if json is not None and not to_stdout:
        check_json_target(Path(json), out)
    with printing_to_errors() if to_stdout else nullcontext():
        with interruptible("no result was written, an earlier one is untouched"), joined():
            musc = load(arguments, job.inputs)
            with stages() as on_progress:
                batch = job.run(musc, progress=on_progress)
        if batch is None:  # rank 0 prints
            return
        _print(batch, out)
    if json is not None:
        write_json_lines(None if to_stdout else Path(json), records(batch, None, maps=False))
    if fail_on_flagged:
        raise typer.Exit(status_of(batch.verdicts, unreadable=len(batch.paths) < len(job.images)))


def _print(batch: ScoredBatch, out: Path) -> None:
    skipped = batch.settings["skipped"]
    for reason in skipped:
        print_plain(f"skipped: {reason}", to=errors, wrap=False)
    if skipped:
        errors.print(f"{len(skipped)} unreadable images were skipped")
    print_scores(batch, out)
    if batch.settings.get("watch"):
        print_plain(f"new images, one by one: {batch.settings['watch']['command']}", wrap=False)
