"""What each recipe finds and costs: accuracy on labelled images, searches, seconds.

    python benchmarks/recipes.py                        # every set, backbone and recipe at hand
    python benchmarks/recipes.py --recipes one-search --sets parts --engine torch

The sets are those of accuracy.py (24 good and 24 defect images each) and `parts`, 48 drawn parts,
half of them with a defect. Image AUROC of the raw scores and after RsCIN, which is computed for
every recipe here, whether it takes RsCIN or not (the column "RsCIN taken" tells); pixel AP and PRO
by the official definitions. Seconds are of `MuSc.score`, with RsCIN where the recipe takes it.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from lib.labelled_sets import EACH, SETS, SIZES, choose_samples, labels_of, masks_of
from lib.program import add_data, add_json, make_parser
from lib.results import settings_of, write_results
from lib.timing import Timing, seconds_of
from musc_fast import MuSc
from musc_fast.datasets.masks import read_mask
from musc_fast.datasets.sample.draw import draw_sample
from musc_fast.metrics import image_metrics, pixel_metrics
from musc_fast.recipes import RECIPES

DRAWN = "parts"
METRICS = ("I-AUROC raw", "I-AUROC RsCIN", "I-AUROC final", "P-AP", "PRO")


@dataclass(frozen=True)
class LabelledSet:
    """Images, whether each is defective, and their masks [N, h, w]."""

    paths: list[Path]
    labels: NDArray[np.bool_]
    masks: NDArray[np.bool_]


def main() -> None:
    """Score each set with each recipe and backbone; print figures and means."""
    arguments = parse_arguments()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for backbone in arguments.backbones:
            side = arguments.size or SIZES[backbone]
            size = (side, side)
            sets = {
                name: labelled_set(arguments.data, name, arguments.each, size, Path(folder))
                for name in arguments.sets
            }
            for recipe in arguments.recipes:
                rows += measure(backbone, size, recipe, sets, arguments)
                # After each recipe: a cut leaves some.
                write_results(arguments.json, settings_of(arguments), rows)
    console = Console(width=160)
    console.print(table_of(rows))
    console.print(means_of(rows))


def parse_arguments() -> argparse.Namespace:
    parser = make_parser(__doc__)
    add_data(parser, [*SETS, DRAWN])
    parser.add_argument("--backbones", nargs="+", default=list(SIZES))
    parser.add_argument("--recipes", nargs="+", default=[recipe.name for recipe in RECIPES])
    parser.add_argument("--each", type=int, default=EACH, help="good and defect images a set")
    parser.add_argument("--size", type=int, help="side of the model's input; default: by backbone")
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--feature-precision", default="auto")
    parser.add_argument("--runs", type=int, default=1, help="timed runs of each case")
    add_json(parser)
    arguments = parser.parse_args()
    arguments.sets = [
        name for name in arguments.sets if name == DRAWN or (arguments.data / name).is_dir()
    ]
    return arguments


def labelled_set(
    data: Path, name: str, each: int, size: tuple[int, int], scratch: Path
) -> LabelledSet:
    """A set of shared/data, or the drawn parts."""
    if name != DRAWN:
        samples = choose_samples(data / name, each)
        return LabelledSet(
            [sample.image for sample in samples], labels_of(samples), masks_of(samples, size)
        )
    parts = draw_sample(scratch / DRAWN, count=2 * each, defects=each)
    masks = [np.zeros(size, bool) if p.mask is None else read_mask(p.mask, size) for p in parts]
    labels = np.array([part.mask is not None for part in parts])
    return LabelledSet([part.path for part in parts], labels, np.stack(masks))


def measure(
    backbone: str,
    size: tuple[int, int],
    recipe: str,
    sets: dict[str, LabelledSet],
    arguments: argparse.Namespace,
) -> list[dict[str, Any]]:
    """A row for each set."""
    chosen = {
        "image_size": size,
        "recipe": recipe,
        "engine": arguments.engine,
        "feature_precision": arguments.feature_precision,
    }
    musc = MuSc(backbone, **chosen)
    with_rscin = musc if musc.use_cls else MuSc(backbone, use_cls=True, **chosen)
    rows = []
    for name, each in sets.items():
        scores = with_rscin.score(each.paths)
        raw = image_metrics(each.labels, scores.raw_image_scores.cpu().numpy()).auroc
        rescored = image_metrics(each.labels, scores.image_scores.cpu().numpy()).auroc
        pixel = pixel_metrics(each.masks, scores.anomaly_maps.cpu().numpy())
        final = rescored if musc.use_cls else raw
        timing = Timing(
            tuple(seconds_of(lambda: musc.score(each.paths)) for _ in range(arguments.runs))  # noqa: B023
        )
        rows.append(
            {
                "backbone": backbone,
                "set": name,
                "recipe": recipe,
                "blocks": list(musc.backbone.blocks),
                "searches": len(musc.backbone.blocks) * musc.settings.searches_a_layer,
                "rscin": musc.use_cls,
                "engine": musc.backbone.engine,
                "precision": musc.backbone.precision,
                "metrics": dict(
                    zip(METRICS, (raw, rescored, final, pixel.ap, pixel.pro), strict=True)
                ),
                "seconds": timing.seconds,
                "median_s": timing.median,
                "stages": dict(musc.timings),
            }
        )
    return rows


def table_of(rows: list[dict[str, Any]]) -> Table:
    table = Table(title="Recipes")
    for heading in ("backbone", "set", "recipe", "blocks", "searches", "RsCIN taken", *METRICS):
        table.add_column(heading)
    table.add_column("seconds", justify="right")
    for row in rows:
        table.add_row(
            row["backbone"],
            row["set"],
            row["recipe"],
            ",".join(map(str, row["blocks"])),
            str(row["searches"]),
            "yes" if row["rscin"] else "no",
            *(f"{row['metrics'][name]:.4f}" for name in METRICS),
            f"{row['median_s']:.1f}",
        )
    return table


def means_of(rows: list[dict[str, Any]]) -> Table:
    """The mean of each figure over all sets and backbones, by recipe."""
    table = Table(title="Mean over sets and backbones")
    for heading in ("recipe", *METRICS, "seconds"):
        table.add_column(heading)
    for recipe in dict.fromkeys(row["recipe"] for row in rows):
        own = [row for row in rows if row["recipe"] == recipe]
        means = [float(np.mean([row["metrics"][name] for row in own])) for name in METRICS]
        seconds = sum(row["median_s"] for row in own) / len(own)
        table.add_row(recipe, *(f"{mean:.4f}" for mean in means), f"{seconds:.1f}")
    return table


if __name__ == "__main__":
    main()
