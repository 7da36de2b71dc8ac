"""A batch larger than memory: N = 2000 images of token files, by memory_limit and checkpoint.

    python benchmarks/large.py [--images 2000] [--json benchmarks/results/large.json]

P = 196, C = 64, one degree, drawn features with a falling spectrum around one common image. Each
run is a process of its own. Its memory is what lies in no file (RssAnon), beyond the amount before
the call, sampled at every report of progress. What the job needs at least: N (N-1) P^2 C operations
(half of all, by pair symmetry).
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from lib.program import add_json, make_parser
from lib.results import anonymous_bytes, write_results
from musc_fast import score_batch

PATCHES, CHANNELS = 196, 64
RUNS = ((1e9, False), (1e8, False), (1e9, True))  # memory_limit, whether with a checkpoint


def main() -> None:
    """Measure, print a table, write JSON."""
    parser = make_parser(__doc__)
    parser.add_argument("--images", type=int, default=2000)
    add_json(parser)
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        score_file(Path(arguments.one[0]), int(arguments.one[1]), arguments.one[2])
        return
    table = Table(title=f"{arguments.images} images of {PATCHES} x {CHANNELS}")
    for heading in ("memory_limit", "checkpoint", "seconds", "GFLOP/s", "memory", "sum of scores"):
        table.add_column(heading, justify="right")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "tokens.npy"
        np.save(file, draw_batch(arguments.images))
        for limit, with_checkpoint in RUNS:
            row = run(file, arguments.images, limit, with_checkpoint)
            rows.append(row)
            table.add_row(
                f"{limit / 1e6:.0f} MB",
                "yes" if with_checkpoint else "no",
                f"{row['seconds']:.1f}",
                f"{row['gflops']:.0f}",
                f"{row['memory'] / 1e6:.0f} MB",
                repr(row["sum"]),
            )
    Console().print(table)
    if len({row["sum"] for row in rows}) != 1:
        raise SystemExit("the scores depend on memory_limit or checkpoint")
    settings = {"images": arguments.images, "patches": PATCHES, "channels": CHANNELS}
    write_results(arguments.json, settings, rows)


def draw_batch(images: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """Tokens [N, P, C] float32: a common image, differences, a falling spectrum."""
    draw = np.random.default_rng(0)
    common = draw.standard_normal((1, PATCHES, CHANNELS), dtype=np.float32)
    own = draw.standard_normal((images, PATCHES, CHANNELS), dtype=np.float32)
    spectrum = (np.arange(1, CHANNELS + 1) ** -0.6).astype(np.float32)
    tokens: np.ndarray[tuple[int, ...], np.dtype[np.float32]] = (common + 0.4 * own) * spectrum
    return tokens


def run(file: Path, images: int, limit: float, with_checkpoint: bool) -> dict[str, Any]:
    """Score a token file in a process of its own: a row of the table."""
    checkpoint = str(file.with_name("checkpoint")) if with_checkpoint else ""
    line = [sys.executable, __file__, "--one", str(file), str(int(limit)), checkpoint]
    done = subprocess.run(line, check=True, stdout=subprocess.PIPE, text=True)
    seconds, memory, total = (float(word) for word in done.stdout.split())
    flops = 2.0 * images * (images - 1) * PATCHES**2 * CHANNELS
    return {
        "memory_limit": limit,
        "checkpoint": with_checkpoint,
        "seconds": seconds,
        "gflops": flops / seconds / 1e9,
        "memory": memory,
        "sum": total,
    }


def score_file(file: Path, limit: int, checkpoint: str) -> None:
    """Print the seconds of one run, its bytes of memory and the sum of the patch scores."""
    score_batch(torch.randn(3, 16, 8))  # loads libraries and starts threads
    before, samples = anonymous_bytes(), [0]
    start = perf_counter()
    scores = score_batch(
        [file],
        degrees=(1,),
        memory_limit=limit,
        checkpoint=checkpoint or None,
        progress=lambda done, total: samples.append(anonymous_bytes()),
    )
    seconds = perf_counter() - start
    print(seconds, max(samples) - before, float(scores.patch_scores.double().sum()))


if __name__ == "__main__":
    main()
