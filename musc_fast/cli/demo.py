"""`musc-fast demo`: drawn parts, scored, and compared with what was drawn."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..recipes import DEFAULT_RECIPE
from . import options
from .console import console, interruptible, load, stages
from .tables import print_scores

if TYPE_CHECKING:
    from ..datasets.sample.draw import SampleImage
    from ..report.scored_batch import ScoredBatch


def demo(
    context: typer.Context,
    out: Annotated[Path, typer.Option(help="Folder for the sample and its results.")] = Path(
        "demo"
    ),
    backbone: options.BackboneOption = "dinov2-vit-s-14",
    count: Annotated[int, typer.Option(help="Parts to draw; a quarter get a defect.", min=4)] = 24,
    backend: options.BackendOption = "auto",
    recipe: options.RecipeOption = DEFAULT_RECIPE,
    weights: options.WeightsOption = None,
    offline: options.OfflineOption = False,
) -> None:
    """Draw machined parts, some with defects, and find the defects.

    Writes the drawn images to OUT/images and what `score` writes to OUT/results, then compares
    the scores with the drawn masks.
    """
    from ..datasets.sample.draw import draw_sample
    from ..report.folder import check_target
    from ..runs.score import ScoreJob

    results = out / "results"
    check_target(results)  # before the drawing, which takes longer than the check
    with interruptible("no result was written, an earlier one is untouched"):
        with stages() as on_progress:
            samples = draw_sample(
                out / "images",
                count=count,
                defects=max(1, count // 4),
                progress=lambda done, total: on_progress("drawing", done, total),
            )
        job = ScoreJob([sample.path for sample in samples], results)
        musc = load(options.musc_arguments(context))
        with stages() as on_progress:
            batch = job.run(musc, progress=on_progress)
    assert batch is not None  # the demo runs in one process
    print_scores(batch, results)
    compare_with_masks(samples, batch, results / "report.html")


def compare_with_masks(samples: list[SampleImage], batch: ScoredBatch, report: Path) -> None:
    """Print how well the scores find the drawn defects; write a report that shows the masks."""
    import numpy as np

    from ..datasets.masks import read_mask
    from ..metrics import image_metrics, pixel_metrics
    from ..report.html import Evaluation, write_report

    size = batch.anomaly_maps.shape[1:]
    masks = [
        np.zeros(size, dtype=bool) if sample.mask is None else read_mask(sample.mask, size)
        for sample in samples
    ]
    labels = np.array([sample.mask is not None for sample in samples])
    found = int(np.sum(labels[batch.ranks.argsort()[: labels.sum()]]))
    image = image_metrics(labels, batch.image_scores).auroc
    pixel = pixel_metrics(masks, batch.anomaly_maps, pro=False).auroc
    full_masks = [None if sample.mask is None else read_mask(sample.mask) for sample in samples]
    write_report(
        report,
        batch,
        evaluation=Evaluation(labels, full_masks, {"image AUROC": image, "pixel AUROC": pixel}),
        title="demo: drawn parts",
    )
    console.print(
        f"{found} of the {labels.sum()} drawn defects are the {labels.sum()} most anomalous "
        f"images; image AUROC {image:.4f}, pixel AUROC {pixel:.4f} against the drawn masks",
        highlight=False,
    )
