"""The time of one new image against a reference bank, by its size.

    python benchmarks/latency.py [--bank 25 50 100 200] [--json benchmarks/results/latency.json]
    python benchmarks/latency.py --recipe one-search

Real features (DINOv2 ViT-S/14 at 518: P = 1369, C = 384; the paper's recipe has four layers and
three degrees) of the metal plates of shared/data and of their mirror images, which fill the bank
up; the queries are plates that are not in the bank.

What the job needs at least: 2 M P^2 C operations a layer and degree and, where the search reads
every operand once, M P C bytes of int8 (M: images in the bank). Before any speed, patch scores are
compared with fp64. The column "official" is the official algorithm (one cdist per pair) on the same
LNAMD results: one layer and degree, times the number of them. The seconds of a query do not contain
its features, which are timed beside.
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
from lib.timing import Timing, seconds_of
from musc_fast import MuSc, ReferenceBank, ops
from musc_fast.features import Backbone
from musc_fast.recipes import RECIPES, Recipe, get_recipe

NAME, SIZE = "dinov2-vit-s-14", 518
QUERIES = 5
PROBES = 48  # patches compared with fp64


def main() -> None:
    """Measure, print a table, write JSON."""
    parser = make_parser(__doc__)
    parser.add_argument("--bank", type=int, nargs="+", default=[25, 50, 100, 200])
    parser.add_argument("--recipe", default="paper", choices=[each.name for each in RECIPES])
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--size", type=int, default=SIZE, help=f"image side (default {SIZE})")
    add_json(parser)
    arguments = parser.parse_args()
    recipe = get_recipe(arguments.recipe)
    size = arguments.size
    backbone = MuSc(NAME, image_size=size, recipe=recipe.name, engine=arguments.engine).backbone
    images = max(arguments.bank) + QUERIES
    tokens = backbone_tokens(NAME, size, list(backbone.blocks), images, mirrored=True)
    if tokens is None:
        raise SystemExit("shared/data/mpdd_metal_plate is absent")
    layers, grid = tokens
    queries = [[layer[k : k + 1] for layer in layers] for k in range(QUERIES)]
    features = features_seconds(backbone)
    table = Table(title=f"One image against a bank, recipe {recipe.name}")
    for heading in ("bank", "add", "first query", "query", "LNAMD", "GFLOP/s", "official", "ratio"):
        table.add_column(heading, justify="right")
    rows = []
    for count in arguments.bank:
        references = [layer[QUERIES : QUERIES + count] for layer in layers]
        row = measure(references, queries, grid, size, recipe)
        rows.append(row)
        table.add_row(
            str(count),
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
    console.print(f"features of one image: {features.median:.2f} s ({backbone.engine})")
    console.print(f"largest difference from fp64: {max(row['error'] for row in rows):.1e}")
    settings = {
        "backbone": NAME,
        "size": size,
        "recipe": recipe.name,
        "blocks": backbone.blocks,
        "degrees": recipe.degrees,
        "engine": backbone.engine,
        "feature_precision": backbone.precision,
        "features_seconds": features.seconds,
        "patches": layers[0].shape[1],
        "channels": layers[0].shape[2],
        "images": "metal plates and their mirror images",
        **peak_memory(),
    }
    write_results(arguments.json, settings, rows)


def features_seconds(backbone: Backbone) -> Timing:
    """The times of one image's features without class tokens, after a first that compiles."""
    image = torch.zeros(1, 3, *backbone.image_size)
    backbone.extract(image, cls=False)
    return Timing(
        tuple(seconds_of(lambda: backbone.extract(image, cls=False)) for _ in range(QUERIES))
    )


def measure(
    references: list[Tensor],
    queries: list[list[Tensor]],
    grid: tuple[int, int],
    size: int,
    recipe: Recipe,
) -> dict[str, Any]:
    """The times of filling a bank, of its first query (which fits the search), of later ones.

    references: tokens [M, P, C] of each layer.
    queries: for each query its tokens [1, P, C] of each layer.
    size: side of the images in pixels.
    """
    fusion = recipe.degree_fusion
    bank = ReferenceBank(
        len(references[0]), image_size=size, degrees=recipe.degrees, degree_fusion=fusion
    )
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
        pooled = [ops.lnamd_all(layer, grid, recipe.degrees) for layer in query]
        pooling.append(perf_counter() - start)
    z = pooled[0][0][0]
    official, error = official_seconds(z, ops.lnamd(references[0], grid, recipe.degrees[0]))
    images, patches, channels = references[0].shape
    steps = len(references) * bank.scoring.searches_a_layer
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
