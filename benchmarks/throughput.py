"""Images per second from image files to anomaly maps, by stage.

    python benchmarks/throughput.py --backbone dinov2-vit-s-14 --n 48 --size 392

Stages: reading (decode, resize), backbone, LNAMD, MSM, maps (upsampling, image scores, RsCIN).
Before any speed, patch scores on a sub-batch are compared with the fp64 reference. What the job
needs at least: MSM does 2 N (N-1) P^2 C operations a layer and degree (half of them by pair
symmetry), LNAMD reads and writes 4 N P C bytes a layer and degree.
"""

from __future__ import annotations

import checkout  # noqa: F401  # isort: skip
import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from _inputs import OFFICIAL
from common import Timing, described, peak_memory, synchronise, write_json
from musc_fast import MuSc, ops, reference
from musc_fast.backends import resolve
from musc_fast.checks import PRECISIONS
from musc_fast.datasets.images import find_images, read_image
from musc_fast.datasets.sample.draw import draw_sample
from musc_fast.features.extraction import BatchFeatures
from musc_fast.scoring import score_batch


def main() -> None:
    """Measure, print a table, write JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backbone", default="dinov2-vit-s-14")
    parser.add_argument("--n", type=int, default=48, help="images (default 48)")
    parser.add_argument("--size", type=int, help="image side (default: the backbone's own)")
    parser.add_argument("--images", type=Path, help="folder of images (default: the drawn sample)")
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--precision", default="exact", choices=PRECISIONS)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--official", action="store_true", help="the official loops too (CPU)")
    parser.add_argument("--json", type=Path, help="write the result here")
    arguments = parser.parse_args()

    musc = MuSc(
        arguments.backbone,
        image_size=arguments.size,
        device=arguments.device,
        batch_size=arguments.batch_size,
        backend=arguments.backend,
        precision=arguments.precision,
    )
    with tempfile.TemporaryDirectory() as folder:
        paths = _images(arguments.images, arguments.n, Path(folder))
        features = musc.extract(paths)
        error = parity(musc, features)
        stages = []
        for _ in range(arguments.runs):
            stages.append(stage_seconds(musc, paths))
            stages[-1]["score_batch"] = scoring_seconds(musc, features)
            if arguments.official:
                stages[-1].update(official_seconds(musc, features))
    timings = {name: Timing(tuple(run[name] for run in stages)) for name in stages[0]}
    report(musc, features, timings, error, arguments)


def _images(folder: Path | None, n: int, scratch: Path) -> list[Path]:
    if folder is None:
        return [s.path for s in draw_sample(scratch, count=n, defects=max(1, n // 4))]
    paths = find_images([folder])
    return [paths[k % len(paths)] for k in range(n)]


def parity(musc: MuSc, features: BatchFeatures, images: int = 4) -> float:
    """Largest difference of patch scores from the fp64 reference on the first images."""
    tokens = [t[:images, musc.backbone.prefix_tokens :] for t in features.tokens]
    settings = {**musc.settings, "backend": "reference", "precision": "exact"}
    found = score_batch(tokens, grid=musc.backbone.grid, **musc.settings)
    wanted = score_batch(tokens, grid=musc.backbone.grid, **settings)
    error = float((found.patch_scores - wanted.patch_scores).abs().max())
    if musc.settings["precision"] == "exact" and error > 1e-5:
        raise SystemExit(f"parity failed: patch scores differ by {error:.1e}; no speed is reported")
    return error


def stage_seconds(musc: MuSc, paths: list[Path]) -> dict[str, float]:
    """One full run, stage after stage without overlap, then end to end as `MuSc.score` does it."""
    seconds: dict[str, float] = {}

    def timed(name: str, start: float) -> float:
        synchronise()
        now = time.perf_counter()
        seconds[name] = seconds.get(name, 0.0) + now - start
        return now

    backbone, settings = musc.backbone, musc.settings
    backend = settings["backend"]
    now = time.perf_counter()
    pixels = [backbone.preprocess(read_image(path)) for path in paths]
    now = timed("reading", now)
    parts = [
        backbone.extract(torch.stack(pixels[k : k + musc.extractor.batch_size]))
        for k in range(0, len(pixels), musc.extractor.batch_size)
    ]
    layers = [torch.cat(layer) for layer in zip(*(part.tokens for part in parts), strict=True)]
    now = timed("backbone", now)
    total = torch.zeros(layers[0].shape[0], backbone.grid[0] * backbone.grid[1])
    for layer in layers:
        patches = layer[:, backbone.prefix_tokens :]
        pooled = ops.lnamd_all(patches, backbone.grid, settings["degrees"], backend=backend)
        now = timed("LNAMD", now)
        for z in pooled:
            total += ops.msm(
                z, None, settings["topmin"], backend=backend, precision=settings["precision"]
            ).cpu()
        now = timed("MSM", now)
    maps = reference.upsample(total.reshape(-1, *backbone.grid), backbone.image_size)
    raw = maps.flatten(1).amax(1)
    if parts[0].cls_tokens is not None:
        ops.rscin(raw, torch.cat([p.cls_tokens for p in parts if p.cls_tokens is not None]).cpu())
    now = timed("maps", now)
    musc.score(paths)
    timed("end to end", now)
    return seconds


def patch_tokens(musc: MuSc, features: BatchFeatures) -> list[torch.Tensor]:
    return [layer[:, musc.backbone.prefix_tokens :] for layer in features.tokens]


def scoring_seconds(musc: MuSc, features: BatchFeatures) -> float:
    """`score_batch` alone: tokens in, maps and image scores out."""
    tokens = patch_tokens(musc, features)
    start = time.perf_counter()
    score_batch(
        tokens,
        cls_tokens=features.cls_tokens,
        grid=musc.backbone.grid,
        image_size=musc.backbone.image_size,
        **musc.settings,
    )
    synchronise()
    return time.perf_counter() - start


def official_seconds(musc: MuSc, features: BatchFeatures) -> dict[str, float]:
    """The official MSM of every layer and degree, one query image each, times their number."""
    seconds = dict.fromkeys(OFFICIAL, 0.0)
    for layer in patch_tokens(musc, features):
        for z in ops.lnamd_all(layer, musc.backbone.grid, musc.settings["degrees"]):
            for name, call in OFFICIAL.items():
                start = time.perf_counter()
                call(z, len(z) // 2, max(1, int(0.3 * (len(z) - 1))))
                seconds[name] += (time.perf_counter() - start) * len(z)
    return {f"{name}, MSM alone": value for name, value in seconds.items()}


def report(
    musc: MuSc,
    features: BatchFeatures,
    timings: dict[str, Timing],
    error: float,
    arguments: argparse.Namespace,
) -> None:
    n, p = len(features.names), musc.backbone.grid[0] * musc.backbone.grid[1]
    c = features.tokens[0].shape[2]
    steps = len(features.tokens) * len(musc.settings["degrees"])
    work = 2 * n * (n - 1) * p * p * c * steps
    backend = resolve(arguments.backend, musc.backbone.device).name
    table = Table(
        title=f"{arguments.backbone}, N = {n}, P = {p}, C = {c}, {steps} layer-degrees, backend "
        f"{backend}, {arguments.precision} (max error {error:.1e})"
    )
    for heading in ("stage", "seconds", "images/s", "share", "effective GFLOP/s"):
        table.add_column(heading, justify="left" if heading == "stage" else "right")
    whole = timings["end to end"].median
    results: list[dict[str, Any]] = []
    for name, timing in timings.items():
        rate = work / timing.median / 1e9 if "MSM" in name else None
        table.add_row(
            name,
            str(timing),
            f"{n / timing.median:.2f}",
            f"{100 * timing.median / whole:.0f}%",
            "" if rate is None else f"{rate:.0f}",
        )
        results.append(
            {
                "stage": name,
                "median_s": timing.median,
                "runs_s": timing.seconds,
                "images_per_s": n / timing.median,
                "effective_gflops": rate,
            }
        )
    official = [timing.median for name, timing in timings.items() if name.startswith("official")]
    if official:
        ratio = min(official) / timings["score_batch"].median
        table.caption = f"score_batch is {ratio:.1f} times as fast as the better official MSM alone"
    memory = peak_memory()
    console = Console()
    console.print(table)
    console.print(", ".join(f"{name} {value:.2f}" for name, value in memory.items()))
    if arguments.json is not None:
        settings = {
            **described(arguments),
            "image_size": musc.backbone.image_size,
            "weights": musc.backbone.source,
            "shape": {"N": n, "P": p, "C": c, "steps": steps},
            "max_error": error,
            **memory,
        }
        write_json(arguments.json, settings, results)


if __name__ == "__main__":
    main()
