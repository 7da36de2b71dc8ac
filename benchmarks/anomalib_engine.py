"""MuSc inside anomalib's Engine beside musc_fast's own figures on the same images.

    pip install '.[anomalib]'
    python benchmarks/anomalib_engine.py [--sets drawn mpdd_metal_plate] [--each 40] [--size 392]

The sets are the demo's drawing and sets of real images, laid out as MVTec AD: half of the good
images in train/good, the others and the defects in test. Zero-shot, the figures of `Engine.test`
by anomalib's metrics stand beside those of `musc-fast evaluate`; with a bank, beside
`MuSc.score(test, references=train)`, measured by `musc_fast.metrics`. Backbone, size and recipe are
the defaults of both.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from importlib import metadata
from pathlib import Path
from time import perf_counter
from typing import Any

from rich.console import Console
from rich.table import Table

from lib.labelled_sets import SETS, choose_samples, labels_of, masks_of
from lib.program import add_data, add_json, make_parser, require_data
from lib.results import settings_of, write_results
from musc_fast import MuSc
from musc_fast.datasets.layouts import load_mvtec
from musc_fast.datasets.sample import draw_sample
from musc_fast.metrics import image_metrics, pixel_metrics
from musc_fast.runs.evaluate import evaluate_category

DRAWN = "drawn"
FIGURES = ("image_auroc", "image_ap", "pixel_auroc", "pixel_ap")


def main() -> None:
    """Run both ways on each set, print a table, write JSON."""
    parser = make_parser(__doc__)
    add_data(parser, [DRAWN, SETS[0]])
    parser.add_argument("--each", type=int, default=40, help="good images, and defects, at most")
    parser.add_argument("--size", type=int, default=392)
    add_json(parser)
    arguments = parser.parse_args()
    if set(arguments.sets) != {DRAWN}:
        require_data(arguments.data)
    try:
        version = metadata.version("anomalib")
    except metadata.PackageNotFoundError:
        raise SystemExit("anomalib is not installed; pip install '.[anomalib]'") from None
    rows: list[dict[str, Any]] = []
    for name in arguments.sets:
        with tempfile.TemporaryDirectory() as folder:
            lay_out(Path(folder), name, arguments)
            rows += compare(Path(folder), name, arguments.size)
        Console(width=120).print(table_of(rows, f"anomalib {version}"))
        # After each set: a cut leaves some.
        write_results(arguments.json, {**settings_of(arguments), "anomalib": version}, rows)


def lay_out(folder: Path, name: str, arguments: argparse.Namespace) -> None:
    """Copy the images of a set to folder/name as MVTec AD has them; anomalib follows no links."""
    if name == DRAWN:
        source = folder / "drawing"
        draw_sample(source)
    else:
        source = arguments.data / name
    samples = choose_samples(source, arguments.each)
    good = sorted(sample.image for sample in samples if not sample.label)
    half = len(good) // 2
    root = folder / name
    (root / "ground_truth").mkdir(parents=True)
    for place, image in enumerate(good):
        copy(root / ("train" if place < half else "test") / "good" / image.name, image)
    for sample in samples:
        if sample.label:
            kind = sample.image.parent.name
            copy(root / "test" / kind / sample.image.name, sample.image)
            for mask in sample.mask_files:
                copy(root / "ground_truth" / kind / mask.name, mask)


def copy(place: Path, file: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(file, place)


def compare(folder: Path, name: str, size: int) -> list[dict[str, Any]]:
    """Figures of one set: zero-shot and against a bank, by both."""
    musc = MuSc(image_size=size)
    category = next(each for each in load_mvtec(folder / name))
    found = evaluate_category(musc, category)["metrics"]
    names = ("image_auroc", "image_ap", "pixel_auroc", "pixel_ap")
    own = {figure: found[key] for figure, key in zip(FIGURES, names, strict=True)}
    train = sorted((folder / name / "train" / "good").iterdir())
    scores = musc.score([sample.image for sample in category.samples], references=train)
    labels = labels_of(list(category.samples))
    masks = masks_of(list(category.samples), musc.backbone.image_size)
    image = image_metrics(labels, scores.image_scores.numpy())
    pixel = pixel_metrics(masks, scores.anomaly_maps.numpy(), pro=False)
    bank = dict(zip(FIGURES, (image.auroc, image.ap, pixel.auroc, pixel.ap), strict=True))
    rows = []
    for zero_shot, figures in ((True, own), (False, bank)):
        way = "zero-shot" if zero_shot else "bank"
        rows.append({"set": name, "way": way, "by": "musc_fast", **figures})
        found = engine(folder, name, size, zero_shot)
        rows.append({"set": name, "way": way, "by": "anomalib", **found})
    return rows


def engine(folder: Path, name: str, size: int, zero_shot: bool) -> dict[str, Any]:
    """The figures of anomalib's Engine, its metrics and its data module."""
    from anomalib.data import MVTecAD
    from anomalib.engine import Engine
    from anomalib.metrics import AUPR, AUROC, Evaluator

    from musc_fast.anomalib import MuSc as Model

    image, pixel = ["pred_score", "gt_label"], ["anomaly_map", "gt_mask"]
    metrics = [
        AUROC(fields=image, prefix="image_"),
        AUPR(fields=image, prefix="image_"),
        AUROC(fields=pixel, prefix="pixel_"),
        AUPR(fields=pixel, prefix="pixel_"),
    ]
    model = Model(image_size=size, zero_shot=zero_shot, evaluator=Evaluator(test_metrics=metrics))
    data = MVTecAD(folder, name, train_batch_size=4, eval_batch_size=4, num_workers=0)
    out = folder / f"out_{zero_shot}"
    trainer = Engine(accelerator="cpu", default_root_dir=out, enable_progress_bar=False)
    start = perf_counter()
    if not zero_shot:
        trainer.fit(model, datamodule=data)
    (found,) = trainer.test(model, datamodule=data, verbose=False)
    keys = ("image_AUROC", "image_AUPR", "pixel_AUROC", "pixel_AUPR")
    pictures = list(out.rglob("images/**/*.png"))
    return {
        **{figure: float(found[key]) for figure, key in zip(FIGURES, keys, strict=True)},
        "seconds": perf_counter() - start,
        "pictures": len(pictures),
        "threshold": float(model.post_processor.image_threshold),
    }


def table_of(rows: list[dict[str, Any]], title: str) -> Table:
    table = Table(title=title)
    for heading in ("set", "way", "by", *FIGURES):
        table.add_column(heading.replace("_", " "))
    for row in rows:
        table.add_row(
            row["set"], row["way"], row["by"], *(f"{row[figure]:.6f}" for figure in FIGURES)
        )
    return table


if __name__ == "__main__":
    main()
