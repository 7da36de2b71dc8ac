"""Every kernel compiled ahead of time at its real config, and the machine code read."""

from __future__ import annotations

from functools import lru_cache

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed")

import static_report
from musc_fast.kernels.aot import TOOLS, Compiled
from musc_fast.kernels.devices import SHARED_MEMORY, int8_by_tcgen05, int8_gain, shared_memory
from musc_fast.kernels.tiles import pick_config, specialise_warps

pytestmark = pytest.mark.skipif(
    not (TOOLS / "cuobjdump").is_file(), reason="this Triton ships no cuobjdump"
)
ARCHITECTURES = (80, 90, 100)
TENSOR_CORES = {80: "mma.sync", 90: "wgmma.mma_async", 100: "tcgen05.mma"}
INT8_CORES = TENSOR_CORES | ({} if int8_by_tcgen05(100) else {100: "mma.sync"})


@lru_cache
def compiled(launch: str, arch: int, *arguments: object) -> Compiled:
    found: Compiled = getattr(static_report, launch)(*arguments).compile(arch)
    return found


def check(found: Compiled) -> None:
    assert found.spills == 0
    assert 0 < found.registers <= 255
    assert found.shared <= shared_memory(found.arch)
    assert found.occupancy > 0
    assert ".tf32" not in found.ptx


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize(
    ("channels", "dtype"),
    [(c, dtype) for c in (384, 768, 1024) for dtype in (torch.float16, torch.bfloat16)],
)
def test_search_in_16_bits(arch: int, channels: int, dtype: torch.dtype) -> None:
    found = compiled("search_launch", arch, arch, dtype, channels)
    check(found)
    assert TENSOR_CORES[arch] in found.ptx
    assert ("cp.async.bulk.tensor" in found.ptx) == (arch >= 90)  # TMA


def test_search_without_descriptors() -> None:
    found = static_report.search_launch(90, torch.float16, 768, descriptors=False).compile(90)
    check(found)
    assert TENSOR_CORES[90] in found.ptx
    assert "cp.async.bulk.tensor" not in found.ptx


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("channels", [64, 128, 256])
def test_resident_search(arch: int, channels: int) -> None:
    found = static_report.resident_launch(arch, torch.int8, channels).compile(arch)
    check(found)
    assert INT8_CORES[arch] in found.ptx


def test_resident_search_in_float16_where_int8_gains_nothing() -> None:
    assert int8_gain(90) > 1 > int8_gain(103)
    found = static_report.resident_launch(100, torch.float16, 128).compile(100)
    check(found)
    assert TENSOR_CORES[100] in found.ptx


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("channels", [384, 768, 1024])
def test_search_in_int8(arch: int, channels: int) -> None:
    found = compiled("search_launch", arch, arch, torch.int8, channels)
    check(found)
    assert INT8_CORES[arch] in found.ptx


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("channels", [384, 768, 1024])
@pytest.mark.parametrize("dtype", [torch.float16, torch.int8])
def test_second_pass(arch: int, dtype: torch.dtype, channels: int) -> None:
    found = static_report.search_launch(arch, dtype, channels, listing=True).compile(arch)
    check(found)
    assert (INT8_CORES if dtype == torch.int8 else TENSOR_CORES)[arch] in found.ptx


@pytest.mark.parametrize("dtype", [torch.float16, torch.int8])
def test_specialised_warps(dtype: torch.dtype) -> None:
    usual = pick_config(100, dtype, 1369, 1369, 768)
    assert specialise_warps(usual, 90) is None
    config = specialise_warps(usual, 100)
    assert config is not None
    launch = static_report.search_launch(100, dtype, 768, config=config)
    found = launch.compile(100)
    check(found)
    assert (INT8_CORES if dtype == torch.int8 else TENSOR_CORES)[100] in found.ptx
    assert "setmaxnreg" in found.ptx
    assert found.threads == 12 * 32
    plain = static_report.search_launch(100, dtype, 768).compile(100)
    assert "setmaxnreg" not in plain.ptx
    assert int(found.occupancy * 2048) // found.threads == 2  # blocks a multiprocessor


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_the_rest(arch: int) -> None:
    for launch in (
        static_report.interval_launch(200),
        *(static_report.local_launch(images) for images in (200, 32, 8)),
        *(static_report.lnamd_launch(c) for c in (384, 768, 1024)),
        *(static_report.refine_launch(c) for c in (384, 768, 1024)),
        *(static_report.refine_launch(c, fine=False) for c in (384, 1024)),
        *(static_report.winner_launch(c) for c in (384, 768, 1024)),
        *(static_report.bounds_launch(limits=limits) for limits in (False, True)),
        *(static_report.quantise_launch(c, torch.int8) for c in (128, 384, 768, 1024)),
        static_report.quantise_launch(1024, torch.float16),
        static_report.quantise_launch(1024, torch.bfloat16),
    ):
        check(launch.compile(arch))


def test_rounding_reads_and_writes_wide() -> None:
    sass = static_report.quantise_launch(1024, torch.int8).compile(90).sass()
    assert "LDG.E.128" in sass
    assert "STG.E.128" in sass
    assert "BAR.SYNC" not in sass  # a row never leaves its warp


@pytest.mark.parametrize("width", [64, 128, 256])
@pytest.mark.parametrize("rows", [1369, 273800])
def test_projection(rows: int, width: int) -> None:
    for residual in (False, True):
        found = static_report.project_launch(rows, width, residual=residual).compile(90)
        check(found)
        assert "wgmma.mma_async" in found.ptx


@pytest.mark.parametrize("few", [64, 128, 256])
def test_refinement_by_rows_in_a_subspace(few: int) -> None:
    check(static_report.refine_launch(1024, few=few).compile(90))


def test_rows_are_gathered_wide() -> None:
    for launch in (static_report.winner_launch(1024), static_report.refine_launch(1024)):
        assert "LDG.E.128" in launch.compile(90).sass()


def test_float32_products_are_no_tf32() -> None:
    found = compiled("search_launch", 90, 90, torch.float32, 384)
    check(found)
    assert "wgmma" not in found.ptx
    assert "fma.rn.f32" in found.ptx


def test_arguments_of_one_are_constants() -> None:
    # A launch takes an integer of 1 as a constant; every kernel must compile then too.
    for launch in (
        static_report.search_launch(90, torch.float16, 64, triangle=False, N=1, M=1, P=1, Q=1),
        static_report.search_launch(
            90, torch.float16, 40, triangle=False, descriptors=False, N=1, M=1, P=1, Q=1
        ),
        static_report.search_launch(90, torch.int8, 64, listing=True, N=1, ALL=1, FIRST=1, P=1),
        static_report.resident_launch(90, torch.int8, 64, N=1, M=1, P=1, Q=1, ALL=1),
        static_report.interval_launch(1, R=1, M=1, stride_b=1, stride_m=1),
        static_report.local_launch(2, N=1, M=1, H=1, W=1),
        static_report.lnamd_launch(40, "*fp16", H=1, W=1),
        static_report.lnamd_launch(40, H=1, C=1, stride_n=1, stride_p=1),
        static_report.quantise_launch(64, torch.int8, "*fp64", R=1, C=1),
        static_report.refine_launch(40, COUNT=1, M=1, P=1, Q=1, C=1),
        static_report.winner_launch(40, M=1, P=1, Q=1, C=1, IMAGES=1),
        static_report.bounds_launch(limits=True, M=1, P=1),
        static_report.project_launch(1, 64, residual=True, R=1, C=1),
    ):
        assert launch.compile(90).registers > 0


def test_configs_fit_every_device() -> None:
    for arch in SHARED_MEMORY:
        for dtype in (torch.float16, torch.bfloat16, torch.int8, torch.float32):
            for patches in (1, 37, 256, 1369):
                for depth in (32, 64, 96, 384, 768, 1024):
                    for listing in (False, True):
                        config = pick_config(arch, dtype, patches, patches, depth, listing=listing)
                        size = dtype.itemsize
                        assert 2 * config.shared_memory(size) <= shared_memory(arch)
                        assert depth % config.BLOCK_K == 0
                        assert config.BLOCK_K * size >= 32
