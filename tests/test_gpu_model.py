"""The static model of the searches: the disassembly is read rightly, and its law holds."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib import gpu_limits, sass

# A kernel in the form of the search: a loop of two products of 64 x 128 x 16 whose wait has an
# out-of-line part behind the end, and an epilogue after the loop.
SEARCH = """
	code for sm_90a
		Function : _search_kernel
	.headerflags	@"EF_CUDA_SM90 EF_CUDA_VIRTUAL_SM(EF_CUDA_SM90)"
        /*0000*/                   LDC R1, c[0x0][0x28] ; /* 0x0 */
                                                            /* 0x0 */
        /*0010*/                   S2R R8, SR_CTAID.X ; /* 0x0 */
                                                            /* 0x0 */
        /*0020*/                   UMOV UR4, 0x10 ; /* 0x0 */
        /*0030*/                   SYNCS.PHASECHK.TRANS64.TRYWAIT P0, [UR9], R5 ; /* 0x0 */
        /*0040*/              @!P0 BRA 0xf0 ; /* 0x0 */
        /*0050*/                   HGMMA.64x128x16.F32 R88, gdesc[UR20], R88 ; /* 0x0 */
        /*0060*/                   HGMMA.64x128x16.F32 R88, gdesc[UR24], R88, gsb0 ; /* 0x0 */
        /*0070*/                   IADD3 R4, R4, 0x40, RZ ; /* 0x0 */
        /*0080*/                   ISETP.NE.AND P0, PT, R4, R7, PT ; /* 0x0 */
        /*0090*/               @P0 BRA 0x30 ; /* 0x0 */
        /*00a0*/                   FFMA R2, R88, -2, R9 ; /* 0x0 */
        /*00b0*/                   IMAD.MOV.U32 R3, RZ, RZ, R2 ; /* 0x0 */
        /*00c0*/                   SHFL.BFLY PT, R5, R2, 0x1, 0x1f ; /* 0x0 */
        /*00d0*/                   VIMNMX R2, R2, R5, PT ; /* 0x0 */
        /*00e0*/                   EXIT ; /* 0x0 */
        /*00f0*/                   SYNCS.PHASECHK.TRANS64.TRYWAIT P0, [UR9], R5 ; /* 0x0 */
        /*0100*/              @!P0 BRA 0xf0 ; /* 0x0 */
        /*0110*/                   BRA 0x50 ; /* 0x0 */
        /*0120*/                   BRA 0x120; /* 0x0 */
"""
# Rows in registers; a loop within a loop, as of the search over few channels.
NESTED = """
		Function : _few_kernel
        /*0000*/                   MOV R1, c[0x0][0x28] ; /* 0x0 */
        /*0010*/                   LDGSTS.E.BYPASS.128 [R5], desc[UR4][R2.64] ; /* 0x0 */
        /*0020*/                   BAR.SYNC.DEFER_BLOCKING 0x0 ; /* 0x0 */
        /*0030*/                   IGMMA.64x32x32.S8.S8 R40, R84, gdesc[UR8], RZ, !UPT ; /* 0x0 */
        /*0040*/                   VIMNMX3 R2, R40, R41, R2, PT ; /* 0x0 */
        /*0050*/               @P1 BRA 0x30 ; /* 0x0 */
        /*0060*/               @P0 BRA 0x10 ; /* 0x0 */
        /*0070*/                   REDG.E.MIN.S64 desc[UR4][R2.64], R4 ; /* 0x0 */
        /*0080*/                   EXIT ; /* 0x0 */
"""


def tile(**fields: float | bool) -> gpu_limits.Tile:
    usual = {
        "rows": 64,
        "columns": 128,
        "channels": 1024,
        "size": 2,
        "warps": 4,
        "groups": 2,
        "l2_bytes": 393216.0,
        "copied_bytes": 393216.0,
    }
    return gpu_limits.Tile(**(usual | fields))  # type: ignore[arg-type]


def test_instructions_are_read() -> None:
    (function,) = sass.parse(SEARCH).values()
    assert function.name == "_search_kernel"
    assert len(function.instructions) == 19
    branch = function.instructions[4]
    assert (branch.address, branch.base, branch.predicate, branch.target) == (64, "BRA", "!P0", 240)
    product = function.instructions[6]
    assert product.product == (64, 128, 16)
    assert not product.rows_in_registers
    pipes = [each.pipe for each in function.instructions[10:15]]
    assert pipes == ["fma", "fma", "lsu", "alu", "control"]
    with pytest.raises(ValueError, match="no function"):
        sass.parse("code for sm_90a")


def test_the_way_back_from_a_wait_is_no_loop() -> None:
    (function,) = sass.parse(SEARCH).values()
    addresses = [{function.instructions[k].address for k in loop} for loop in function.loops]
    body = {*range(0x30, 0xA0, 0x10), 0xF0, 0x100, 0x110}
    assert addresses == [{0xF0, 0x100}, body]  # the turns of the wait, and no more than the loop


def test_products_say_how_often_the_loop_runs() -> None:
    (function,) = sass.parse(SEARCH).values()
    counted = gpu_limits.count(function, tile())
    # 64 products of 16 channels, two a turn: 32 turns; the wait's way back lies in the loop.
    assert counted.inside["tensor"] == 64
    assert counted.inside["alu"] == 64
    assert counted.outside["fma"] == 1
    assert counted.outside["imad"] == 1
    assert counted.outside["lsu"] == 2  # LDC, SHFL
    assert counted.shape == (64, 128, 16)
    # Two groups of four warps share the rows of a tile of 128.
    assert gpu_limits.count(function, tile(rows=128, warps=8)).inside == counted.inside
    assert gpu_limits.count(function, tile(rows=128)).inside["tensor"] == 128


def test_a_loop_around_runs_once_a_tile() -> None:
    (function,) = sass.parse(NESTED).values()
    few = tile(rows=128, columns=128, channels=128, size=1, overlapped=False, persistent=True)
    counted = gpu_limits.count(function, few)
    assert counted.rows_in_registers
    assert counted.inside == Counter(tensor=32, alu=32, control=32)
    assert counted.outside == Counter(lsu=1, control=2)  # what is before and behind is left out
    taken = gpu_limits.stations(few, counted)
    assert taken["tensor"] == 2 * 128**3 / 8192
    # A product reads 32 columns of 32 channels; rows lie in registers.
    assert taken["shared"] == (393216 + 32 * 32 * 32) / 128
    assert taken["issue"] == counted.total.total()


def test_a_kernel_without_products_is_refused() -> None:
    text = NESTED.replace("IGMMA.64x32x32.S8.S8 R40, R84, gdesc[UR8], RZ, !UPT", "NOP")
    (function,) = sass.parse(text).values()
    with pytest.raises(ValueError, match="no loop"):
        gpu_limits.count(function, tile())


@given(
    st.floats(1, 1e5),
    st.floats(0, 1e5),
    st.floats(0, 1e5),
    st.integers(1, 8),
)
def test_the_law_of_a_closed_system(
    product: float, pipes: float, delay: float, groups: int
) -> None:
    found = gpu_limits.tile_time(product, pipes, delay, groups)
    alone = product + pipes + delay
    slack = 1 + 1e-9
    assert found * slack >= max(product, pipes, alone / groups)
    assert found <= alone * slack
    assert gpu_limits.tile_time(product, pipes, delay, groups + 1) <= found * slack
    assert gpu_limits.tile_time(product, pipes, delay, 1) == pytest.approx(alone)


@pytest.mark.slow
def test_the_search_as_it_is_compiled() -> None:
    pytest.importorskip("triton")
    import gpu_model

    if not (gpu_model.TOOLS / "cuobjdump").is_file():
        pytest.skip("this Triton ships no cuobjdump")
    kernel = next(gpu_model.triton_kernels())
    counted = gpu_limits.count(kernel.function, kernel.tile)
    assert kernel.what == "search, float16, 1024 channels"
    assert counted.shape == (64, 128, 16)
    assert counted.total["tensor"] == 2 * 1024 / 16
    # ncu counted 3340 instructions of a warp for a tile (Triton 3.6).
    assert 2500 < counted.total.total() < 4500
    row = gpu_model.predict(kernel, {"float16": 700.0})
    assert row["cycles_of"]["tensor"] == 2 * 128 * 128 * 1024 / 4096
    assert row["of_product"] == pytest.approx(row["tera_operations"] / 700.0)
