"""What `max_references=K` costs in accuracy: each image against K other images instead of all.

    python benchmarks/references.py [--json benchmarks/results/references.json]

The images and settings are those of accuracy.py (24 good and 24 defect images a set). Beside the
metrics stand the correlation of raw image scores and of patch scores with the scores against all
other images, and the time of scoring.
"""

from __future__ import annotations

from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from scipy.stats import spearmanr

from lib.labelled_sets import EACH, SETS, SIZES, choose_samples, labels_of, masks_of
from lib.program import add_data, add_json, make_parser, require_data
from lib.results import settings_of, write_results
from musc_fast import MuSc, score_batch
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
    parser = make_parser(__doc__)
    add_data(parser, SETS)
    parser.add_argument("--backbones", nargs="+", default=list(SIZES))
    parser.add_argument("--k", type=int, nargs="+", default=[8, 16, 32], help="references an image")
    parser.add_argument("--each", type=int, default=EACH, help="good and defect images a set")
    add_json(parser)
    arguments = parser.parse_args()
    require_data(arguments.data)
    table = Table(title="Each image against K others")
    for heading in ("set", "backbone", *COLUMNS):
        table.add_column(heading)
    results = []
    for backbone in arguments.backbones:
        musc = MuSc(backbone, image_size=SIZES[backbone], recipe="paper")
        for name in arguments.sets:
            samples = choose_samples(arguments.data / name, arguments.each)
            features = musc.extract([sample.image for sample in samples])
            labels = labels_of(samples)
            masks = masks_of(samples, musc.backbone.image_size)
            for row in measure(musc, features, labels, masks, arguments.k):
                cells = [f"{v:.4f}" if isinstance(v, float) else str(v) for v in row.values()]
                table.add_row(name, backbone, *cells)
                results.append({"set": name, "backbone": backbone, **row})
            write_results(arguments.json, settings_of(arguments), results)  # a cut leaves some
    Console(width=160).print(table)


def measure(
    musc: MuSc,
    features: BatchFeatures,
    labels: NDArray[np.bool_],
    masks: NDArray[np.bool_],
    counts: list[int],
) -> list[dict[str, Any]]:
    """A row for scoring against all other images, then one for each K in `counts`."""
    rows: list[dict[str, Any]] = []
    against_all: tuple[Any, Any] | None = None
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
        against_all = against_all or (raw, patches)
        pixel = pixel_metrics(masks, scores.anomaly_maps.numpy(), "musc")
        values = (
            count or len(labels) - 1,
            image_metrics(labels, raw, "musc").auroc,
            pixel.auroc,
            pixel.pro,
            float(spearmanr(raw, against_all[0]).statistic),
            float(spearmanr(patches, against_all[1]).statistic),
            seconds,
        )
        rows.append(dict(zip(COLUMNS, values, strict=True)))
    return rows


if __name__ == "__main__":
    main()
