"""A batch larger than memory: N = 2000 images of token files, by memory_limit and checkpoint.

    python benchmarks/large.py [--images 2000] [--json benchmarks/results/large.json]

P = 196, C = 64, one degree, drawn features with a falling spectrum around one common image. Each
run is a process of its own; its memory is what lies in no file (RssAnon), beyond that before the
call, looked at whenever progress is reported. What the job needs at least: N (N-1) P^2 C operations
(half of all, by pair symmetry).
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from common import write_json
from musc_fast import score_batch

PATCHES, CHANNELS = 196, 64
RUNS = ((1e9, False), (1e8, False), (1e9, True))


def main() -> None:
    """Measure, print a table, write JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--json", type=Path, help="write the result here")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        one(Path(arguments.one[0]), int(arguments.one[1]), arguments.one[2])
        return
    table = Table(title=f"{arguments.images} images of {PATCHES} x {CHANNELS}")
    for heading in ("memory_limit", "checkpoint", "seconds", "GFLOP/s", "memory", "sum of scores"):
        table.add_column(heading, justify="right")
    flops = 2.0 * arguments.images * (arguments.images - 1) * PATCHES**2 * CHANNELS
    results = []
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "tokens.npy"
        np.save(file, drawn(arguments.images))
        for limit, kept in RUNS:
            line = [str(file), str(int(limit)), str(Path(folder) / "checkpoint") if kept else ""]
            done = subprocess.run(
                [sys.executable, __file__, "--one", *line],
                check=True,
                stdout=subprocess.PIPE,
                text=True,
            )
            seconds, memory, total = (float(word) for word in done.stdout.split())
            results.append(
                {
                    "memory_limit": limit,
                    "checkpoint": kept,
                    "seconds": seconds,
                    "gflops": flops / seconds / 1e9,
                    "memory": memory,
                    "sum": total,
                }
            )
            table.add_row(
                f"{limit / 1e6:.0f} MB",
                "yes" if kept else "no",
                f"{seconds:.1f}",
                f"{flops / seconds / 1e9:.0f}",
                f"{memory / 1e6:.0f} MB",
                repr(total),
            )
    Console().print(table)
    if len({row["sum"] for row in results}) != 1:
        raise SystemExit("the scores depend on memory_limit or checkpoint")
    if arguments.json:
        settings = {"images": arguments.images, "patches": PATCHES, "channels": CHANNELS}
        write_json(arguments.json, settings, results)


def drawn(images: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """Tokens [N, P, C] float32: a common image, differences, a falling spectrum."""
    draw = np.random.default_rng(0)
    common = draw.standard_normal((1, PATCHES, CHANNELS), dtype=np.float32)
    own = draw.standard_normal((images, PATCHES, CHANNELS), dtype=np.float32)
    spectrum = (np.arange(1, CHANNELS + 1) ** -0.6).astype(np.float32)
    tokens: np.ndarray[tuple[int, ...], np.dtype[np.float32]] = (common + 0.4 * own) * spectrum
    return tokens


def one(file: Path, limit: int, checkpoint: str) -> None:
    """One run: prints seconds, bytes of memory and the sum of the patch scores."""
    score_batch(torch.randn(3, 16, 8))  # libraries and thread stacks
    before, seen = anonymous(), [0]
    start = perf_counter()
    scores = score_batch(
        [file],
        degrees=(1,),
        memory_limit=limit,
        checkpoint=checkpoint or None,
        progress=lambda done, total: seen.append(anonymous()),
    )
    print(perf_counter() - start, max(seen) - before, float(scores.patch_scores.double().sum()))


def anonymous() -> int:
    """Bytes of this process's memory that lie in no file (Linux)."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("RssAnon")).split()[1])


if __name__ == "__main__":
    main()
