"""The operators one by one, beside the limits of the machine.

    python benchmarks/kernels.py [--large] [--scaling] [--runs 3] [--json PATH]
    python benchmarks/kernels.py --device cuda [--images 200] [--side 37] [--channels 1024]

On a CPU the C++ kernels (`cpu_kernels.py`), on a GPU the Triton kernels (`gpu_kernels.py`; the
rehearsal `--device cpu --triton` runs those in Triton's interpreter, TRITON_INTERPRET=1, at a size
of your choice). Their docstrings say what the work needs at least. Parity comes first: on a red
gate no speed is printed.
"""

from __future__ import annotations

import checkout  # noqa: F401  # isort: skip
import argparse
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from common import write_json


def main() -> None:
    """Measure, print tables, write JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--large", action="store_true", help="CPU: also N = 64")
    parser.add_argument("--scaling", action="store_true", help="CPU: the rate over N = 8 to 128")
    parser.add_argument("--triton", action="store_true", help="the Triton kernels on a CPU too")
    parser.add_argument("--images", type=int, default=200, help="GPU")
    parser.add_argument("--side", type=int, default=37, help="GPU: patches a side of the grid")
    parser.add_argument("--channels", type=int, default=1024, help="GPU")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the result here")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    if device.type == "cpu" and not arguments.triton:
        import cpu_kernels

        settings, results = cpu_kernels.measure(arguments.large, arguments.scaling, arguments.runs)
    else:
        import gpu_parity

        checks = gpu_parity.operator_checks(device, arguments.side >= 16)
        failed = [each for each in checks if not each.passed]
        if failed:
            raise SystemExit(f"parity failed, no speed is reported: {failed}")
        settings = {"runs": arguments.runs}
        results = device_kernels(
            arguments.images, arguments.side, arguments.channels, device, arguments.runs
        )
    if arguments.json is not None:
        write_json(arguments.json, settings, results)


def device_kernels(
    images: int, side: int, channels: int, device: torch.device, runs: int
) -> list[dict[str, Any]]:
    """The Triton kernels on `device`; prints tables, returns their rows. Check parity before."""
    import gpu_kernels

    results: list[dict[str, Any]] = []
    for rows in gpu_kernels.measure(images, side, channels, device, runs):
        show(rows)
        results += rows
    return results


def show(rows: list[dict[str, Any]]) -> None:
    """A table of rows with a "what" and numbers."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    names = [name for name in names if name not in ("what", "usual")]
    table = Table()
    table.add_column("what")
    for name in names:
        table.add_column(name.replace("_", " "), justify="right")
    for row in rows:
        table.add_row(row["what"], *(f"{row[name]:.4g}" if name in row else "" for name in names))
    Console().print(table)


if __name__ == "__main__":
    main()
