"""What the stages beyond MuSc find and cost, each alone, on sets of many kinds.

    python benchmarks/beyond.py                                   # every set and every stage
    python benchmarks/beyond.py --sets boards "boards moved" --stages off align

A stage is an option of `MuSc`; "off" has none of them, "tiles" takes none where pictures are not
large. Image AUROC of the scores that rank the images and of the raw ones; pixel AP and PRO by the
official definitions at the size of the maps; of the defective images, the share whose map is
highest on the defect. Seconds are of the features and of the scoring. Sets that are drawn with
several seeds are given by their means.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from lib.beyond_sets import SEEDS, SETS, Source
from lib.labelled_sets import EACH, SIZES, labels_of, masks_of
from lib.program import add_data, add_json, make_parser
from lib.results import settings_of, write_results
from musc_fast import MuSc
from musc_fast.datasets.layouts import Sample
from musc_fast.metrics import image_metrics, pixel_metrics

STAGES: dict[str, dict[str, Any]] = {
    "off": {},
    "align": {"align": "auto"},
    "place": {"place": "auto"},
    "size": {"image_size": "auto"},
    "tiles": {"tiles": "auto"},
    "copies": {"copies": "auto"},
    "repeats": {"repeats": "auto"},
}
METRICS = ("I-AUROC", "I-AUROC raw", "P-AP", "PRO", "peak on defect")
SECONDS = ("features", "scoring")


def main() -> None:
    """Score each set with each stage and backbone; print figures."""
    arguments = parse_arguments()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        source = Source(arguments.data, Path(folder), arguments.each, tuple(arguments.seeds))
        for name in arguments.sets:
            sets = SETS[name](source)
            for backbone in arguments.backbones if sets else ():
                size = arguments.size or SIZES[backbone]
                for stage in arguments.stages:
                    options = {"image_size": size, "recipe": arguments.recipe}
                    options |= {"copies": "off", **STAGES[stage]}
                    measured = [measure(MuSc(backbone, **options), samples) for samples in sets]
                    rows.append(
                        {
                            "set": name,
                            "backbone": backbone,
                            "stage": stage,
                            "images": sum(map(len, sets)),
                            "by_seed": measured,
                            "mean": {
                                key: float(np.mean([each[key] for each in measured]))
                                for key in (*METRICS, *SECONDS)
                            },
                        }
                    )
                    # After each stage: a cut leaves some.
                    write_results(arguments.json, settings_of(arguments), rows)
    Console(width=160).print(table_of(rows))


def parse_arguments() -> argparse.Namespace:
    parser = make_parser(__doc__)
    add_data(parser, list(SETS))
    parser.add_argument("--backbones", nargs="+", default=["dinov2-vit-s-14"])
    parser.add_argument("--stages", nargs="+", default=list(STAGES), choices=list(STAGES))
    parser.add_argument("--recipe", default="one-search")
    parser.add_argument("--each", type=int, default=EACH, help="good and defect images a set")
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    parser.add_argument("--size", type=int, help="side of the model's input; default: by backbone")
    add_json(parser)
    return parser.parse_args()


def measure(musc: MuSc, samples: list[Sample]) -> dict[str, float]:
    """The figures of one set."""
    scores = musc.score([sample.image for sample in samples])
    labels, maps = labels_of(samples), scores.anomaly_maps.cpu().numpy()
    masks = masks_of(samples, maps.shape[1:])
    pixel = pixel_metrics(masks, maps)
    values = (
        image_metrics(labels, scores.image_scores.cpu().numpy()).auroc,
        image_metrics(labels, scores.raw_image_scores.cpu().numpy()).auroc,
        pixel.ap,
        pixel.pro,
        share_of_peaks(masks[labels], maps[labels]),
    )
    seconds = {stage: musc.timings[stage] for stage in SECONDS}
    return {**dict(zip(METRICS, values, strict=True)), **seconds}


def share_of_peaks(masks: NDArray[np.bool_], maps: NDArray[np.float32]) -> float:
    """The share of maps [N, h, w] whose highest pixel lies in its mask [N, h, w]."""
    flat = maps.reshape(len(maps), -1)
    places = flat.argmax(axis=1)
    return float(masks.reshape(len(maps), -1)[np.arange(len(maps)), places].mean())


def table_of(rows: list[dict[str, Any]]) -> Table:
    table = Table(title="Beyond MuSc")
    for heading in ("set", "backbone", "stage"):
        table.add_column(heading)
    for heading in (*METRICS, *(f"{stage} (s)" for stage in SECONDS)):
        table.add_column(heading, justify="right")
    for row in rows:
        table.add_row(
            *(row[key] for key in ("set", "backbone", "stage")),
            *(f"{row['mean'][name]:.4f}" for name in METRICS),
            *(f"{row['mean'][stage]:.1f}" for stage in SECONDS),
        )
    return table


if __name__ == "__main__":
    main()
