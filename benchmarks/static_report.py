"""Registers, shared memory and estimated occupancy of every kernel, compiled without a GPU.

    python benchmarks/static_report.py [--json benchmarks/results/static.json]

Each kernel is compiled ahead of time for each architecture at the config that it gets for 518-pixel
images (P = 1369), and the machine code is read with the cuobjdump that Triton ships. Occupancy is
what registers, shared memory and threads allow at most; none of this is a speed.
"""

from __future__ import annotations

import lib  # noqa: F401  # isort: skip  (names kernels/ musc_fast.kernels: first)
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import triton
from rich.console import Console
from rich.table import Table

from lib.checkout import RESULTS
from lib.program import make_parser
from lib.results import write_results
from musc_fast.kernels import (
    bounds,
    candidates,
    interval_mean,
    lnamd,
    local_distance,
    min_distance,
    project,
    quantise,
    refine,
    winners,
)
from musc_fast.kernels import min_distance_few_channels as resident
from musc_fast.kernels.aot import Compiled, compile_kernel
from musc_fast.kernels.tiles import Config, pick_config, specialise_warps

ARCHITECTURES = (80, 86, 89, 90, 100, 120)
PATCHES = 1369
_TYPES = {
    torch.float16: "*fp16",
    torch.bfloat16: "*bf16",
    torch.int8: "*i8",
    torch.float32: "*fp32",
}


@dataclass(frozen=True)
class Launch:
    """A kernel, its name in the table, and the arguments, options and config to compile with."""

    name: str
    kernel: Any
    arguments: dict[str, str | int | bool]
    options: dict[str, int]
    config: dict[str, Any]

    def compile(self, arch: int) -> Compiled:
        return compile_kernel(self.kernel, arch, self.arguments, **self.options)


def search_launch(
    arch: int,
    dtype: torch.dtype,
    channels: int,
    *,
    triangle: bool = True,
    listing: bool = False,
    descriptors: bool | None = None,
    config: Config | None = None,
    **fixed: int,
) -> Launch:
    """The search, or its second pass, for P = 1369; `fixed` replaces arguments by constants."""
    kernel = candidates._candidates_kernel if listing else min_distance._min_distance_kernel
    config = config or pick_config(arch, dtype, PATCHES, PATCHES, channels, listing=listing)
    norms = "*i32" if dtype == torch.int8 else "*fp32"
    arguments = _integers(kernel)
    arguments |= {
        "x_ptr": _TYPES[dtype],
        "y_ptr": _TYPES[dtype],
        "x_norm_ptr": norms,
        "y_norm_ptr": norms,
        "key_ptr": "*i64",
        "K": channels,
        "INTEGERS": dtype == torch.int8,
        "DESCRIPTORS": False,
        "TRIANGLE": triangle,
        "SPECIALIZE": config.warp_specialize,
        "GROUP": config.GROUP,
        "BLOCK_P": config.BLOCK_P,
        "BLOCK_Q": config.BLOCK_Q,
        "BLOCK_K": config.BLOCK_K,
    }
    if arch >= 90 if descriptors is None else descriptors:
        entry = _TYPES[dtype].removeprefix("*")
        arguments |= {
            "DESCRIPTORS": True,
            "x_ptr": f"tensordesc<{entry}[{config.BLOCK_P}, {config.BLOCK_K}]>",
            "y_ptr": f"tensordesc<{entry}[{config.BLOCK_Q}, {config.BLOCK_K}]>",
        }
    if listing:
        arguments |= {
            "limit_ptr": "*fp32",
            "count_ptr": "*i64",
            "slot_ptr": "*i64",
            "q_ptr": "*i32",
        }
    what = "second pass" if listing else "search"
    what += ", specialised warps" if config.warp_specialize else ""
    name = f"{what}, {str(dtype).removeprefix('torch.')}, {channels} channels"
    return Launch(name, kernel, {**arguments, **fixed}, config.launch(), asdict(config))


def resident_launch(
    arch: int, dtype: torch.dtype, channels: int, *, triangle: bool = True, **fixed: int
) -> Launch:
    """The search over few channels for P = 1369."""
    kernel = resident._few_channels_kernel
    config = resident.pick_config(arch, dtype, PATCHES, PATCHES, channels)
    norms = "*i32" if dtype == torch.int8 else "*fp32"
    arguments = _integers(kernel)
    arguments |= {"x_ptr": _TYPES[dtype], "y_ptr": _TYPES[dtype], "key_ptr": "*i64"}
    arguments |= {"x_norm_ptr": norms, "y_norm_ptr": norms, "K": channels}
    arguments |= {"INTEGERS": dtype == torch.int8, "TRIANGLE": triangle, "GROUP": config.GROUP}
    arguments |= {name: getattr(config, name) for name in ("BLOCK_P", "BLOCK_Q", "BLOCK_K")}
    options = {"num_warps": config.num_warps, "num_stages": config.num_stages}
    name = f"resident search, {str(dtype).removeprefix('torch.')}, {channels} channels"
    return Launch(name, kernel, {**arguments, **fixed}, options, asdict(config))


def _integers(kernel: Any) -> dict[str, str | int | bool]:
    return dict.fromkeys(kernel.arg_names, "i32")


def interval_launch(images: int, *, adjacent: bool = True, **fixed: int) -> Launch:
    """The interval mean of `images` distances a patch; `adjacent` patches lie side by side."""
    aligned = not adjacent and images % 4 == 0
    config = interval_mean.pick_config(adjacent, images, aligned=aligned)
    arguments = _integers(interval_mean._interval_mean_kernel)
    arguments |= {"x_ptr": "*fp32", "out_ptr": "*fp32", "FROM_START": True, "UNIT": not adjacent}
    arguments |= {"SQUARED": adjacent, "KTH_ONLY": False, "ROWS_LAST": adjacent, "ALIGNED": aligned}
    arguments |= {"RESIDENT": images <= config.BLOCK_A * config.BLOCK_S}
    arguments |= {name: getattr(config, name) for name in ("BLOCK_R", "BLOCK_A", "BLOCK_S")}
    return Launch(
        f"interval mean, {images} images{'' if adjacent else ', row by row'}",
        interval_mean._interval_mean_kernel,
        {**arguments, **fixed},
        {"num_warps": config.num_warps},
        asdict(config),
    )


def local_launch(images: int, **fixed: int) -> Launch:
    """Local matching of so many images."""
    config = local_distance.pick_config(images, images)
    arguments = _integers(local_distance._local_distance_kernel)
    arguments |= {name: "*fp32" for name in arguments if name.endswith("_ptr")}
    arguments |= {"C": "i32", "BLOCK_C": local_distance.BLOCK_C}
    arguments |= {name: getattr(config, name) for name in ("BLOCK_N", "BLOCK_M")}
    return Launch(
        f"local matching, {images} images",
        local_distance._local_distance_kernel,
        {**arguments, **fixed},
        {"num_warps": config.num_warps},
        asdict(config),
    )


def lnamd_launch(channels: int, token: str = "*fp32", **fixed: int) -> Launch:
    """LNAMD of three degrees on a 37 x 37 grid."""
    config = lnamd.pick_config(37, channels)
    arguments = _integers(lnamd._lnamd_kernel)
    arguments |= {name: "*fp32" for name in arguments if name.endswith("_ptr")}
    arguments |= {"x_ptr": token, "count_ptr": "*i32"}
    arguments |= {"stride_n": "i32:16", "stride_p": "i32:16", "C": "i32:16"}
    arguments |= {"TAKE_1": True, "TAKE_3": True, "TAKE_5": True}
    arguments |= {"WHOLE": channels == config.BLOCK_C, "PARTS": lnamd.PARTS}
    arguments |= {name: getattr(config, name) for name in ("ROWS", "BLOCK_S", "BLOCK_X", "BLOCK_C")}
    return Launch(
        f"LNAMD, {channels} channels",
        lnamd._lnamd_kernel,
        {**arguments, **fixed},
        {"num_warps": config.num_warps},
        asdict(config),
    )


def quantise_launch(
    channels: int, dtype: torch.dtype, token: str = "*fp32", **fixed: int
) -> Launch:
    """The rounding of rows."""
    config = quantise.pick_config(channels)
    stages = (channels & -channels).bit_length() - 1 if dtype == torch.int8 else 0
    arguments = _integers(quantise._quantise_kernel)
    arguments |= {"x_ptr": token, "mean_ptr": "*fp32", "value_ptr": _TYPES[dtype]}
    arguments |= {"norm_ptr": "*i32" if dtype == torch.int8 else "*fp32", "error_ptr": "*fp32"}
    arguments |= {"C": "i32:16", "SCALE": "fp32", "HADAMARD_FACTOR": "fp32"}
    arguments |= {"K": channels, "STAGES": stages}
    arguments |= {"BLOCK_R": config.BLOCK_R, "BLOCK_K": config.BLOCK_K}
    return Launch(
        f"rounding to {str(dtype).removeprefix('torch.')}, {channels} channels",
        quantise._quantise_kernel,
        {**arguments, **fixed},
        {"num_warps": config.num_warps},
        asdict(config),
    )


def _pointers(kernel: Any) -> dict[str, str | int | bool]:
    """Arguments of `kernel` whose pointers are to float32 and whose C is a multiple of 16."""
    arguments = _integers(kernel)
    arguments |= {name: "*fp32" for name in arguments if name.endswith("_ptr")}
    return arguments | {"C": "i32:16"}


def refine_launch(channels: int, *, fine: bool = True, few: int = 128, **fixed: int) -> Launch:
    """The recomputation of listed candidates; `fine`: those that float16 rows do not exclude.

    few: values of the rows in a subspace that come before fine rows.
    """
    config = refine.pick_config(channels)
    arguments = _pointers(refine._refine_kernel)
    arguments |= {"slot_ptr": "*i64", "q_ptr": "*i32", "out_ptr": "*i32", "F": "i32:16"}
    if fine:
        arguments |= {"x_fine_ptr": "*fp16", "y_fine_ptr": "*fp16"}
    if fine:
        arguments |= {"x_few_ptr": "*fp16", "y_few_ptr": "*fp16"}
    few = few if fine else 0
    arguments |= {"FEW_SCALE": "fp32", "FEW": few, "BLOCK_FEW": max(few, 1)}
    arguments |= {"FINE_SCALE": "fp32", "FILTER": fine, "BLOCK_F": config.BLOCK_F}
    arguments |= {"BLOCK_L": config.BLOCK_L, "BLOCK_C": config.BLOCK_C}
    arguments |= {"STAGES": config.BLOCK_C.bit_length() - 1}
    return Launch(
        f"refinement{f' by fine rows and {few} values' if fine else ''}, {channels} channels",
        refine._refine_kernel,
        {**arguments, **fixed},
        {"num_warps": config.num_warps},
        asdict(config),
    )


def winner_launch(channels: int, **fixed: int) -> Launch:
    """The recomputation of winners."""
    config = refine.pick_config(channels)
    arguments = _pointers(winners._winner_kernel)
    arguments |= {"key_ptr": "*i64", "SCALE_SQUARED": "fp32", "INTEGERS": True}
    arguments |= {"SELECT": True, "CERTIFIED": True, "STAGES": config.BLOCK_C.bit_length() - 1}
    arguments |= {"BLOCK_L": config.BLOCK_L, "BLOCK_C": config.BLOCK_C}
    return Launch(
        f"winners, {channels} channels",
        winners._winner_kernel,
        {**arguments, **fixed},
        {"num_warps": config.num_warps},
        asdict(config),
    )


def bounds_launch(*, limits: bool, **fixed: int) -> Launch:
    """The bounds of the winners, or the limits of the second pass."""
    kernel = bounds._limit_kernel if limits else bounds._bound_kernel
    arguments = _pointers(kernel) | {"key_ptr": "*i64", "SCALE_SQUARED": "fp32", "INTEGERS": True}
    del arguments["C"]
    arguments |= (
        {"STRETCH": "fp32", "SHRINK": "fp32", "SELECT": True} if limits else {"BOUND": True}
    )
    return Launch(
        "limits" if limits else "bounds",
        kernel,
        {**arguments, "BLOCK": bounds._BLOCK, **fixed},
        {"num_warps": 4},
        {"BLOCK": bounds._BLOCK},
    )


def project_launch(rows: int, width: int, *, residual: bool, **fixed: int) -> Launch:
    """The components of `rows` rows in `width` - 1 directions, or the norm of their residuals."""
    kernel = project._residual_kernel if residual else project._component_kernel
    config = project.pick_config(rows, width)
    arguments = _pointers(kernel) | {"high_ptr": "*fp16", "low_ptr": "*fp16"}
    numbers = ("FACTOR", "UNSCALE", "RELATIVE", "ABSOLUTE", "CENTRE", "BASIS_ERROR")
    arguments |= {name: "fp32" for name in numbers if name in arguments}
    arguments |= {"K": width, "W": width, "BLOCK_R": config.BLOCK_R, "DEPTH": project._DEPTH}
    if residual:
        arguments |= {"SIZE": width - 1, "BLOCK_C": config.BLOCK_C}
    else:
        arguments["LIMIT"] = int(project._LIMIT)
    return Launch(
        f"{'residuals' if residual else 'components'} of {rows} rows, {width} wide",
        kernel,
        {**arguments, **fixed},
        {"num_warps": config.num_warps, "num_stages": 2 if residual else 3},
        asdict(config),
    )


def launches(arch: int) -> Iterator[Launch]:
    """Everything the backend launches for P = 1369."""
    for channels in (384, 768, 1024):
        yield search_launch(arch, torch.float16, channels)
        yield search_launch(arch, torch.bfloat16, channels)
        yield search_launch(arch, torch.int8, channels)
    for dtype in (torch.float16, torch.int8):
        config = specialise_warps(pick_config(arch, dtype, PATCHES, PATCHES, 1024), arch)
        if config is not None:
            yield search_launch(arch, dtype, 1024, config=config)
    for channels in (64, 128, 256):
        yield resident_launch(arch, torch.int8, channels)
    for dtype, channels in ((torch.float16, 1024), (torch.int8, 1024), (torch.int8, 128)):
        yield search_launch(arch, dtype, channels, listing=True)
    yield interval_launch(200)
    yield interval_launch(200, adjacent=False)
    yield interval_launch(4000)
    yield lnamd_launch(768)
    yield lnamd_launch(1024)
    yield local_launch(200)
    for channels in (128, 1024):
        yield quantise_launch(channels, torch.int8)
    yield quantise_launch(1024, torch.float16)
    for few in (64, 128, 256):
        yield refine_launch(1024, few=few)
    yield refine_launch(1024, fine=False)
    yield winner_launch(1024)
    yield bounds_launch(limits=False)
    yield bounds_launch(limits=True)
    for rows, width in ((PATCHES, 128), (200 * PATCHES, 128), (200 * PATCHES, 256)):
        yield project_launch(rows, width, residual=False)
        yield project_launch(rows, width, residual=True)


def main() -> None:
    """Compile, print a table, write JSON."""
    parser = make_parser(__doc__)
    parser.add_argument("--json", type=Path, default=RESULTS / "static.json")
    parser.add_argument("--quick", action="store_true", help="one kernel: does it run at all?")
    arguments = parser.parse_args()
    table = Table(title=f"Triton {triton.__version__}, P = {PATCHES}")
    for heading in ("kernel", "sm", "registers", "spills", "shared KiB", "threads", "occupancy"):
        table.add_column(heading, justify="left" if heading == "kernel" else "right")
    results: list[dict[str, Any]] = []
    for arch in ARCHITECTURES:
        for launch in islice(launches(arch), 1 if arguments.quick else None):
            found = launch.compile(arch)
            table.add_row(
                launch.name,
                str(arch),
                str(found.registers),
                str(found.spills),
                f"{found.shared / 1024:.0f}",
                str(found.threads),
                f"{found.occupancy:.2f}",
            )
            results.append(
                {
                    "kernel": launch.name,
                    "arch": arch,
                    "config": launch.config,
                    "registers": found.registers,
                    "spill_bytes": found.spills,
                    "shared_bytes": found.shared,
                    "threads": found.threads,
                    "occupancy_estimate": round(found.occupancy, 3),
                }
            )
    Console().print(table)
    write_results(arguments.json, {"triton": triton.__version__, "patches": PATCHES}, results)


if __name__ == "__main__":
    main()
