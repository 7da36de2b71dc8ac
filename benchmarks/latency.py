"""The time of one new image against a reference bank, by its size.

    python benchmarks/latency.py [--bank 25 50 100 200] [--json benchmarks/results/latency.json]

Real features (DINOv2 ViT-S/14 at 518: P = 1369, C = 384, four layers, three degrees) of the metal
plates of shared/data and of their mirror images, which fill the bank up; the queries are plates
that are not in it. What the job needs at least: 2 M P^2 C operations a layer and degree and, where
the search reads every operand once, M P C bytes of int8 (M: images in the bank). Before any speed,
patch scores are compared with fp64. Beside it: the official algorithm (one cdist per pair) on the
same LNAMD results, a layer and degree, times the number of them.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from _inputs import backbone_tokens
from common import Timing, peak_memory, write_json
from musc_fast import ReferenceBank, ops

NAME, SIZE, BLOCKS, DEGREES = "dinov2-vit-s-14", 518, [2, 5, 8, 9], (1, 3, 5)
QUERIES = 5
PROBED = 48  # patches compared with fp64


def main() -> None:
    """Measure, print a table, write JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bank", type=int, nargs="+", default=[25, 50, 100, 200])
    parser.add_argument("--json", type=Path, help="write the result here")
    arguments = parser.parse_args()
    images = max(arguments.bank) + QUERIES
    found = backbone_tokens(NAME, SIZE, BLOCKS, images, mirrored=True)
    if found is None:
        raise SystemExit("shared/data/mpdd_metal_plate is absent")
    layers, grid = found
    queries = [[layer[k : k + 1] for layer in layers] for k in range(QUERIES)]
    table = Table(title="One image against a bank")
    for heading in ("bank", "add", "first query", "query", "LNAMD", "GFLOP/s", "official", "ratio"):
        table.add_column(heading, justify="right")
    results = []
    for size in arguments.bank:
        row = measured([layer[QUERIES : QUERIES + size] for layer in layers], queries, grid)
        results.append(row)
        table.add_row(
            str(size),
            f"{row['add']:.1f} s",
            f"{row['first']:.2f} s",
            f"{row['median']:.2f} s",
            f"{row['lnamd']:.3f} s",
            f"{row['gflops']:.0f}",
            f"{row['official']:.1f} s",
            f"{row['official'] / row['median']:.1f}x",
        )
    console = Console()
    console.print(table)
    console.print(f"largest difference from fp64: {max(row['error'] for row in results):.1e}")
    if arguments.json:
        settings = {
            "backbone": NAME,
            "size": SIZE,
            "blocks": BLOCKS,
            "degrees": DEGREES,
            "patches": layers[0].shape[1],
            "channels": layers[0].shape[2],
            "images": "metal plates and their mirror images",
            **peak_memory(),
        }
        write_json(arguments.json, settings, results)


def measured(
    held: list[Tensor], queries: list[list[Tensor]], grid: tuple[int, int]
) -> dict[str, Any]:
    """The times of filling a bank, of its first query (which fits the search), of the next."""
    bank = ReferenceBank(len(held[0]), image_size=SIZE, degrees=DEGREES)
    start = perf_counter()
    bank.add(held)
    add = perf_counter() - start
    times = []
    for query in (queries[0], *queries):
        start = perf_counter()
        bank.score(query)
        times.append(perf_counter() - start)
    timing = Timing(tuple(times[1:]))
    pooling = []
    for query in queries:
        start = perf_counter()
        pooled = [ops.lnamd_all(layer, grid, DEGREES) for layer in query]
        pooling.append(perf_counter() - start)
    official, error = checked(pooled[0][0][0], ops.lnamd(held[0], grid, DEGREES[0]))
    images, patches, channels = held[0].shape
    steps = len(held) * len(DEGREES)
    flops = 2.0 * steps * images * patches**2 * channels
    return {
        "bank": images,
        "add": add,
        "first": times[0],
        "seconds": times[1:],
        "median": timing.median,
        "lnamd": statistics.median(pooling),
        "gflops": flops / timing.median / 1e9,
        "official": official * steps,
        "error": error,
    }


def checked(z: Tensor, held: Tensor) -> tuple[float, float]:
    """Seconds of the official search of z [P, C] in held [M, P, C], and our largest difference.

    The difference is taken from fp64 on some patches.
    """
    start = perf_counter()
    columns = torch.stack([torch.cdist(z, image).amin(1) for image in held], 1)
    count = max(1, int(0.3 * len(held)))
    columns.topk(count, largest=False).values.mean(1)
    seconds = perf_counter() - start
    probe = torch.linspace(0, len(z) - 1, PROBED).long()
    exact = torch.stack(
        [torch.cdist(z[probe].double(), image.double()).amin(1) for image in held], 1
    )
    wanted = exact.topk(count, largest=False).values.mean(1)
    ours = ops.msm(z[None], held)[0][probe]
    error = float((ours.double() - wanted).abs().max())
    if not error <= 1e-5:
        raise SystemExit(f"wrong patch scores: {error:.1e} from fp64")
    return seconds, error


if __name__ == "__main__":
    main()
