"""`musc-fast evaluate` end to end on real images: seconds by stage and the figures.

    python benchmarks/evaluation.py --json benchmarks/results/evaluate_kolektorsdd.json

The command runs as a user runs it, in a process of its own with a fresh results folder and no
feature cache; "start" is what no stage accounts for: Python, imports and the backbone's weights.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from common import SHARED, write_json


def main() -> None:
    """Run the command on each set, print the share of each stage."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=SHARED / "data", help="folder of the sets")
    parser.add_argument("--sets", nargs="+", default=["kolektorsdd"])
    parser.add_argument("--backbone", default="dinov2-vit-s-14")
    parser.add_argument("--size", default="392", help="as for the command")
    parser.add_argument("--json", type=Path, help="write the result here")
    arguments = parser.parse_args()

    table = Table(title=f"musc-fast evaluate, {arguments.backbone} at {arguments.size}")
    for heading in ("set", "images", "stage", "seconds", "share"):
        table.add_column(heading)
    results = []
    for name in arguments.sets:
        result = evaluated(arguments.data / name, arguments.backbone, arguments.size)
        results.append(result)
        for stage, seconds in result["seconds"].items():
            share = f"{result['share'][stage]:.1%}"
            table.add_row(name, str(result["images"]), stage, f"{seconds:.1f}", share)
    Console(width=120).print(table)
    if arguments.json is not None:
        settings = {"backbone": arguments.backbone, "size": arguments.size}
        write_json(arguments.json, settings, results)


def evaluated(root: Path, backbone: str, size: str) -> dict[str, Any]:
    """Seconds by stage and their share of the whole, figures and flagged images of one set."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "musc_fast", "evaluate", "--root", str(root)]
        command += ["--backbone", backbone, "--size", size, "--out", folder]
        start = time.perf_counter()
        subprocess.run(command, check=True)
        total = time.perf_counter() - start
        found = json.loads((Path(folder) / "results.json").read_text(encoding="utf-8"))
    (category,) = found["categories"]
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
