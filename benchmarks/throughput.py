"""Images per second from image files to anomaly maps, by stage.

    python benchmarks/throughput.py --backbone dinov2-vit-s-14 --n 48 --size 392

Stages: reading (decode, resize), backbone, LNAMD, MSM, maps (upsampling, image scores, RsCIN).
Before any speed, patch scores on a sub-batch are compared with the fp64 reference. What the job
needs at least: MSM does 2 N (N-1) P^2 C operations a layer and degree (half of them by pair
symmetry), LNAMD reads and writes 4 N P C bytes a layer and degree.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from lib.drawn_images import draw_images
from lib.official import OFFICIAL, count_lowest, mean_of_lowest
from lib.program import add_json, make_parser
from lib.results import peak_memory, settings_of, write_results
from lib.timing import Timing, seconds_of, synchronise
from musc_fast import MuSc, ops, reference
from musc_fast.backends import resolve
from musc_fast.datasets.find_images import find_images
from musc_fast.datasets.read_images import read_image
from musc_fast.features.extraction import BatchFeatures
from musc_fast.scoring import score_batch
from musc_fast.settings import PRECISIONS


def main() -> None:
    """Measure, print a table, write JSON."""
    arguments = parse_arguments()
    with tempfile.TemporaryDirectory() as folder:
        batches = image_batches(arguments.images, arguments.n, Path(folder))
        musc = MuSc(
            arguments.backbone,
            image_size=arguments.size,
            weights=arguments.weights,
            device=arguments.device,
            recipe=arguments.recipe,
            engine=arguments.engine,
            feature_precision=arguments.feature_precision,
            batch_size=arguments.batch_size,
            backend=arguments.backend,
            precision=arguments.precision,
        )
        rows: list[dict[str, Any]] = []
        batch_settings: list[dict[str, Any]] = []
        for paths in batches:
            found, facts = measure(musc, paths, arguments.runs, official=arguments.official)
            rows += found
            batch_settings.append(facts)
            settings = {
                **settings_of(arguments),
                "image_size": musc.backbone.image_size,
                "weights": musc.backbone.source,
                "engine": musc.backbone.engine,
                "feature_precision": musc.backbone.precision,
                "batches": batch_settings,
                **peak_memory(),
            }
            write_results(arguments.json, settings, rows)  # after each batch: a cut leaves some


def measure(
    musc: MuSc, paths: list[Path], runs: int, *, official: bool
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Measure a batch and print a table; its rows, and its shape and largest error."""
    features = musc.extract(paths)
    error = parity(musc, features)
    stages = []
    for _ in range(runs):
        stages.append(stage_seconds(musc, paths))
        stages[-1]["score_batch"] = scoring_seconds(musc, features)
        if official:
            stages[-1].update(official_seconds(musc, features))
    timings = {name: Timing(tuple(run[name] for run in stages)) for name in stages[0]}
    shape = shape_of(musc, features)
    rows = make_rows(timings, shape)
    backend = resolve(musc.settings.backend, musc.backbone.device).name
    title = f"{musc.backbone.spec.name}, N = {shape['N']}, P = {shape['P']}, C = {shape['C']}, "
    title += f"{shape['steps']} layer-degrees, backend {backend}, {musc.settings.precision} "
    title += f"(max error {error:.1e})"
    console = Console()
    console.print(make_table(title, timings, rows))
    console.print(", ".join(f"{name} {value:.2f}" for name, value in peak_memory().items()))
    return rows, {"shape": shape, "max_error": error}


def parse_arguments() -> argparse.Namespace:
    parser = make_parser(__doc__)
    parser.add_argument("--backbone", default="dinov2-vit-s-14")
    parser.add_argument("--weights", type=Path, help="a local weight file")
    parser.add_argument(
        "--n", type=int, nargs="+", default=[48], help="images, of one batch or more (default 48)"
    )
    parser.add_argument("--size", type=int, help="image side (default: the backbone's own)")
    parser.add_argument("--images", type=Path, help="folder of images (default: the drawn sample)")
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--precision", default="exact", choices=PRECISIONS)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--recipe", default="paper")
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--feature-precision", default="auto")
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--official", action="store_true", help="the official loops too (CPU)")
    add_json(parser)
    return parser.parse_args()


def image_batches(folder: Path | None, counts: list[int], scratch: Path) -> list[list[Path]]:
    """For each count that many images of a folder, repeated where it has fewer.

    Without a folder they are those of the drawn sample, drawn below `scratch`.
    """
    if folder is None:
        drawing = draw_images(scratch, counts)
        return [drawing.first(n) for n in counts]
    paths = find_images([folder])
    return [[paths[k % len(paths)] for k in range(n)] for n in counts]


def parity(musc: MuSc, features: BatchFeatures, images: int = 4) -> float:
    """Largest difference of patch scores from the fp64 reference on the first images."""
    tokens = [t[:images, musc.backbone.prefix_tokens :] for t in features.tokens]
    truth = replace(musc.settings, backend="reference", precision="exact")
    ours = score_batch(tokens, grid=musc.backbone.grid, **musc.settings.keywords())
    exact = score_batch(tokens, grid=musc.backbone.grid, **truth.keywords())
    error = float((ours.patch_scores - exact.patch_scores).abs().max())
    if musc.settings.precision == "exact" and error > 1e-5:
        raise SystemExit(f"parity failed: patch scores differ by {error:.1e}; no speed is reported")
    return error


def stage_seconds(musc: MuSc, paths: list[Path]) -> dict[str, float]:
    """Seconds of each stage without overlap, then of a whole `MuSc.score`, whose stages overlap."""
    seconds: dict[str, float] = {}

    def add(name: str, start: float) -> float:
        synchronise()
        now = time.perf_counter()
        seconds[name] = seconds.get(name, 0.0) + now - start
        return now

    backbone, settings = musc.backbone, musc.settings
    backend = settings.backend
    now = time.perf_counter()
    pixels = [backbone.preprocess(read_image(path)) for path in paths]
    now = add("reading", now)
    parts = [
        backbone.extract(
            torch.stack(pixels[k : k + musc.extractor.batch_size]), cls=musc.extractor.cls
        )
        for k in range(0, len(pixels), musc.extractor.batch_size)
    ]
    layers = [torch.cat(layer) for layer in zip(*(part.tokens for part in parts), strict=True)]
    now = add("backbone", now)
    total = torch.zeros(layers[0].shape[0], backbone.grid[0] * backbone.grid[1])
    for layer in layers:
        patches = layer[:, backbone.prefix_tokens :]
        pooled = ops.lnamd_all(patches, backbone.grid, settings.degrees, backend=backend)
        if settings.degree_fusion == "features":
            pooled = [reference.fuse_degrees(pooled)]
        now = add("LNAMD", now)
        for z in pooled:
            total += ops.msm(
                z, None, settings.topmin, backend=backend, precision=settings.precision
            ).cpu()
        now = add("MSM", now)
    maps = reference.upsample(total.reshape(-1, *backbone.grid), backbone.image_size)
    raw = maps.flatten(1).amax(1)
    if parts[0].cls_tokens is not None:
        ops.rscin(raw, torch.cat([p.cls_tokens for p in parts if p.cls_tokens is not None]).cpu())
    now = add("maps", now)
    musc.score(paths)
    add("end to end", now)
    return seconds


def patch_tokens(musc: MuSc, features: BatchFeatures) -> list[torch.Tensor]:
    """Tokens [N, P, C] of each layer without the prefix tokens."""
    return [layer[:, musc.backbone.prefix_tokens :] for layer in features.tokens]


def scoring_seconds(musc: MuSc, features: BatchFeatures) -> float:
    """`score_batch` alone: tokens in, maps and image scores out."""
    tokens = patch_tokens(musc, features)
    return seconds_of(
        lambda: score_batch(
            tokens,
            cls_tokens=features.cls_tokens,
            grid=musc.backbone.grid,
            image_size=musc.backbone.image_size,
            **musc.settings.keywords(),
        )
    )


def official_seconds(musc: MuSc, features: BatchFeatures) -> dict[str, float]:
    """Seconds of the official MSM: one query image of each layer and degree, times N."""
    seconds = dict.fromkeys(OFFICIAL, 0.0)
    for layer in patch_tokens(musc, features):
        for z in ops.lnamd_all(layer, musc.backbone.grid, musc.settings.degrees):
            for name, call in OFFICIAL.items():
                start = time.perf_counter()
                mean_of_lowest(call(z, len(z) // 2), count_lowest(len(z) - 1))
                seconds[name] += (time.perf_counter() - start) * len(z)
    return {f"{name}, MSM alone": value for name, value in seconds.items()}


def shape_of(musc: MuSc, features: BatchFeatures) -> dict[str, int]:
    """N images, P patches, C channels, and how often they are scored (layers times degrees)."""
    return {
        "N": len(features.names),
        "P": musc.backbone.grid[0] * musc.backbone.grid[1],
        "C": features.tokens[0].shape[2],
        "steps": len(features.tokens) * musc.settings.searches_a_layer,
    }


def make_rows(timings: dict[str, Timing], shape: dict[str, int]) -> list[dict[str, Any]]:
    """For each stage its seconds and rates; stages of MSM have a rate of operations too."""
    n, p, c, steps = shape.values()
    work = 2 * n * (n - 1) * p * p * c * steps
    return [
        {
            "images": n,
            "stage": name,
            "median_s": timing.median,
            "runs_s": timing.seconds,
            "images_per_s": n / timing.median,
            "effective_gflops": work / timing.median / 1e9 if "MSM" in name else None,
        }
        for name, timing in timings.items()
    ]


def make_table(title: str, timings: dict[str, Timing], rows: list[dict[str, Any]]) -> Table:
    """The rows, each with its share of the time from end to end."""
    table = Table(title=title)
    for heading in ("stage", "seconds", "images/s", "share", "effective GFLOP/s"):
        table.add_column(heading, justify="left" if heading == "stage" else "right")
    whole = timings["end to end"].median
    for row in rows:
        rate = row["effective_gflops"]
        table.add_row(
            row["stage"],
            str(timings[row["stage"]]),
            f"{row['images_per_s']:.2f}",
            f"{100 * row['median_s'] / whole:.0f}%",
            "" if rate is None else f"{rate:.0f}",
        )
    official = [timing.median for name, timing in timings.items() if name.startswith("official")]
    if official:
        ratio = min(official) / timings["score_batch"].median
        table.caption = f"score_batch is {ratio:.1f} times as fast as the better official MSM alone"
    return table


if __name__ == "__main__":
    main()
