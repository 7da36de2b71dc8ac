"""Beside AnomalyDINO of anomalib: images per second from files to maps, and what is found.

    pip install '.[anomalib]'
    python benchmarks/anomaly_dino.py [--each 24] [--size 392] [--runs 3]

Both have the same DINOv2 ViT-S/14 weights, size and images: `--each` good images to fit, and as
many to predict, half of them defective. anomalib runs in its own Engine with its defaults (masking
and coreset off), without its visualiser, evaluator and post-processor, which would cost it time;
the weights are handed in, so that nothing is fetched. musc_fast scores the same images against the
same good ones (`MuSc.score(..., references=...)`, the default recipe). Seconds are of fitting and
predicting, image files to maps in memory, without imports and loading weights. The two take turns,
each in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from time import perf_counter
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from lib.labelled_sets import EACH, SETS, choose_samples, labels_of, masks_of
from lib.program import add_data, add_json, make_parser, require_data
from lib.results import settings_of, write_results
from lib.timing import Timing
from musc_fast import MuSc
from musc_fast.datasets.layouts import Sample
from musc_fast.features import get_spec
from musc_fast.features.towers import build_tower
from musc_fast.features.weights.find import find_weights
from musc_fast.metrics import image_metrics, pixel_metrics

NAME, ENCODER = "dinov2-vit-s-14", "vit_small_patch14_dinov2"
CODES = ("musc_fast", "anomalib")
# Wall and CPU seconds, image scores [N], maps [N, h, w].
Found = tuple[float, float, NDArray[np.float64], NDArray[np.float32]]


def main() -> None:
    """Run both codes in turns, print a table, write JSON."""
    parser = make_parser(__doc__)
    add_data(parser, SETS[:1])
    parser.add_argument("--each", type=int, default=EACH, help="good images, and images to predict")
    parser.add_argument("--size", type=int, default=392)
    parser.add_argument("--runs", type=int, default=3)
    add_json(parser)
    parser.add_argument("--one", choices=CODES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    require_data(arguments.data)
    if arguments.one:
        measure(arguments)
        return
    try:
        version = metadata.version("anomalib")
    except metadata.PackageNotFoundError:
        raise SystemExit("anomalib is not installed; pip install '.[anomalib]'") from None
    rows: list[dict[str, Any]] = []
    for name in arguments.sets:
        runs: dict[str, list[dict[str, Any]]] = {code: [] for code in CODES}
        for _ in range(arguments.runs):
            for code, found in runs.items():
                found.append(run(code, name, arguments))
        rows += [summary(code, name, found) for code, found in runs.items()]
        # After each set: a cut leaves some.
        write_results(arguments.json, {**settings_of(arguments), "anomalib": version}, rows)
    Console(width=120).print(table_of(rows, f"anomalib {version}"))


def run(code: str, name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """One code on one set, in a process of its own."""
    command = [sys.executable, __file__, "--one", code, "--sets", name]
    command += ["--data", str(arguments.data), "--each", str(arguments.each)]
    command += ["--size", str(arguments.size)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def summary(code: str, name: str, runs: list[dict[str, Any]]) -> dict[str, Any]:
    """A row of the table from the runs of one code."""
    seconds = Timing(tuple(each["seconds"] for each in runs))
    return {**runs[0], "code": code, "set": name, "runs_s": seconds.seconds} | {
        "seconds": seconds.median,
        "cpu_seconds": statistics.median(each["cpu_seconds"] for each in runs),
        "images_per_s": runs[0]["images"] / seconds.median,
    }


def table_of(rows: list[dict[str, Any]], title: str) -> Table:
    table = Table(title=title)
    for heading in ("set", "code", "seconds", "CPU s", "images/s", "image AUROC", "pixel AP"):
        table.add_column(heading)
    for row in rows:
        figures = (f"{row[key]:.4f}" for key in ("image_auroc", "pixel_ap"))
        speed = (f"{row[key]:.2f}" for key in ("seconds", "cpu_seconds", "images_per_s"))
        table.add_row(row["set"], row["code"], *speed, *figures)
    return table


def measure(arguments: argparse.Namespace) -> None:
    """Run one code on one set; print its seconds and figures as JSON."""
    (name,) = arguments.sets
    each, half = arguments.each, arguments.each // 2
    samples = choose_samples(arguments.data / name, each + half)
    good = [sample for sample in samples if not sample.label]
    if len(good) < each + half:
        raise SystemExit(f"{name} has {len(good)} good images, fewer than {each + half}")
    fit = good[:each]
    predict = good[each:] + [sample for sample in samples if sample.label][:half]
    size = (arguments.size, arguments.size)
    code = with_musc_fast if arguments.one == "musc_fast" else with_anomalib
    seconds, busy, scores, maps = code(fit, predict, size)
    labels = labels_of(predict)
    found = {
        "seconds": seconds,
        "cpu_seconds": busy,
        "images": len(fit) + len(predict),
        "image_auroc": image_metrics(labels, scores).auroc,
        "pixel_ap": pixel_metrics(masks_of(predict, size), maps).ap,
    }
    print(json.dumps(found))


def with_musc_fast(fit: list[Sample], predict: list[Sample], size: tuple[int, int]) -> Found:
    """Seconds, image scores and maps of the images to predict."""
    musc = MuSc(NAME, image_size=size)
    musc.backbone.extract(torch.zeros(1, 3, *size), cls=False)  # compiles
    start, busy = perf_counter(), cpu_seconds()
    scores = musc.score(
        [sample.image for sample in predict], references=[sample.image for sample in fit]
    )
    seconds, busy = perf_counter() - start, cpu_seconds() - busy
    return seconds, busy, scores.image_scores.double().numpy(), scores.anomaly_maps.numpy()


def with_anomalib(fit: list[Sample], predict: list[Sample], size: tuple[int, int]) -> Found:
    """The same of AnomalyDINO."""
    import timm
    from anomalib.data import Folder
    from anomalib.engine import Engine
    from anomalib.models import AnomalyDINO

    with tempfile.TemporaryDirectory() as folder:
        places = {"fit": fit, "good": predict, "bad": predict}
        for kind, samples in places.items():
            (Path(folder) / kind).mkdir()
            for place, sample in enumerate(samples):
                if kind == "fit" or bool(sample.label) is (kind == "bad"):
                    link = Path(folder) / kind / f"{place:04d}{sample.image.suffix}"
                    link.symlink_to(sample.image.resolve())
        create = timm.create_model
        with patch.object(timm, "create_model", lambda *a, **k: create(*a, **k | _UNTRAINED)):
            model = AnomalyDINO(
                encoder_name=ENCODER,
                pre_processor=AnomalyDINO.configure_pre_processor(size),
                post_processor=False,
                evaluator=False,
                visualizer=False,
            )
        model.model.feature_encoder.feature_extractor.load_state_dict(trained_state())
        data = Folder(
            name="plates",
            root=folder,
            normal_dir="fit",
            normal_test_dir="good",
            abnormal_dir="bad",
            train_batch_size=4,
            eval_batch_size=4,
            num_workers=min(4, torch.get_num_threads()),
            val_split_mode="none",
        )
        data.setup()
        engine = Engine(accelerator="cpu", logger=False, default_root_dir=Path(folder) / "out")
        start, busy = perf_counter(), cpu_seconds()
        engine.fit(model=model, train_dataloaders=data.train_dataloader())
        batches = engine.predict(model=model, dataloaders=data.test_dataloader())
        seconds, busy = perf_counter() - start, cpu_seconds() - busy
    order = [int(Path(path).stem) for batch in batches for path in batch.image_path]
    scores = torch.cat([batch.pred_score.flatten() for batch in batches]).double().numpy()
    maps = torch.cat([batch.anomaly_map.reshape(-1, *size) for batch in batches]).numpy()
    back = np.argsort(order)
    return seconds, busy, scores[back], maps[back]


def cpu_seconds() -> float:
    """CPU seconds of this process and of its children that have ended, such as loaders of data."""
    return sum(os.times()[:4])


_UNTRAINED = {"pretrained": False}


def trained_state() -> dict[str, torch.Tensor]:
    """The weights of our backbone under timm's names."""
    spec = get_spec(NAME)
    tower = build_tower(spec)
    found = find_weights(spec, tower.convert, tower.hub)
    tower.load(found.state, found.source)
    return tower.module.state_dict()


if __name__ == "__main__":
    main()
