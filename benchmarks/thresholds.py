"""The label-free threshold rules on real scores: F1 beside the best possible, and false alarms.

    python benchmarks/thresholds.py --data DATA --cache features/

Each set is scored once as a whole and once with its good images alone. The rules then see raw image
scores of random sub-batches: N images of which a share is defective. The best possible F1 uses the
labels of the same sub-batch. For sub-batches of good images the share of flagged images is given.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from common import SHARED, write_json
from musc_fast import MuSc
from musc_fast.datasets.layouts import load_mvtec
from musc_fast.feature_cache import extract_cached
from musc_fast.metrics import image_metrics
from musc_fast.progress import stage_bars
from musc_fast.threshold import RULES, find_threshold

SUB_BATCHES = ((20, 0.05), (20, 0.2), (40, 0.05), (40, 0.2), (40, 0.4), (60, 0.4))


def main() -> None:
    """Score the sets, draw sub-batches, print one row a set, size and share."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=SHARED / "data", help="folder of the sets")
    parser.add_argument("--sets", nargs="+", default=["mpdd_metal_plate", "kolektorsdd"])
    parser.add_argument("--backbone", default="dinov2-vit-s-14")
    parser.add_argument("--draws", type=int, default=100)
    parser.add_argument("--cache", type=Path, help="keep features here")
    parser.add_argument("--json", type=Path, help="write the result here")
    arguments = parser.parse_args()

    musc = MuSc(arguments.backbone)
    results: list[dict[str, Any]] = []
    for name in arguments.sets:
        whole, good, labels = raw_scores(musc, arguments.data / name, arguments.cache)
        results += rows(name, whole, good, labels, arguments.draws)
    table = Table(title=f"F1 of label-free thresholds, {arguments.backbone}")
    for heading in ("set", "images", "defective", "best possible", *RULES):
        table.add_column(heading)
    for row in results:
        table.add_row(
            row["set"], str(row["images"]), str(row["defective"]),
            "" if row["best"] is None else f"{row['best']:.2f}",
            *(
                f"{row[rule]:.3f} flagged" if row["best"] is None else f"{row[rule]:.2f}"
                for rule in RULES
            ),
        )  # fmt: skip
    Console(width=140).print(table)
    if arguments.json is not None:
        write_json(arguments.json, {k: str(v) for k, v in vars(arguments).items()}, results)


def raw_scores(musc: MuSc, root: Path, cache: Path | None) -> tuple[Any, Any, Any]:
    """Raw image scores of the whole set, of its good images scored alone, and the labels."""
    samples = load_mvtec(root)[0].samples
    labels = np.array([sample.label is True for sample in samples])
    with stage_bars() as report:
        features = extract_cached(musc, [s.image for s in samples], cache, progress=report)
        whole = musc.score_features(features, progress=report).raw_image_scores.numpy()
        good = [s.image for s in samples if not s.label]
        features = extract_cached(musc, good, cache, progress=report)
        alone = musc.score_features(features, progress=report).raw_image_scores.numpy()
    return whole, alone, labels


def rows(name: str, whole: Any, good: Any, labels: Any, draws: int) -> list[dict[str, Any]]:
    found = [
        row(name, [whole], [labels]),
        row(name, [good], [np.zeros(len(good), dtype=bool)]),
    ]
    generator = np.random.default_rng(0)
    for n, share in SUB_BATCHES:
        defects = max(1, round(n * share))
        batches = [
            np.concatenate([
                generator.choice(np.flatnonzero(~labels), n - defects, replace=False),
                generator.choice(np.flatnonzero(labels), defects, replace=False),
            ])
            for _ in range(draws)
            if n - defects <= (~labels).sum() and defects <= labels.sum()
        ]  # fmt: skip
        if batches:
            found.append(row(name, [whole[b] for b in batches], [labels[b] for b in batches]))
    for n in (20, 30):
        batches = [generator.choice(len(good), n, replace=False) for _ in range(draws)]
        found.append(row(name, [good[b] for b in batches], [np.zeros(n, dtype=bool)] * draws))
    return found


def row(name: str, scores: list[Any], labels: list[Any]) -> dict[str, Any]:
    """Mean F1 of each rule, or for good images the share of images that are flagged."""
    normal = not labels[0].any()
    pairs = list(zip(scores, labels, strict=True))
    best = None if normal else float(np.mean([image_metrics(y, x).f1_max for x, y in pairs]))
    values = {}
    for rule in RULES:
        flags = [find_threshold(x, rule=rule).flagged for x, _ in pairs]
        each = [
            float(flag.mean()) if normal else 2 * (flag & y).sum() / max(1, flag.sum() + y.sum())
            for flag, (_, y) in zip(flags, pairs, strict=True)
        ]
        values[rule] = float(np.mean(each))
    return {
        "set": name, "images": len(scores[0]), "batches": len(scores),
        "defective": int(labels[0].sum()), "best": best, **values,
    }  # fmt: skip


if __name__ == "__main__":
    main()
