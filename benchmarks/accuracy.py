"""Accuracy on real inspection images, beside the official code on the same features.

    python benchmarks/accuracy.py                      # every set and backbone at hand
    python benchmarks/accuracy.py --sets mpdd_metal_plate --backbones dinov2-vit-s-14

The official figures are of the official MuSc modules on the same weights, images and settings:
24 good and 24 defect images chosen by one `random.Random(0)`, squashed to a square, degrees 1 3 5,
raw image scores (before RsCIN), masks nearest-neighbour, the official metric definitions.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from lib.labelled_sets import EACH, SETS, SIZES, choose_samples, labels_of, masks_of
from lib.program import add_data, add_json, make_parser, require_data
from lib.results import settings_of, write_results
from musc_fast import MuSc
from musc_fast.datasets.layouts import Sample
from musc_fast.metrics import image_metrics, pixel_metrics

METRICS = ("I-AUROC", "I-F1max", "I-AP", "P-AUROC", "P-F1max", "P-AP", "PRO")
TOLERANCE = 0.003
# The figures of METRICS by set and backbone.
OFFICIAL = {
    ("mpdd_metal_plate", "dinov2-vit-s-14"): (
        0.9583,
        0.9796,
        0.8827,
        0.9844,
        0.8243,
        0.8263,
        0.8624,
    ),
    ("mpdd_metal_plate", "clip-vit-b-16"): (0.9635, 0.9796, 0.9278, 0.9842, 0.7980, 0.8282, 0.9247),
    ("kolektorsdd", "dinov2-vit-s-14"): (0.6806, 0.7419, 0.6218, 0.8311, 0.0211, 0.0079, 0.3332),
    ("kolektorsdd", "clip-vit-b-16"): (0.7153, 0.7619, 0.6479, 0.8630, 0.0363, 0.0138, 0.4353),
}


def main() -> None:
    """Score each set with each backbone, print our figures beside the official ones."""
    arguments = parse_arguments()
    table = Table(title="Accuracy, ours / official")
    for heading in ("set", "backbone", "size", *METRICS):
        table.add_column(heading)
    rows = []
    for backbone in arguments.backbones:
        size = arguments.size or [SIZES[backbone]] * 2
        size = size * 2 if len(size) == 1 else size
        musc = MuSc(
            backbone,
            image_size=(size[0], size[1]),
            recipe="paper",
            engine=arguments.engine,
            feature_precision=arguments.feature_precision,
            backend=arguments.backend,
            precision=arguments.precision,
        )
        comparable = arguments.each == EACH and size == [SIZES[backbone]] * 2
        for name in arguments.sets:
            samples = choose_samples(arguments.data / name, arguments.each)
            official = OFFICIAL.get((name, backbone)) if comparable else None
            row = {
                "set": name,
                "backbone": backbone,
                "weights": musc.backbone.source,
                "size": size,
                "engine": musc.backbone.engine,
                "feature_precision": musc.backbone.precision,
                "images": len(samples),
                **evaluate(musc, samples, official),
            }
            rows.append(row)
            table.add_row(name, backbone, f"{size[0]}x{size[1]}", *cells(row))
    console = Console(width=200)
    console.print(table)
    gaps = [row["largest_difference"] for row in rows if row["largest_difference"] is not None]
    if gaps:
        console.print(f"largest difference from the official figures: {max(gaps):.4f}")
    if max(gaps, default=0.0) > TOLERANCE:
        raise SystemExit(f"figures differ by more than {TOLERANCE}; nothing was written")
    write_results(arguments.json, settings_of(arguments), rows)


def parse_arguments() -> argparse.Namespace:
    parser = make_parser(__doc__)
    add_data(parser, SETS)
    parser.add_argument("--backbones", nargs="+", default=list(SIZES))
    parser.add_argument("--each", type=int, default=EACH, help="good and defect images a set")
    parser.add_argument("--size", type=int, nargs="+", help="side, or height and width")
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--precision", default="exact")
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--feature-precision", default="auto")
    add_json(parser)
    arguments = parser.parse_args()
    require_data(arguments.data)
    return arguments


def evaluate(
    musc: MuSc, samples: list[Sample], official: tuple[float, ...] | None
) -> dict[str, Any]:
    """Score the samples as one batch and measure; labels and masks are read after the scoring."""
    musc.timings = {}
    scores = musc.score([sample.image for sample in samples], progress=True)
    maps = scores.anomaly_maps.cpu().numpy()
    labels = labels_of(samples)
    masks = masks_of(samples, (maps.shape[1], maps.shape[2]))
    image = image_metrics(labels, scores.raw_image_scores.cpu().numpy(), "musc")
    rescored = image_metrics(labels, scores.image_scores.cpu().numpy(), "musc")
    pixel = pixel_metrics(masks, maps, "musc")
    values = [image.auroc, image.f1_max, image.ap]
    values += [pixel.auroc, pixel.f1_max, pixel.ap, pixel.pro]
    difference = None if official is None else float(np.abs(np.subtract(values, official)).max())
    return {
        "metrics": dict(zip(METRICS, values, strict=True)),
        "I-AUROC after RsCIN": rescored.auroc,
        "seconds": musc.timings,
        "official": official,
        "largest_difference": difference,
    }


def cells(row: dict[str, Any]) -> list[str]:
    """Each figure of a row, beside the official one where there is one."""
    values = list(row["metrics"].values())
    if row["official"] is None:
        return [f"{value:.4f}" for value in values]
    pairs = zip(values, row["official"], strict=True)
    return [f"{value:.4f} / {official:.4f}" for value, official in pairs]


if __name__ == "__main__":
    main()
