"""`musc-fast evaluate` end to end on real images: seconds by stage and the figures.

    python benchmarks/evaluation.py --json benchmarks/results/evaluate_kolektorsdd.json

The command runs as a user runs it, in a process of its own with a fresh results folder and no
feature cache. The stage "start" is the time that the command's own stages do not account for:
Python, imports and the backbone's weights.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from lib.program import add_data, add_json, make_parser, require_data
from lib.results import write_results

# The command, also where musc_fast is not installed.
COMMAND = "import lib; from musc_fast.cli import main; main()"


def main() -> None:
    """Run the command on each set, print the share of each stage."""
    parser = make_parser(__doc__)
    add_data(parser, ["kolektorsdd"])
    parser.add_argument("--backbone", default="dinov2-vit-s-14")
    parser.add_argument("--size", default="392", help="as for the command")
    add_json(parser)
    arguments = parser.parse_args()
    require_data(arguments.data)

    table = Table(title=f"musc-fast evaluate, {arguments.backbone} at {arguments.size}")
    for heading in ("set", "images", "stage", "seconds", "share"):
        table.add_column(heading)
    results = []
    for name in arguments.sets:
        result = evaluate(arguments.data / name, arguments.backbone, arguments.size)
        results.append(result)
        for stage, seconds in result["seconds"].items():
            share = f"{result['share'][stage]:.1%}"
            table.add_row(name, str(result["images"]), stage, f"{seconds:.1f}", share)
    Console(width=120).print(table)
    settings = {"backbone": arguments.backbone, "size": arguments.size}
    write_results(arguments.json, settings, results)


def evaluate(root: Path, backbone: str, size: str) -> dict[str, Any]:
    """Seconds by stage and their share of the whole, figures and flagged images of one set."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-c", COMMAND, "evaluate", "--root", str(root)]
        command += ["--backbone", backbone, "--size", size, "--out", folder]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
        start = time.perf_counter()
        subprocess.run(command, check=True, env=environment)
        total = time.perf_counter() - start
        report = json.loads((Path(folder) / "results.json").read_text(encoding="utf-8"))
    (category,) = report["categories"]
    seconds = {"start": round(total - sum(category["seconds"].values()), 3), **category["seconds"]}
    return {
        "set": root.name,
        "images": category["images"],
        "seconds": {**seconds, "total": round(total, 3)},
        "share": {stage: round(value / total, 4) for stage, value in seconds.items()}
        | {"total": 1},
        "metrics": category["metrics"],
        "flagged": category["flagged"],
    }


if __name__ == "__main__":
    main()
