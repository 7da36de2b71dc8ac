"""The Triton kernels one by one beside the limits of the device (for kernels.py, gpu_check.py).

Limits measured in the same run: matrix products of cuBLAS in float16, bfloat16 and int8, and a copy
of device memory. Medians of interleaved runs between CUDA events, each of as many calls as take
20 ms; inputs are features with the spectrum of real ones, larger than the L2 cache.

What the work needs, hence the time no version can beat (dense peaks of the data sheets: H100 SXM
989 TFLOPS in 16 bits, 1979 TOPS in int8, 3.35 TB/s; RTX 4090 165 TFLOPS in 16 bits with 32-bit
sums, 661 TOPS, 1.0 TB/s), a layer and degree of N = 200, P = 1369, C = 1024:

    operator            operations or bytes                        H100        RTX 4090
    search, 16 bits     N (N-1) P^2 C        = 76.4 TFLOP          77 ms       463 ms
    search, int8        the same             = 76.4 TOP            39 ms       116 ms
    subspace, m = 128   N (N-1) P^2 m        =  9.5 TOP             5 ms        14 ms
      second pass       the same again                              5 ms        14 ms
    refinement          8 C bytes a candidate (0.3 N^2 P of them,
                        L2 or memory)        = 135 GB              40 ms       134 ms
    keys                16 N^2 P bytes       = 0.88 GB            0.3 ms       0.9 ms
    LNAMD, 3 degrees    16 N P C bytes       = 4.5 GB             1.3 ms       4.5 ms
    rounding to int8    5 N P C bytes        = 1.4 GB             0.4 ms       1.4 ms
    interval mean       4 N^2 P bytes        = 0.22 GB           0.07 ms      0.22 ms

The official code does 2 N (N-1) P^2 C operations (no symmetry) and stores each distance.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from musc_fast.backends import rounded_images
from musc_fast.backends.triton import all_channels, few_channels, streaming
from musc_fast.kernels import candidates, min_distance, quantise, tiles
from musc_fast.kernels import min_distance_few_channels as resident
from musc_fast.kernels.devices import arch_of
from musc_fast.settings import SearchOptions

from .gpu_parity import backends_of, load_backend
from .official import count_lowest, distances_by_pairs, mean_of_lowest, other_images
from .synthetic import draw_tokens
from .timing import Call, Timing, time_on_device

Row = dict[str, Any]
Space = tuple[torch.dtype, int | None]  # of operands, and their width: None for all channels

USUAL: tuple[Space, ...] = ((torch.float16, None), (torch.int8, 128))
SPACES: tuple[Space, ...] = (
    *((dtype, None) for dtype in (torch.float16, torch.bfloat16, torch.int8)),
    *((torch.int8, width) for width in (64, 128, 256)),
)
_HALF_ASK = "few channels: second pass, half of the patches"


def _row(what: str, timing: Timing, **more: Any) -> Row:
    return {"what": what, "seconds": timing.median, "spread": timing.spread, **more}


def product_limits(size: int, device: torch.device, runs: int) -> Iterator[Row]:
    """Matrix products [size, size] x [size, size] by cuBLAS (on a CPU by torch)."""
    calls: dict[str, Call] = {}
    for dtype in (torch.float16, torch.bfloat16):
        x, y = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
        calls[f"matrix product, {name_of(dtype)}"] = partial(torch.mm, x, y.T)
    x, y = (torch.randint(-127, 128, (size, size), device=device).to(torch.int8) for _ in "xy")
    calls["matrix product, int8"] = partial(torch._int_mm, x, y.T)
    for name, timing in time_on_device(calls, device, runs).items():
        yield _row(name, timing, tera_operations=2 * size**3 / timing.median / 1e12)


def name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _operands(z: Tensor, spaces: Sequence[Space]) -> Iterator[rounded_images.RoundedImages]:
    """The operands of `spaces` that this device and these channels have."""
    for dtype, width in spaces:
        # Triton's interpreter multiplies bfloat16 wrongly.
        known = z.device.type == "cuda" or dtype != torch.bfloat16
        if known and (width is None or 2 * width <= z.shape[2]):
            channels = None if width is None else width - 1
            yield rounded_images.fit_space(z, None, dtype, channels).apply(z)


def configs_of(
    arch: int, dtype: torch.dtype, p: int, depth: int
) -> dict[str, tuple[tiles.Config, bool | None]]:
    """Configs to compare, and whether to load by descriptors; first the one that `msm` takes.

    p, depth: the patches of an image and their channels.
    """
    usual = tiles.pick_config(arch, dtype, p, p, depth)
    found: dict[str, tuple[tiles.Config, bool | None]] = {"": (usual, None)}
    if depth <= resident.LARGEST_DEPTH or p <= 128:
        return found
    step = 128 // dtype.itemsize  # channels of 128 bytes
    if arch == 90:
        for rows, columns, channels, warps, stages in (
            (128, 128, step // 2, 4, 7),
            (128, 256, step, 8, 4),
            (256, 128, step, 8, 4),
            (128, 256, step // 2, 8, 8),
        ):
            name = f", {rows} x {columns} x {channels}, {warps} warps, {stages} stages"
            found[name] = (tiles.Config(rows, columns, channels, 2, warps, stages), None)
    found[", 8 warps, 128 registers"] = (replace(usual, num_warps=8, max_registers=128), None)
    found[", group x 2"] = (replace(usual, GROUP=2 * usual.GROUP), None)
    found[", by pointers"] = (usual, False)
    specialised = tiles.specialise_warps(usual, arch)
    if specialised is not None:
        found[", specialised warps"] = (specialised, None)
    return found


def search_rows(
    z: Tensor,
    products: dict[str, float],
    runs: int,
    spaces: Sequence[Space] = USUAL,
    *,
    variants: bool = False,
) -> Iterator[Row]:
    """The search over operands of `spaces` and its second pass: rates of executed operations.

    products: the rates of products by dtype.
    variants: for several configs.
    """
    n, p, _ = z.shape
    for side in _operands(z, spaces):
        depth, dtype = side.values.shape[2], name_of(side.values.dtype)
        keys = min_distance.new_keys(n, n, p, z.device)
        both = (side.values, side.norms, side.values, side.norms)
        few = depth <= resident.LARGEST_DEPTH
        calls: dict[str, Call] = {}
        if not few and all_channels.takes_cuda_kernel(side.values, side.values):
            calls[f"search, {dtype}, {depth} channels, CUDA C++"] = partial(
                all_channels.find_nearest, *both, keys, triangle=True
            )
        configs = configs_of(arch_of(z.device), side.values.dtype, p, depth)
        for suffix in configs if variants else [""]:
            config, descriptors = configs[suffix]
            calls[f"search, {dtype}, {depth} channels{suffix}"] = partial(
                min_distance.find_nearest,
                *both,
                keys,
                triangle=True,
                config=config,
                descriptors=descriptors,
            )
        if few:
            calls[f"few channels: search, {depth} channels"] = partial(
                few_channels.find_nearest, *both, keys, triangle=True
            )
        if few and variants:
            calls[f"few channels: search by Triton, {depth} channels"] = partial(
                resident.find_nearest_few_channels, *both, keys, triangle=True
            )
        wanted: Tensor | None = None
        for name, call in calls.items():
            keys.fill_(min_distance.UNSET)
            call()
            found = min_distance.decode_keys(keys, side.exact)[0]
            wanted = found if wanted is None else wanted
            allowed = 2 * side.error(side.largest()) / side.scale**2
            same = torch.where(torch.isinf(wanted), 0.0, found - wanted).abs().max()
            if not float(same) <= allowed:
                raise SystemExit(f"{name}: off by {float(same):.1e}, allowed {allowed:.1e}")
        assert wanted is not None
        calls |= _second_pass(side, keys, wanted, few=few)
        work = n * (n - 1) * p * p * depth / 1e12
        for name, timing in time_on_device(calls, z.device, runs).items():
            if name == _HALF_ASK:  # how much it multiplies depends on the data
                yield _row(f"{name}, {dtype}, {depth} channels", timing)
                continue
            rate = work / timing.median
            row = _row(name, timing, tera_operations=rate, of_product=rate / products[dtype])
            # "usual" marks the config that the library itself takes at this shape.
            yield row | ({"usual": 1} if name == next(iter(calls)) else {})


def _second_pass(
    side: rounded_images.RoundedImages, keys: Tensor, found: Tensor, *, few: bool
) -> dict[str, Call]:
    """The second pass; found [N, N, P]: the squared distances that the keys hold."""
    both = (side.values, side.norms, side.values, side.norms)
    _, p, depth = side.values.shape
    limits = torch.full(keys.shape, -torch.inf, device=keys.device)
    if not few:
        limits[..., ::64] = 0.0  # a patch of every tile, so that every tile is multiplied
        arguments = (*both, keys, limits, 1 << 20)
        call = partial(candidates.list_candidates, *arguments, triangle=True)
        return {f"second pass, {name_of(side.values.dtype)}, {depth} channels": call}
    # For as many patches as in a search: the CUDA kernels multiply no others.
    limits[..., ::2] = torch.where(torch.isinf(found), -torch.inf, 1.05 * found)[..., ::2]
    ranges = few_channels.count_ranges(side.values.dtype, depth, p, keys.device)
    least = few_channels.new_least(keys, ranges)
    few_channels.find_nearest(*both, keys, triangle=True, least=least)
    arguments = (*both, keys, limits, 1 << 24)
    return {
        _HALF_ASK: partial(few_channels.list_candidates, *arguments, triangle=True, least=least)
    }


def memory_rows(
    n: int, grid: tuple[int, int], c: int, device: torch.device, runs: int
) -> Iterator[Row]:
    """The operators that move bytes: their share of a copy's bandwidth."""
    p = grid[0] * grid[1]
    tokens = draw_tokens(n, p, c, device)
    rows = torch.nn.functional.normalize(tokens, dim=2).view(-1, c)
    target = torch.empty_like(tokens)
    distances = torch.rand(n, p, n, device=device)
    squared = torch.rand(n, n, p, device=device)
    mean = rows[:: max(1, n * p // 4096)].mean(0)
    depth = -(-c // 32) * 32
    module = load_backend("triton")
    k = count_lowest(n - 1)
    size = n * p * c
    calls: dict[str, tuple[int, Call]] = {
        "copy": (8 * size, lambda: target.copy_(tokens)),
        "LNAMD, 3 degrees": (16 * size, lambda: module.lnamd(tokens, grid, [1, 3, 5])),
        "rounding to int8": (
            (4 * c + depth + 8) * n * p,
            lambda: quantise.quantise_rows(rows, mean, torch.int8, 0.003, depth, spread=True),
        ),
        "rounding to float16": (
            (4 * c + 2 * depth + 8) * n * p,
            lambda: quantise.quantise_rows(rows, mean, torch.float16, 1.0, depth, spread=False),
        ),
        "interval mean, [N, P, M]": (
            4 * n * n * p,
            lambda: streaming.average_interval(distances, 0, k),
        ),
        "interval mean, [N, M, P]": (
            4 * n * n * p,
            lambda: streaming.average_interval(squared.transpose(1, 2), 0, k, squared=True),
        ),
    }
    found = time_on_device({name: call for name, (_, call) in calls.items()}, device, runs)
    copied = calls["copy"][0] / found["copy"].median
    for name, timing in found.items():
        rate = calls[name][0] / timing.median
        yield _row(name, timing, tb_s=rate / 1e12, of_copy=rate / copied)


def official_scores(z: Tensor) -> Tensor:
    """The official mutual scoring of z [N, P, C], one torch.cdist a pair -> [N, P]."""
    count = count_lowest(len(z) - 1)
    return torch.stack(
        [mean_of_lowest(distances_by_pairs(z[i], other_images(z, i)), count) for i in range(len(z))]
    )


def msm_rows(z: Tensor, runs: int) -> Iterator[Row]:
    """The whole mutual scoring by every backend; by the official code on a few images."""
    n, p, c = z.shape
    few = z[: min(n, 12)]
    k = count_lowest(n - 1)
    calls: dict[str, tuple[Tensor, Call]] = {
        f"msm, {name} {precision}": (
            z,
            partial(load_backend(name).msm, z, None, 0, k, SearchOptions(precision)),
        )
        for name in backends_of(z.device)
        for precision in ("exact", "fast")
    }
    calls["msm, official (cdist)"] = (few, lambda: official_scores(few))
    found = time_on_device(
        {name: call for name, (_, call) in calls.items()}, z.device, min(runs, 3)
    )
    for name, timing in found.items():
        m = calls[name][0].shape[0]
        pairs = m * (m - 1)
        yield _row(
            name,
            timing,
            images=m,
            microseconds_a_pair=1e6 * timing.median / pairs,
            effective_tflops=2.0 * pairs * p * p * c / timing.median / 1e12,
        )


def large_msm_rows(z: Tensor, runs: int) -> Iterator[Row]:
    """The mutual scoring of a large batch z [N, P, C] by the Triton backend."""
    module, k = load_backend("triton"), count_lowest(len(z) - 1)
    calls: dict[str, Call] = {
        f"large msm, triton {precision}": partial(
            module.msm, z, None, 0, k, SearchOptions(precision)
        )
        for precision in ("exact", "fast")
    }
    for name, timing in time_on_device(calls, z.device, min(runs, 3)).items():
        pairs = len(z) * (len(z) - 1)
        yield _row(name, timing, images=len(z), microseconds_a_pair=1e6 * timing.median / pairs)


def memory_peak(z: Tensor) -> Row:
    """The peak memory of one exact msm on a GPU beside the bytes that its plan names."""
    from musc_fast.backends.triton.search import Search

    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    k = count_lowest(len(z) - 1)
    search = Search(z, None, k_max=k)
    for _, _, squared in search.chunks():
        streaming.average_interval(squared.transpose(1, 2), 0, k, squared=True)
        del squared
    used = torch.cuda.max_memory_allocated() - before
    planned = search.plan.bytes
    return {
        "what": "peak memory of msm",
        "planned_bytes": planned,
        "peak_bytes": used,
        "of_plan": used / planned,
    }


def show(rows: list[Row]) -> None:
    """Print a table of rows that have a "what", numbers, and names with numbers."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    names = [name for name in names if name not in ("what", "usual")]
    table = Table()
    table.add_column("what")
    for name in names:
        table.add_column(name.replace("_", " "), justify="right")
    for row in rows:
        table.add_row(row["what"], *(_shown(row.get(name)) for name in names))
    Console().print(table)


def _shown(value: float | dict[str, float] | None) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {number:.2g}" for name, number in value.items())
    return "" if value is None else f"{value:.4g}"
