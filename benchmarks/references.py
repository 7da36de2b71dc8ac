"""What `max_references=K` costs in accuracy: each image against K others instead of all.

    python benchmarks/references.py [--json benchmarks/results/references.json]

The images and settings of accuracy.py (24 good and 24 defect images a set). Beside the metrics:
the correlation of raw image scores and of patch scores with those against all others, and the
time of scoring.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from scipy.stats import spearmanr

from accuracy import SIZES, chosen
from common import SHARED, described, write_json
from musc_fast import MuSc, score_batch
from musc_fast.datasets.layouts import load_mvtec, sample_mask
from musc_fast.features.extraction import BatchFeatures
from musc_fast.metrics import image_metrics, pixel_metrics

COLUMNS = (
    "K",
    "I-AUROC",
    "P-AUROC",
    "PRO",
    "image score correlation",
    "patch score correlation",
    "seconds",
)


def main() -> None:
    """Score every set with every backbone at each K, print and write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=SHARED / "data", help="folder of the sets")
    parser.add_argument("--sets", nargs="+", default=["mpdd_metal_plate", "kolektorsdd"])
    parser.add_argument("--backbones", nargs="+", default=list(SIZES))
    parser.add_argument("--k", type=int, nargs="+", default=[8, 16, 32], help="references an image")
    parser.add_argument("--json", type=Path, help="write the result here")
    arguments = parser.parse_args()
    if not arguments.data.is_dir():
        raise SystemExit(f"{arguments.data} is absent; give the folder of the sets with --data")
    table = Table(title="Each image against K others")
    for heading in ("set", "backbone", *COLUMNS):
        table.add_column(heading)
    results = []
    for backbone in arguments.backbones:
        musc = MuSc(backbone, image_size=SIZES[backbone])
        for name in arguments.sets:
            samples = chosen(load_mvtec(arguments.data / name)[0].samples, 24)
            features = musc.extract([sample.image for sample in samples])
            labels = np.array([bool(sample.label) for sample in samples])
            masks = np.stack([sample_mask(sample, musc.backbone.image_size) for sample in samples])
            for row in measured(musc, features, labels, masks, arguments.k):
                cells = [f"{v:.4f}" if isinstance(v, float) else str(v) for v in row.values()]
                table.add_row(name, backbone, *cells)
                results.append({"set": name, "backbone": backbone, **row})
    Console(width=160).print(table)
    if arguments.json is not None:
        write_json(arguments.json, described(arguments), results)


def measured(
    musc: MuSc, features: BatchFeatures, labels: Any, masks: Any, counts: list[int]
) -> list[dict[str, Any]]:
    """A row for all others, then one for each K."""
    rows: list[dict[str, Any]] = []
    every: tuple[Any, Any] | None = None
    for count in (None, *counts):
        start = perf_counter()
        scores = score_batch(
            features.tokens,
            grid=musc.backbone.grid,
            prefix_tokens=musc.backbone.prefix_tokens,
            image_size=musc.backbone.image_size,
            max_references=count,
        )
        seconds = perf_counter() - start
        raw, patches = scores.raw_image_scores.numpy(), scores.patch_scores.numpy().ravel()
        every = every or (raw, patches)
        pixel = pixel_metrics(masks, scores.anomaly_maps.numpy(), "musc")
        values = (
            count or len(labels) - 1,
            image_metrics(labels, raw, "musc").auroc,
            pixel.auroc,
            pixel.pro,
            float(spearmanr(raw, every[0]).statistic),
            float(spearmanr(patches, every[1]).statistic),
            seconds,
        )
        rows.append(dict(zip(COLUMNS, values, strict=True)))
    return rows


if __name__ == "__main__":
    main()
