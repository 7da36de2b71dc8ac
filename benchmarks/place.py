"""How much faster is the search near each patch's own place than that of whole images?

    python benchmarks/place.py [--json benchmarks/results/place.json]

The features are those of the default recipe's one search, of the images of accuracy.py; both
searches are exact, run as `score_batch` runs them (the values are checked before) and take turns.
The arithmetic: N (N - 1) P (2W + 1)^2 C products near the own place, less those beyond the edges,
N (N - 1) P^2 C of whole images; by pair symmetry half of either is enough on the CPU. Parity first:
distances and means near the own place against the reference in fp64, for a few images.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from lib.labelled_sets import EACH, SETS, SIZES, choose_samples, pooled_features
from lib.program import add_data, add_json, make_parser, require_data
from lib.results import settings_of, write_results
from lib.timing import time_in_turns
from musc_fast import MuSc, ops, reference
from musc_fast.backends.registry import resolve
from musc_fast.settings import SearchOptions, Window

TOLERANCE = 1e-5
TOPMIN = (0.0, 0.3)  # the interval that scores are the mean of, as in the paper
CHECKED = 8  # images of the comparison in fp64


def main() -> None:
    """Measure every set, window and degree; print and write the table."""
    parser = make_parser(__doc__)
    add_data(parser, SETS)
    parser.add_argument("--backbone", default="dinov2-vit-s-14")
    parser.add_argument("--size", type=int, help="side of the model's input; default: by backbone")
    parser.add_argument("--each", type=int, default=EACH, help="good and defect images a set")
    parser.add_argument("--reach", type=int, nargs="+", default=[1, 2, 4], help="W, in patches")
    parser.add_argument("--runs", type=int, default=5)
    add_json(parser)
    arguments = parser.parse_args()
    require_data(arguments.data)
    rows: list[dict[str, Any]] = []
    for name in arguments.sets:
        for found in measure(arguments, name):
            rows.append(found)
            write_results(arguments.json, settings_of(arguments), rows)  # a cut leaves some
    table = Table(title="MSM: whole images, and near the own place")
    for heading in rows[0]:
        table.add_column(heading)
    for row in rows:
        table.add_row(*(f"{v:.3f}" if isinstance(v, float) else str(v) for v in row.values()))
    Console(width=160).print(table)


def measure(arguments: argparse.Namespace, name: str) -> Iterator[dict[str, Any]]:
    """A row a window, for degree 1 and for the degrees averaged."""
    for degrees in ((1,), None):
        options: dict[str, Any] = {} if degrees is None else {"degrees": degrees}
        size = arguments.size or SIZES[arguments.backbone]
        musc = MuSc(arguments.backbone, image_size=size, **options)
        samples = choose_samples(arguments.data / name, arguments.each)
        z = pooled_features(musc, samples)
        grid = musc.backbone.grid
        for reach in arguments.reach:
            window = Window(grid, reach)
            require_parity(z[:CHECKED], window)
            lowest = reference.interval(TOPMIN, len(z) - 1)
            search = partial(resolve("auto", z.device).operators().msm, z, None, *lowest)
            calls = {
                "whole": partial(search, SearchOptions()),
                "near": partial(search, SearchOptions(window=window)),
            }
            taken = time_in_turns(calls, arguments.runs)
            ratios = [
                whole / near
                for whole, near in zip(taken["whole"].seconds, taken["near"].seconds, strict=True)
            ]
            yield {
                "set": name,
                "degrees": "1" if degrees else "averaged",
                "images": len(z),
                "patches": z.shape[1],
                "channels": z.shape[2],
                "W": reach,
                "whole (s)": taken["whole"].median,
                "near (s)": taken["near"].median,
                "ratio": statistics.median(ratios),
                "lowest": min(ratios),
                "highest": max(ratios),
            }


def require_parity(z: Tensor, window: Window) -> None:
    """End the program where a distance or a mean near the own place is off."""
    for operator in (ops.patch_to_image, ops.msm):
        found, wanted = (operator(z, backend=name, window=window) for name in ("auto", "reference"))
        finite = torch.isfinite(wanted)
        error = float((found.double() - wanted.double())[finite].abs().max())
        if error > TOLERANCE or not torch.equal(torch.isfinite(found), finite):
            raise SystemExit(f"near the own place {operator.__name__} is off by {error:.1e}")


if __name__ == "__main__":
    main()
