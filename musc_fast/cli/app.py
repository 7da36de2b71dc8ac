"""The `musc-fast` command."""

from __future__ import annotations

import os
import platform
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from .._version import __version__
from ..errors import BackendError, DistributedError, InputError, MuscFastError
from . import options
from .console import console, errors, interruptible, load
from .evaluate import evaluate
from .watch import watch

if TYPE_CHECKING:
    from ..datasets.sample.draw import SampleImage
    from ..report.run import ScoredBatch

app = typer.Typer(
    name="musc-fast",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Find defects in a folder of product images: no training, no labels, no prompts. "
    "The images score each other (MuSc, ICLR 2024).",
)


@app.callback()
def _start(context: typer.Context) -> None:
    """Only rank 0 of several speaks, and only `score` is for several."""
    if "WORLD_SIZE" not in os.environ:  # torch takes seconds to import
        return
    from ..distributed.launch import launched

    rank, ranks = launched()
    console.quiet = errors.quiet = rank > 0
    if ranks > 1 and context.invoked_subcommand != "score":
        raise InputError(
            f"{context.invoked_subcommand}: of the commands only score runs under torchrun; start "
            "this one without"
        )


app.command()(evaluate)
app.command()(watch)


@app.command()
def score(
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
    degrees: options.DegreesOption = "1,3,5",
    topmin: options.TopminOption = "0,0.3",
    neighbors: options.NeighborsOption = "1,2,3",
    rscin: options.RscinOption = True,
    backend: options.BackendOption = "auto",
    precision: options.PrecisionOption = "exact",
    memory_limit: options.MemoryOption = None,
    max_references: options.MaxReferencesOption = None,
    device: options.DeviceOption = "auto",
    batch_size: options.BatchSizeOption = 4,
    weights: options.WeightsOption = None,
    offline: options.OfflineOption = False,
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
    from ..datasets.images import find_images
    from ..distributed.launch import joined, score_over_ranks
    from ..report.folder import check_target
    from ..runs.score import score_images

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
    paths = find_images(images)
    others = None if references is None else find_images([references])
    check_target(out, [*paths, *(others or ())])
    with interruptible("no result was written, an earlier one is untouched"), joined() as rank:
        musc = load(
            backbone,
            image_size=options.size("--size", size),
            weights=weights,
            offline=offline,
            max_references=max_references,
            **settings,
        )
        if rank > 0:
            score_over_ranks(musc, paths, others, skip_bad=skip_bad)
            return
        run = score_images(
            musc,
            paths,
            out,
            references=others,
            maps=maps,
            skip_bad=skip_bad,
            threshold=threshold,
            expected_defect_rate=expected_defect_rate,
            map_scale=map_scale,
        )
    for reason in run.settings["skipped"]:
        errors.print(f"skipped: {reason}", markup=False, highlight=False, soft_wrap=True)
    if run.settings["skipped"]:
        errors.print(f"{len(run.settings['skipped'])} unreadable images were skipped")
    _print_scores(run, out)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the sample and its results.")] = Path(
        "demo"
    ),
    backbone: options.BackboneOption = "dinov2-vit-s-14",
    count: Annotated[int, typer.Option(help="Parts to draw; a quarter get a defect.", min=4)] = 24,
    backend: options.BackendOption = "auto",
    weights: options.WeightsOption = None,
    offline: options.OfflineOption = False,
) -> None:
    """Draw machined parts, some with defects, and find the defects.

    Writes the drawn images to OUT/images and what `score` writes to OUT/results, then compares
    the scores with the drawn masks.
    """
    from ..datasets.sample.draw import draw_sample
    from ..progress import stage_bars
    from ..report.folder import check_target
    from ..runs.score import score_images

    check_target(out / "results")
    with interruptible("no result was written, an earlier one is untouched"):
        with stage_bars() as report:
            samples = draw_sample(
                out / "images",
                count=count,
                defects=max(1, count // 4),
                progress=lambda done, total: report("drawing", done, total),
            )
        musc = load(backbone, weights=weights, offline=offline, backend=backend)
        run = score_images(musc, [sample.path for sample in samples], out / "results")
    _print_scores(run, out / "results")
    _report_demo(samples, run, out / "results" / "report.html")


@app.command()
def backbones() -> None:
    """List the backbones, and where their weights come from."""
    from ..features import available_backbones

    for entry in available_backbones():
        spec = entry.spec
        size = "x".join(map(str, spec.default_size or ())) or "their own size"
        blocks = ",".join(map(str, spec.blocks or ())) or "at the quarters"
        console.print(f"[bold]{spec.name}[/]  {size}, blocks {blocks}", highlight=False)
        console.print(f"  {spec.description}", markup=False, highlight=False)
        for source in entry.sources:
            mark = "[green]at hand[/]" if source.at_hand else "[dim]network[/]"
            console.print(f"  {mark}  {escape(source.detail)}", highlight=False, soft_wrap=True)
    console.print(
        "Also any open_clip ViT as open_clip:NAME/PRETRAINED and any timm ViT as timm:NAME; "
        "--weights FILE takes a local file for any of them.",
        markup=False,
        highlight=False,
    )


@app.command()
def info() -> None:
    """Show versions, devices and backends, and why one cannot be used."""
    from importlib import metadata

    import torch

    from ..backends.registry import BACKENDS, resolve

    table = Table(title=f"musc_fast {__version__}", show_header=False)
    table.add_row("Python", platform.python_version())
    for package in ("torch", "triton", "open_clip_torch", "timm", "numpy"):
        try:
            table.add_row(package, metadata.version(package))
        except metadata.PackageNotFoundError:
            table.add_row(package, "[yellow]not installed[/]")
    table.add_row("CPU", f"{platform.machine()}, {torch.get_num_threads()} threads")
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        table.add_row(
            f"cuda:{index}",
            f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB, "
            f"sm_{properties.major}{properties.minor}",
        )
    console.print(table)

    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    chosen, problems = {}, []
    for device in devices:
        try:
            chosen[device] = resolve("auto", device).name
        except BackendError as error:  # a wrong MUSC_FAST_BACKEND
            problems.append(f"auto on {device}: {error}")
    table = Table(title="Backends")
    for heading in ("name", "what", *devices):
        table.add_column(heading, overflow="fold")
    for backend in BACKENDS:
        states = []
        for device in devices:
            reason = backend.why_not(torch.device(device))
            first = chosen.get(device) == backend.name
            states.append(reason or ("usable, chosen by auto" if first else "usable"))
        table.add_row(backend.name, backend.summary, *states)
    console.print(table)
    for problem in problems:
        errors.print(problem, markup=False, highlight=False, style="yellow")


def _print_scores(run: ScoredBatch, out: Path, most: int = 10) -> None:
    from ..report.names import relative_names

    table = Table(title=f"Most anomalous of {len(run.paths)} images")
    table.add_column("rank", justify="right")
    table.add_column("image", overflow="fold")
    table.add_column("image score", justify="right")
    table.add_column("raw score", justify="right")
    table.add_column("flagged")
    names = relative_names(run.paths)
    for i in run.ranks.argsort()[:most]:
        table.add_row(
            str(run.ranks[i]),
            escape(names[i].encode("utf-8", "replace").decode()),
            f"{run.image_scores[i]:.4f}",
            f"{run.raw_scores[i]:.4f}",
            "yes" if run.threshold.flagged[i] else "",
        )
    console.print(table)
    console.print(run.threshold.reason, markup=False, highlight=False)
    seconds = run.settings["seconds"]
    console.print(
        "time: " + ", ".join(f"{stage} {value:.1f} s" for stage, value in seconds.items()),
        highlight=False,
    )
    report = out / "report.html"
    lies = report if report.is_file() else out
    console.print(f"results: {lies}", markup=False, highlight=False, soft_wrap=True)


def _report_demo(samples: list[SampleImage], run: ScoredBatch, report: Path) -> None:
    """Compare with the drawn masks, in words and in the report."""
    import numpy as np

    from ..datasets.images import read_mask
    from ..metrics import image_metrics, pixel_metrics
    from ..report.html import Evaluation, write_report

    size = run.anomaly_maps.shape[1:]
    masks = [
        np.zeros(size, dtype=bool) if s.mask is None else read_mask(s.mask, size) for s in samples
    ]
    labels = np.array([sample.mask is not None for sample in samples])
    found = int(np.sum(labels[run.ranks.argsort()[: labels.sum()]]))
    image = image_metrics(labels, run.image_scores).auroc
    pixel = pixel_metrics(masks, run.anomaly_maps, pro=False).auroc
    shapes = [None if sample.mask is None else read_mask(sample.mask) for sample in samples]
    write_report(
        report,
        run,
        evaluation=Evaluation(labels, shapes, {"image AUROC": image, "pixel AUROC": pixel}),
        title="demo: drawn parts",
    )
    console.print(
        f"{found} of the {labels.sum()} drawn defects are the {labels.sum()} most anomalous "
        f"images; image AUROC {image:.4f}, pixel AUROC {pixel:.4f} against the drawn masks",
        highlight=False,
    )


def main() -> None:
    """Run the command; a known error is one message on standard error and exit status 1."""
    try:
        app()
    except (MuscFastError, OSError) as error:
        if errors.quiet and not isinstance(error, DistributedError):
            time.sleep(3)  # torchrun ends the others at once; rank 0 tells the same error
            sys.exit(1)
        errors.quiet = False
        errors.print("error:", style="bold red", end=" ")
        errors.print(str(error), markup=False, highlight=False, soft_wrap=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
