"""The label-free threshold rules on real scores: F1 beside the best possible, and false alarms.

    python benchmarks/thresholds.py                              # rules alone, on the stored scores
    python benchmarks/thresholds.py --rescore --cache features/  # scores the images anew (an hour)

From each set batches are drawn, good images alone and with some defects, and every batch is scored
by itself, as a user would. The raw scores are stored (`--scores`), so that rules can be compared in
seconds. "sample" is the procedural sample of `musc-fast demo`. The best possible F1 uses the labels
of the same batch. A second table is of simulated batches without defects, of several shapes.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from lib.checkout import ROOT
from lib.labelled_sets import SETS, SIZES
from lib.program import add_data, add_json, make_parser
from lib.results import machine, write_results
from musc_fast import MuSc
from musc_fast.datasets.layouts import load_mvtec
from musc_fast.datasets.sample.draw import draw_sample
from musc_fast.features.cache import extract_cached
from musc_fast.features.extraction import BatchFeatures
from musc_fast.files import replacing
from musc_fast.metrics import image_metrics
from musc_fast.progress import stage_bars
from musc_fast.threshold import RULES, find_threshold

SCORES = ROOT / "tests" / "golden" / "batch_scores.json"
SAMPLE = "sample"
# This image is good by its label, but its glare outshines every defect: only the batches "whole"
# and "good" hold it.
GLARE = "train_00021.png"
BATCHES = ((10, 0), (20, 0), (20, 1), (20, 4), (40, 2), (40, 8), (40, 16))  # images, defective
SHAPES: dict[str, Callable[[np.random.Generator, int], NDArray[np.float64]]] = {
    "gaussian": lambda rng, n: 0.45 + 0.06 * rng.standard_normal(n),
    "gumbel": lambda rng, n: 0.45 + 0.06 * rng.gumbel(size=n),
    "lognormal 0.2": lambda rng, n: 0.4 * np.exp(0.2 * rng.standard_normal(n)),
    "lognormal 0.5": lambda rng, n: 0.4 * np.exp(0.5 * rng.standard_normal(n)),
    "lognormal 0.8": lambda rng, n: 0.4 * np.exp(0.8 * rng.standard_normal(n)),
    "gamma 4": lambda rng, n: 0.1 * rng.gamma(4, size=n),
    "gamma 2": lambda rng, n: 0.1 * rng.gamma(2, size=n),
    "exponential": lambda rng, n: 0.25 + 0.1 * rng.exponential(size=n),
    "uniform": lambda rng, n: 0.3 + 0.2 * rng.random(n),
}
COUNTS = (5, 10, 20, 40, 100, 500)  # images of a simulated batch


def main() -> None:
    """Read or make the scores, print one row for each set, backbone and kind of batch."""
    parser = make_parser(__doc__)
    parser.add_argument("--scores", type=Path, default=SCORES, help="where the scores are stored")
    parser.add_argument("--rescore", action="store_true", help="score the images anew")
    add_data(parser, [*SETS, SAMPLE])
    parser.add_argument("--backbones", nargs="+", default=list(SIZES))
    parser.add_argument("--draws", type=int, default=10, help="batches of a kind (half: double)")
    parser.add_argument("--batches", type=int, default=300, help="simulated batches of a kind")
    parser.add_argument("--cache", type=Path, help="store features here")
    add_json(parser)
    arguments = parser.parse_args()

    if arguments.rescore:
        write_scores(arguments)
    stored = json.loads(arguments.scores.read_text(encoding="utf-8"))
    results = [row for each in stored["sets"] for row in rows(each)]
    show("F1 (normal batches: share flagged at all)", ("set", "backbone", "batch"), results)
    simulated = [simulate(shape, count, arguments.batches) for shape in SHAPES for count in COUNTS]
    show("Simulated normal batches, share flagged", ("shape",), simulated)
    settings = {"scores": arguments.scores.name, "made_on": stored["machine"]}
    write_results(arguments.json, settings, results + simulated)


def show(title: str, names: tuple[str, ...], found: list[dict[str, Any]]) -> None:
    table = Table(title=title)
    for heading in (*names, "images", "defective", "batches", "best", *RULES):
        table.add_column(heading)
    for row in found:
        best = "" if row["best"] is None else f"{row['best']:.2f}"
        numbers = (str(row[key]) for key in ("images", "defective", "batches"))
        table.add_row(*(row[n] for n in names), *numbers, best, *(f"{row[r]:.2f}" for r in RULES))
    Console(width=140).print(table)


def rows(each: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """One row for each kind of batch of a set."""
    for kind in dict.fromkeys(batch["batch"] for batch in each["batches"]):
        batches = [batch for batch in each["batches"] if batch["batch"] == kind]
        scores = [np.array(batch["raw"]) for batch in batches]
        defective = batches[0]["defective"]
        yield {
            "set": each["set"],
            "backbone": each["backbone"],
            "batch": kind,
            **compare_rules(scores, defective),
        }


def simulate(shape: str, count: int, batches: int) -> dict[str, Any]:
    generator = np.random.default_rng([count, list(SHAPES).index(shape)])
    return {
        "shape": shape,
        **compare_rules([SHAPES[shape](generator, count) for _ in range(batches)], 0),
    }


def compare_rules(scores: list[NDArray[np.float64]], defective: int) -> dict[str, Any]:
    """Mean F1 of each rule; of batches without defects the share with any flag.

    The last `defective` scores of each batch are those of defective images.
    """
    truth = np.arange(scores[0].size) >= scores[0].size - defective
    best = float(np.mean([image_metrics(truth, x).f1_max for x in scores])) if defective else None
    values: dict[str, float] = {}
    for rule in RULES:
        flags = [find_threshold(x, rule=rule).flagged for x in scores]
        values[rule] = float(
            np.mean([2 * (f & truth).sum() / (f.sum() + defective) for f in flags])
            if defective
            else np.mean([f.any() for f in flags])
        )
    count = {"images": scores[0].size, "defective": defective, "batches": len(scores)}
    return {**count, "best": best, **values}


def write_scores(arguments: argparse.Namespace) -> None:
    """Score every batch of every set by itself and write the raw scores."""
    sets = []
    with tempfile.TemporaryDirectory() as folder:
        if SAMPLE in arguments.sets:
            draw_sample(Path(folder) / SAMPLE, count=84, defects=24)
        for backbone in arguments.backbones:
            musc = MuSc(backbone, recipe="paper")
            for name in arguments.sets:
                root = (Path(folder) if name == SAMPLE else arguments.data) / name
                batches = score_batches(musc, root, arguments.draws, arguments.cache)
                sets.append(
                    {
                        "set": name,
                        "backbone": backbone,
                        "weights": musc.backbone.source,
                        "size": list(musc.backbone.image_size),
                        "batches": batches,
                    }
                )
                print(f"{name}, {backbone}: {len(batches)} batches", flush=True)
    about = "raw image scores of batches scored by themselves; the defective images come last"
    document = {"about": about, "command": "benchmarks/thresholds.py --rescore"}
    with replacing(arguments.scores) as temporary:
        text = json.dumps({**document, "machine": machine(), "sets": sets})
        temporary.write_text(text.replace('{"batch"', '\n{"batch"') + "\n", encoding="utf-8")


def score_batches(musc: MuSc, root: Path, draws: int, cache: Path | None) -> list[dict[str, Any]]:
    """Batches of one set: name, number of defective images, raw scores (the defective last)."""
    samples = load_mvtec(root)[0].samples
    with stage_bars() as on_progress:
        paths = [sample.image for sample in samples]
        features = extract_cached(musc.extractor, paths, cache, progress=on_progress)
    defective = np.array([sample.label is True for sample in samples])
    glare = np.array([path.name == GLARE for path in paths])
    batches = []
    for name, good, bad in draw_batches(defective, glare, draws):
        scores = musc.score_features(take(features, np.concatenate([good, bad])))
        raw = [round(float(score), 5) for score in scores.raw_image_scores]
        batches.append({"batch": name, "defective": len(bad), "raw": raw})
    return batches


def draw_batches(
    defective: NDArray[np.bool_], glare: NDArray[np.bool_], draws: int
) -> list[tuple[str, NDArray[np.int64], NDArray[np.int64]]]:
    """Batches of one set: name, indices of good images, indices of defective images."""
    good, bad = np.flatnonzero(~defective), np.flatnonzero(defective)
    even = np.flatnonzero(~defective & ~glare)
    generator = np.random.default_rng(0)
    batches = [("whole", good, bad), ("good", good, bad[:0])]
    if len(even) < len(good):
        batches.append((f"good without {Path(GLARE).stem}", even, bad[:0]))
    for _ in range(2 * draws):
        half = generator.choice(even, len(good) // 2, replace=False)
        batches.append(("half of good", half, bad[:0]))
    for count, faulty in BATCHES:
        for _ in range(draws):
            normal = generator.choice(even, count - faulty, replace=False)
            faults = generator.choice(bad, faulty, replace=False)
            batches.append((f"{count} with {faulty}", normal, faults))
    return batches


def take(features: BatchFeatures, images: NDArray[np.int64]) -> BatchFeatures:
    """The features of the images with these indices, in this order."""
    index = images.tolist()
    return replace(
        features,
        tokens=tuple(layer[index] for layer in features.tokens),
        cls_tokens=None if features.cls_tokens is None else features.cls_tokens[index],
        names=tuple(features.names[i] for i in index),
        sources=tuple(range(len(index))),
        sizes=tuple(features.sizes[i] for i in index),
    )


if __name__ == "__main__":
    main()
