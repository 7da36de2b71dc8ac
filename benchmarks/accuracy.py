"""Accuracy on real inspection images, beside the official code on the same features.

    python benchmarks/accuracy.py                      # every set and backbone at hand
    python benchmarks/accuracy.py --sets mpdd_metal_plate --backbones dinov2-vit-s-14

The official figures are of the official MuSc modules on the same weights, images and settings:
24 good and 24 defect images chosen by one `random.Random(0)`, squashed to a square, degrees 1 3 5,
raw image scores (before RsCIN), masks nearest-neighbour, the official metric definitions.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from common import SHARED, described, write_json
from musc_fast import MuSc
from musc_fast.datasets.layouts import Sample, load_mvtec, sample_mask
from musc_fast.metrics import image_metrics, pixel_metrics

METRICS = ("I-AUROC", "I-F1max", "I-AP", "P-AUROC", "P-F1max", "P-AP", "PRO")
TOLERANCE = 0.003
SIZES = {"dinov2-vit-s-14": 392, "clip-vit-b-16": 384}
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
    ("mpdd_metal_plate", "clip-vit-b-16"): (
        0.9635,
        0.9796,
        0.9278,
        0.9842,
        0.7980,
        0.8282,
        0.9247,
    ),
    ("kolektorsdd", "dinov2-vit-s-14"): (
        0.6806,
        0.7419,
        0.6218,
        0.8311,
        0.0211,
        0.0079,
        0.3332,
    ),
    ("kolektorsdd", "clip-vit-b-16"): (
        0.7153,
        0.7619,
        0.6479,
        0.8630,
        0.0363,
        0.0138,
        0.4353,
    ),
}


def main() -> None:
    """Score each set with each backbone, print ours beside the official figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=SHARED / "data", help="folder of the sets")
    parser.add_argument("--sets", nargs="+", default=["mpdd_metal_plate", "kolektorsdd"])
    parser.add_argument("--backbones", nargs="+", default=list(SIZES))
    parser.add_argument("--each", type=int, default=24, help="good and defect images a set")
    parser.add_argument("--size", type=int, nargs="+", help="side, or height and width")
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--precision", default="exact")
    parser.add_argument("--json", type=Path, help="write the result here")
    arguments = parser.parse_args()
    if not arguments.data.is_dir():
        raise SystemExit(f"{arguments.data} is absent; give the folder of the sets with --data")

    table = Table(title="Accuracy, ours / official")
    for heading in ("set", "backbone", "size", *METRICS):
        table.add_column(heading)
    results = []
    for backbone in arguments.backbones:
        size = arguments.size or [SIZES[backbone]] * 2
        size = size * 2 if len(size) == 1 else size
        musc = MuSc(
            backbone,
            image_size=(size[0], size[1]),
            backend=arguments.backend,
            precision=arguments.precision,
        )
        for name in arguments.sets:
            samples = chosen(load_mvtec(arguments.data / name)[0].samples, arguments.each)
            found = evaluate(musc, samples)
            comparable = arguments.each == 24 and size == [SIZES[backbone]] * 2
            official = OFFICIAL.get((name, backbone)) if comparable else None
            values = list(found["metrics"].values())
            pairs = zip(values, official or [None] * len(METRICS), strict=True)
            cells = [f"{v:.4f}" if o is None else f"{v:.4f} / {o:.4f}" for v, o in pairs]
            table.add_row(name, backbone, f"{size[0]}x{size[1]}", *cells)
            difference = (
                None if official is None else float(np.abs(np.subtract(values, official)).max())
            )
            results.append(
                {
                    "set": name,
                    "backbone": backbone,
                    "weights": musc.backbone.source,
                    "size": size,
                    "images": len(samples),
                    **found,
                    "official": official,
                    "largest_difference": difference,
                }
            )
    console = Console(width=200)
    console.print(table)
    gaps = [r["largest_difference"] for r in results if r["largest_difference"] is not None]
    if gaps:
        console.print(f"largest difference from the official figures: {max(gaps):.4f}")
    if arguments.json is not None and max(gaps, default=0.0) <= TOLERANCE:
        write_json(arguments.json, described(arguments), results)
    if max(gaps, default=0.0) > TOLERANCE:
        raise SystemExit(f"figures differ by more than {TOLERANCE}; nothing was written")


def chosen(samples: tuple[Sample, ...], each: int) -> list[Sample]:
    """The official comparison's choice: both lists sorted by path, shuffled in turn, first 24."""
    generator = random.Random(0)
    result = []
    for label in (False, True):
        ordered = sorted((s for s in samples if s.label is label), key=lambda s: str(s.image))
        generator.shuffle(ordered)
        result += ordered[:each]
    return result


def evaluate(musc: MuSc, samples: list[Sample]) -> dict[str, Any]:
    """Score the samples as one batch and measure; labels and masks are used only afterwards."""
    musc.timings = {}
    scores = musc.score([sample.image for sample in samples], progress=True)
    maps = scores.anomaly_maps.cpu().numpy()
    labels = np.array([bool(sample.label) for sample in samples])
    size = (maps.shape[1], maps.shape[2])
    masks = np.stack([sample_mask(sample, size) for sample in samples])
    image = image_metrics(labels, scores.raw_image_scores.cpu().numpy(), "musc")
    rescored = image_metrics(labels, scores.image_scores.cpu().numpy(), "musc")
    pixel = pixel_metrics(masks, maps, "musc")
    values = (
        image.auroc,
        image.f1_max,
        image.ap,
        pixel.auroc,
        pixel.f1_max,
        pixel.ap,
        pixel.pro,
    )
    return {
        "metrics": dict(zip(METRICS, values, strict=True)),
        "I-AUROC after RsCIN": rescored.auroc,
        "seconds": musc.timings,
    }


if __name__ == "__main__":
    main()
