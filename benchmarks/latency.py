"""The time of one new image against a reference bank, by its size.

    python benchmarks/latency.py [--bank 25 50 100 200] [--json benchmarks/results/latency.json]

Real features (DINOv2 ViT-S/14 at 518: P = 1369, C = 384, four layers, three degrees) of the metal
plates of shared/data and of their mirror images, which fill the bank up; the queries are plates
that are not in the bank. What the job needs at least: 2 M P^2 C operations a layer and degree and,
where the search reads every operand once, M P C bytes of int8 (M: images in the bank). Before any
speed, patch scores are compared with fp64. The column "official" is the official algorithm (one
cdist per pair) on the same LNAMD results: one layer and degree, times the number of them.
"""

from __future__ import annotations

import statistics
from time import perf_counter
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from lib.official import count_lowest, distances_by_pairs, distances_in_fp64, mean_of_lowest
from lib.program import add_json, make_parser
from lib.real_images import backbone_tokens
from lib.results import peak_memory, write_results
from lib.timing import Timing
from musc_fast import ReferenceBank, ops

NAME, SIZE, BLOCKS, DEGREES = "dinov2-vit-s-14", 518, [2, 5, 8, 9], (1, 3, 5)
QUERIES = 5
PROBES = 48  # patches compared with fp64


def main() -> None:
    """Measure, print a table, write JSON."""
    parser = make_parser(__doc__)
    parser.add_argument("--bank", type=int, nargs="+", default=[25, 50, 100, 200])
    add_json(parser)
    arguments = parser.parse_args()
    images = max(arguments.bank) + QUERIES
    tokens = backbone_tokens(NAME, SIZE, BLOCKS, images, mirrored=True)
    if tokens is None:
        raise SystemExit("shared/data/mpdd_metal_plate is absent")
    layers, grid = tokens
    queries = [[layer[k : k + 1] for layer in layers] for k in range(QUERIES)]
    table = Table(title="One image against a bank")
    for heading in ("bank", "add", "first query", "query", "LNAMD", "GFLOP/s", "official", "ratio"):
        table.add_column(heading, justify="right")
    rows = []
    for size in arguments.bank:
        row = measure([layer[QUERIES : QUERIES + size] for layer in layers], queries, grid)
        rows.append(row)
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
    console.print(f"largest difference from fp64: {max(row['error'] for row in rows):.1e}")
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
    write_results(arguments.json, settings, rows)


def measure(
    references: list[Tensor], queries: list[list[Tensor]], grid: tuple[int, int]
) -> dict[str, Any]:
    """The times of filling a bank, of its first query (which fits the search), of later ones.

    references: tokens [M, P, C] of each layer.
    queries: for each query its tokens [1, P, C] of each layer.
    """
    bank = ReferenceBank(len(references[0]), image_size=SIZE, degrees=DEGREES)
    start = perf_counter()
    bank.add(references)
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
    z = pooled[0][0][0]
    official, error = official_seconds(z, ops.lnamd(references[0], grid, DEGREES[0]))
    images, patches, channels = references[0].shape
    steps = len(references) * len(DEGREES)
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


def official_seconds(z: Tensor, references: Tensor) -> tuple[float, float]:
    """Seconds of the official search of z [P, C] in references [M, P, C], and our largest error.

    The error is the difference of our patch scores from fp64 on some patches.
    """
    count = count_lowest(len(references))
    start = perf_counter()
    mean_of_lowest(distances_by_pairs(z, references), count)
    seconds = perf_counter() - start
    probes = torch.linspace(0, len(z) - 1, PROBES).long()
    exact = mean_of_lowest(distances_in_fp64(z[probes], references), count)
    ours = ops.msm(z[None], references)[0][probes]
    error = float((ours.double() - exact).abs().max())
    if not error <= 1e-5:
        raise SystemExit(f"wrong patch scores: {error:.1e} from fp64")
    return seconds, error


if __name__ == "__main__":
    main()
