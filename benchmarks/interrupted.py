"""A long run that is killed on the way: the same bits, within a limit of memory, on real features.

    python benchmarks/interrupted.py [--images 2000] [--extracted 240] [--memory 2e9]

The features are those of the default recipe for DINOv2 ViT-S/14 at 392 (P = 784, C = 384, one
search) of metal plates of shared/data and of their mirror images. Where more are wanted than
`--extracted`, the features of those are turned by quarter turns and moved round on the grid of
patches, which is nearly, not exactly, what the backbone gives for a turned picture.

One run is left alone; another with a checkpoint is killed after a third and after two thirds of its
work, and goes on each time. `--memory` bounds the whole process: what lies in no file (RssAnon),
sampled at every report of progress, the import of torch included. Beside other work only the CPU
seconds count. What the job needs at least:
N (N-1) P^2 C operations (half of all, by pair symmetry).
"""

from __future__ import annotations

import argparse
import hashlib
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from numpy.lib.format import open_memmap
from rich.console import Console
from rich.table import Table
from torch import Tensor

from lib.program import add_json, make_parser
from lib.real_images import backbone_tokens
from lib.results import anonymous_bytes, settings_of, write_results
from musc_fast import score_batch
from musc_fast.recipes import DEFAULT_RECIPE, get_recipe

NAME, SIZE = "dinov2-vit-s-14", 392
KILLS = (1 / 3, 2 / 3)  # of the work


def main() -> None:
    """Measure, print a table, write JSON."""
    parser = make_parser(__doc__)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--extracted", type=int, default=240, help="images that the backbone sees")
    parser.add_argument("--size", type=int, default=SIZE, help=f"image side (default {SIZE})")
    parser.add_argument("--memory", type=float, default=2e9, help="bytes (default 2e9)")
    add_json(parser)
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        score_file(Path(arguments.one[0]), int(arguments.memory), *arguments.one[1:])
        return
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "tokens.npy"
        shape = write_tokens(file, arguments.images, arguments.extracted, arguments.size)
        rows = [
            run("left alone", file, arguments.memory, ()),
            run("killed twice", file, arguments.memory, KILLS),
        ]
    table = Table(title=f"{shape[0]} images of {shape[1]} x {shape[2]}, recipe {DEFAULT_RECIPE}")
    for heading in (
        "run",
        "killed at",
        "seconds",
        "of CPU",
        "GFLOP/s",
        "memory",
        "SHA-256 of the scores",
    ):
        table.add_column(heading, justify="right")
    for row in rows:
        row["gflops"] = 2.0 * shape[0] * (shape[0] - 1) * shape[1] ** 2 * shape[2]
        row["gflops"] /= sum(row["seconds"]) * 1e9
        table.add_row(
            row["run"],
            ", ".join(f"{share:.0%}" for share in row["killed_at"]),
            " + ".join(f"{seconds:.1f}" for seconds in row["seconds"]),
            f"{row['cpu_seconds']:.1f}",
            f"{row['gflops']:.0f}",
            f"{row['memory'] / 1e6:.0f} MB",
            row["digest"][:16],
        )
    Console(width=120).print(table)
    if len({row["digest"] for row in rows}) != 1:
        raise SystemExit("the killed run has other scores")
    if max(row["memory"] for row in rows) > arguments.memory:
        raise SystemExit("more memory was taken than the limit allows")
    settings = {**settings_of(arguments), "patches": shape[1], "channels": shape[2]}
    write_results(arguments.json, settings, rows)


def write_tokens(file: Path, images: int, extracted: int, size: int) -> tuple[int, int, int]:
    """Write a file of tokens [N, P, C] and return its shape."""
    (block,) = get_recipe(DEFAULT_RECIPE).choice(NAME).blocks
    found = backbone_tokens(NAME, size, [block], min(images, extracted), mirrored=True)
    if found is None:
        raise SystemExit(f"shared/data has fewer pictures than {extracted} mirror images need")
    (tokens,), grid = found
    shape = (images, *tokens.shape[1:])
    array = open_memmap(file, mode="w+", dtype=np.float32, shape=shape)
    for place, view in zip(range(images), views(tokens, grid), strict=False):
        array[place] = view.numpy()
    array.flush()
    return shape


def views(tokens: Tensor, grid: tuple[int, int]) -> Iterator[Tensor]:
    """The tokens [P, C] of each image, then without end those turned and moved on the grid."""
    turn = 0
    while True:
        for image in tokens.unflatten(1, grid):
            turned = torch.rot90(image, turn % 4).roll((turn // 4 * 5, turn // 4 * 3), (0, 1))
            yield turned.flatten(0, 1)
        turn += 1


def run(name: str, file: Path, memory: float, kills: tuple[float, ...]) -> dict[str, Any]:
    """Score a token file in processes of their own: a row of the table."""
    checkpoint = str(file.with_name("checkpoint")) if kills else ""
    result = file.with_name("result")
    line = [sys.executable, __file__, "--memory", str(memory), "--one", str(file), checkpoint]
    seconds, most, killed = [], 0, []
    before = cpu_seconds()
    for limit in (*kills, None):
        start = perf_counter()
        share = 0.0
        with subprocess.Popen([*line, str(result)], stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            for report in process.stdout:
                share, taken = float(report.split()[0]), int(report.split()[1])
                most = max(most, taken)
                print(f"{name}: {share:.0%} done", end="\r", file=sys.stderr)
                if limit is not None and share >= limit:
                    process.kill()
                    killed.append(share)
                    break
        seconds.append(perf_counter() - start)
        if limit is None and process.returncode != 0:
            raise SystemExit(f"the run {name!r} failed")
    return {
        "run": name,
        "killed_at": killed,
        "seconds": seconds,
        "cpu_seconds": cpu_seconds() - before,
        "memory": most,
        "digest": result.read_text(encoding="ascii"),
    }


def cpu_seconds() -> float:
    """What the processes that were waited for have taken, on all cores together."""
    taken = resource.getrusage(resource.RUSAGE_CHILDREN)
    return taken.ru_utime + taken.ru_stime


def score_file(file: Path, memory: int, checkpoint: str, result: str) -> None:
    """Score a token file; print a line of the share done and the bytes taken at each report.

    memory: bytes for the whole process.
    result: a file for the digest of the patch scores.
    """
    recipe = get_recipe(DEFAULT_RECIPE)
    score_batch(torch.randn(3, 16, 8))  # loads libraries and starts threads

    def tell(done: int, total: int) -> None:
        print(done / total, anonymous_bytes(), flush=True)

    scores = score_batch(
        [file],
        degrees=recipe.degrees,
        degree_fusion=recipe.degree_fusion,
        memory_limit=memory - anonymous_bytes(),
        checkpoint=checkpoint or None,
        progress=tell,
    )
    digest = hashlib.sha256(scores.patch_scores.numpy().tobytes()).hexdigest()
    Path(result).write_text(digest, encoding="ascii")


if __name__ == "__main__":
    main()
