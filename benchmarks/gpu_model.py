"""The searches' speed on an H100, predicted from machine code; no GPU is needed.

    python benchmarks/gpu_model.py [--json benchmarks/results/gpu_model.json]

Every config that gpu_check.py times is compiled ahead of time by Triton, and the CUDA kernels by
nvcc where there is one; `lib/sass.py` reads the disassembly, `lib/gpu_limits.py` says how
instructions and bytes become a time. The sizes are those of the check: 48 images of 37 x 37
patches. Shares are of the product rates in results/gpu_search.json; where that file or
gpu_variants.json has a kernel, what was measured stands beside.
"""

from __future__ import annotations

import lib  # noqa: F401  # isort: skip  (names kernels/ musc_fast.kernels: first)
import json
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import triton
from rich.console import Console
from rich.table import Table

import static_report
from lib import gpu_kernels, gpu_limits, sass
from lib.checkout import RESULTS, ROOT
from lib.gpu_limits import CLOCK, MULTIPROCESSORS, Tile
from lib.program import make_parser
from lib.results import write_results
from musc_fast.kernels.aot import TOOLS
from musc_fast.kernels.devices import REGISTERS, SHARED_MEMORY

ARCH, IMAGES, PATCHES = 90, 48, 1369
PAIRS = IMAGES * (IMAGES - 1) // 2


@dataclass(frozen=True)
class Kernel:
    """A kernel's machine code, its tile, and how many tiles 48 images have.

    what: the name of its row in gpu_check.py's files.
    """

    what: str
    function: sass.Function
    tile: Tile
    tiles: float
    registers: int
    shared: int
    threads: int


def resident_blocks(registers: int, shared: int, threads: int) -> int:
    """Blocks that share a multiprocessor by registers, shared memory and threads."""
    by_registers = REGISTERS // (-(-registers // 8) * 8 * threads)
    by_shared = (SHARED_MEMORY[ARCH] + 1024) // (shared + 1024)
    return min(by_registers, by_shared, 2048 // threads)


def triton_kernels() -> Iterator[Kernel]:
    """The search in every config, in 16 bits and int8."""
    for dtype in (torch.float16, torch.int8):
        configs = gpu_kernels.configs_of(ARCH, dtype, PATCHES, 1024)
        for suffix, (config, descriptors) in configs.items():
            launch = static_report.search_launch(
                ARCH, dtype, 1024, config=config, descriptors=descriptors
            )
            found = launch.compile(ARCH)
            (function,) = sass.parse(found.sass()).values()
            rows, columns = config.BLOCK_P, config.BLOCK_Q
            tile = Tile(
                rows=rows,
                columns=columns,
                channels=1024,
                size=dtype.itemsize,
                warps=found.threads // 32,
                groups=resident_blocks(found.registers, found.shared, found.threads),
                l2_bytes=(rows + columns) * 1024.0 * dtype.itemsize,
                copied_bytes=(rows + columns) * 1024.0 * dtype.itemsize,
            )
            tiles = PAIRS * -(-PATCHES // rows) * -(-PATCHES // columns)
            what = f"search, {gpu_kernels.name_of(dtype)}, 1024 channels{suffix}"
            numbers = (found.registers, found.shared, found.threads)
            yield Kernel(what, function, tile, tiles, *numbers)


def cuda_functions(source: Path) -> dict[str, tuple[sass.Function, int]]:
    """Each kernel of a CUDA source by its demangled name, and its registers.

    {} without nvcc, or without the source.
    """
    nvcc = shutil.which("nvcc")
    if nvcc is None or not source.is_file():
        return {}
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder) / "kernel.cubin"
        target = ["-gencode", "arch=compute_90a,code=sm_90a", f"-I{ROOT / 'csrc'}"]
        command = [nvcc, "-std=c++17", "-O3", *target, "-cubin", str(source), "-o", str(cubin)]
        subprocess.run(command, check=True, capture_output=True, text=True)
        text, usage = (
            subprocess.run(
                [str(TOOLS / "cuobjdump"), option, str(cubin)],
                check=True,
                capture_output=True,
                text=True,
            ).stdout
            for option in ("-sass", "--dump-resource-usage")
        )
    registers = dict(re.findall(r"Function (\S+):\s+REG:(\d+)", usage))
    return {name: (each, int(registers[name])) for name, each in sass.parse(text).items()}


def few_channels_kernels() -> Iterator[Kernel]:
    """The first pass over few channels, of CUDA C++: 128 patches a group against a stage."""
    found = cuda_functions(ROOT / "csrc/cuda/find_nearest.cu")
    for channels, columns, groups, blocks in ((64, 128, 2, 2), (128, 128, 2, 2), (256, 64, 1, 3)):
        for name, (function, registers) in found.items():
            if f"find_nearest_kernelILi{channels}ELb1E" not in name:
                continue
            segments = -(-PATCHES // columns)
            tile = Tile(
                rows=128,
                columns=columns,
                channels=channels,
                size=1,
                warps=4,
                groups=groups * blocks,
                l2_bytes=columns * channels / groups,
                copied_bytes=columns * channels / groups,
                overlapped=False,
                persistent=True,
            )
            shared = 3 * columns * channels + 4 * (1 + 4 * groups) * segments * columns
            tiles = PAIRS * -(-PATCHES // 128) * segments
            what = f"few channels: search, {channels} channels"
            yield Kernel(what, function, tile, tiles, registers, shared, 128 * groups)


def wide_kernels() -> Iterator[Kernel]:
    """The 16-bit search of CUDA C++: two groups of 64 rows, columns shared by a cluster."""
    source = ROOT / "csrc/cuda/find_nearest_16.cu"
    for name, (function, registers) in cuda_functions(source).items():
        found = re.search(r"Shape16ILi(\d+)ELi(\d+)ELi(\d+)E.*ELb1ELb0E", name)
        if found is None:
            continue
        columns, stages, cluster = (int(number) for number in found.groups())
        tile = Tile(
            rows=64,
            columns=columns,
            channels=1024,
            size=2,
            warps=4,
            groups=2,
            l2_bytes=(64 + columns / 2 / cluster) * 2048,
            copied_bytes=(64 + columns / 2) * 2048,
            persistent=True,
        )
        # Tiles pass over the borders of images; only those near the diagonal do needless work.
        tiles = PAIRS * PATCHES**2 / (64 * columns) + IMAGES * PATCHES / 64
        what = f"search by CUDA, float16, 1024 channels, 128 x {columns}, {stages} stages"
        what += f", {cluster} blocks a cluster"
        yield Kernel(what, function, tile, tiles, registers, stages * (128 + columns) * 128, 384)


def predict(kernel: Kernel, limits: dict[str, float]) -> dict[str, Any]:
    """A row: the prediction and what it is made of."""
    counted = gpu_limits.count(kernel.function, kernel.tile)
    taken = gpu_limits.stations(kernel.tile, counted)
    cycles = gpu_limits.cycles_a_tile(kernel.tile, counted)
    seconds = kernel.tiles / MULTIPROCESSORS * cycles / CLOCK
    rate = 2.0 * PAIRS * PATCHES**2 * kernel.tile.channels / seconds / 1e12
    limit = limits.get("int8" if kernel.tile.size == 1 else "float16")
    return {
        "what": kernel.what,
        "seconds": seconds,
        "tera_operations": rate,
        "of_product": None if limit is None else rate / limit,
        "cycles_a_tile": cycles,
        "bound_by": max(taken, key=lambda name: taken[name]),
        "cycles_of": {name: round(value) for name, value in taken.items()},
        "instructions_a_warp": counted.total.total(),
        "epilogue_instructions": dict(counted.outside),
        "loop_instructions": dict(counted.inside),
        "l2_gb": kernel.tiles * kernel.tile.l2_bytes / 1e9,
        "registers": kernel.registers,
        "shared_bytes": kernel.shared,
        "threads": kernel.threads,
        "groups": kernel.tile.groups,
    }


def measured_rows(folder: Path) -> dict[str, dict[str, Any]]:
    """The rows of gpu_search.json and gpu_variants.json by name."""
    found = {}
    for name in ("gpu_variants.json", "gpu_search.json"):
        if (folder / name).is_file():
            rows = json.loads((folder / name).read_text(encoding="utf-8"))["results"]
            found.update({row["what"]: row for row in rows})
    return found


def main() -> None:
    """Predict, print a table, write JSON."""
    parser = make_parser(__doc__)
    parser.add_argument("--json", type=Path, help="write the result here")
    parser.add_argument("--measured", type=Path, default=RESULTS, help="folder of measured files")
    arguments = parser.parse_args()
    measured = measured_rows(arguments.measured)
    limits = {
        what.removeprefix("matrix product, "): row["tera_operations"]
        for what, row in measured.items()
        if what.startswith("matrix product, ")
    }
    rows = []
    for kernel in (*triton_kernels(), *wide_kernels(), *few_channels_kernels()):
        row = predict(kernel, limits)
        outcome = measured.get(kernel.what, {})
        rows.append(
            row | {f"measured_{key}": outcome.get(key) for key in ("seconds", "of_product")}
        )
    show(rows)
    settings = {"triton": triton.__version__, "images": IMAGES, "patches": PATCHES}
    write_results(arguments.json, settings, rows)


def show(rows: list[dict[str, Any]]) -> None:
    """Print the predictions beside the outcomes."""
    table = Table(title=f"{IMAGES} images of {PATCHES} patches on an H100, predicted")
    for heading in ("kernel", "ms", "measured", "share", "measured", "bound by", "registers"):
        table.add_column(heading, justify="left" if heading == "kernel" else "right")
    for row in rows:
        seconds = row["measured_seconds"]
        table.add_row(
            row["what"],
            f"{1e3 * row['seconds']:.2f}",
            "" if seconds is None else f"{1e3 * seconds:.2f}",
            *(
                "" if row[key] is None else f"{row[key]:.2f}"
                for key in ("of_product", "measured_of_product")
            ),
            row["bound_by"],
            str(row["registers"]),
        )
    Console().print(table)


if __name__ == "__main__":
    main()
