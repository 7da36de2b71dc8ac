"""The CUDA kernels of csrc/cuda compiled for the CPU: `cuda_emulator/cuda_runtime.h` says how."""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

SOURCES = Path(__file__).resolve().parents[2] / "csrc" / "cuda"
EMULATOR = Path(__file__).with_name("cuda_emulator")
_LAUNCH = re.compile(r"kernel<<<(.*?), (.*?), .*?, .*?>>>\((.*?)\);")
_SHARED = re.compile(r"extern __shared__ __align__\(\d+\) int8_t memory\[\];")
_DOORS = """
#include "find_nearest_16.hpp"
#include "interval_mean.hpp"
#include "lnamd.hpp"
#include "pairs.hpp"
#include "winners.hpp"
using namespace musc::cuda;
extern "C" int nearest(const Pairs* pairs) { return find_nearest(*pairs, nullptr); }
extern "C" int nearest_16(const Pairs16* pairs) { return find_nearest_16(*pairs, nullptr); }
extern "C" int candidates(const Pairs* pairs, const Candidates* candidates) {
  return list_candidates(*pairs, *candidates, nullptr);
}
extern "C" int winners(const Winners* winners) { return recompute_winners(*winners, nullptr); }
extern "C" int lnamd(const Tokens* tokens) { return aggregate_neighbourhoods(*tokens, nullptr); }
extern "C" int tiles(int height, int width, int channels, int rows) {
  return count_tiles(height, width, channels, rows);
}
extern "C" int interval(const Rows* rows) { return average_interval(*rows, nullptr); }
"""


class Pairs(ctypes.Structure):
    """`Pairs` of csrc/cuda/pairs.hpp."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("x", "y", "x_norms", "y_norms", "keys", "least")),
        *((name, ctypes.c_int) for name in ("images", "others", "patches", "other_patches")),
        *((name, ctypes.c_int) for name in ("channels", "all", "first")),
        ("triangle", ctypes.c_bool),
    ]


class Pairs16(ctypes.Structure):
    """`Pairs16` of csrc/cuda/find_nearest_16.hpp."""

    _fields_ = [
        *(field for field in Pairs._fields_ if field[0] != "least"),
        ("bfloat", ctypes.c_bool),
    ]


class Candidates(ctypes.Structure):
    """`Candidates` of csrc/cuda/pairs.hpp."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("limits", "count", "slots", "patches")),
        ("room", ctypes.c_int64),
    ]


class Winners(ctypes.Structure):
    """`Winners` of csrc/cuda/winners.hpp."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("x", "y", "keys", "kth", "x_errors", "y_errors")),
        *((name, ctypes.c_void_p) for name in ("error", "out")),
        *((name, ctypes.c_int) for name in ("images", "held", "others", "patches")),
        *((name, ctypes.c_int) for name in ("other_patches", "channels", "first")),
        ("scale_squared", ctypes.c_float),
        *((name, ctypes.c_bool) for name in ("integers", "certified")),
    ]


class Tokens(ctypes.Structure):
    """`Tokens` of csrc/cuda/lnamd.hpp."""

    _fields_ = [
        ("x", ctypes.c_void_p),
        *((name, ctypes.c_int64) for name in ("stride_n", "stride_p")),
        *((name, ctypes.c_void_p) for name in ("sums", "count", "out_1", "out_3", "out_5")),
        *((name, ctypes.c_int) for name in ("images", "height", "width", "channels")),
        *((name, ctypes.c_int) for name in ("rows", "lag")),
    ]


class Rows(ctypes.Structure):
    """`Rows` of csrc/cuda/interval_mean.hpp."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("x", "out")),
        *((name, ctypes.c_int64) for name in ("stride_b", "stride_r", "stride_m")),
        *((name, ctypes.c_int) for name in ("batch", "rows", "columns", "k_min", "k_max")),
        *((name, ctypes.c_bool) for name in ("squared", "kth")),
    ]


@cache
def build() -> ctypes.CDLL:
    """Compile the kernels with the host's C++ compiler and load them, once a process."""
    folder = Path(tempfile.mkdtemp(prefix="emulated-cuda-"))
    try:
        return _build(folder)
    finally:
        shutil.rmtree(folder)  # what is loaded stays loaded


def _build(folder: Path) -> ctypes.CDLL:
    for path in SOURCES.iterdir():
        text = _LAUNCH.sub(r"emulator::launch(\1, \2, [&] { kernel(\3); });", path.read_text())
        text = _SHARED.sub("int8_t* memory = emulator::shared_memory;", text)
        (folder / (f"{path.stem}.cpp" if path.suffix == ".cu" else path.name)).write_text(text)
    for path in EMULATOR.iterdir():
        shutil.copy(path, folder)
    (folder / "doors.cpp").write_text(_DOORS)
    library = folder / "kernels.so"
    # Fibers jump between stacks, which the fortified longjmp takes for a fault.
    command = ["g++", "-std=c++20", "-O1", "-ffp-contract=off", "-U_FORTIFY_SOURCE"]
    command += ["-fPIC", "-shared", f"-I{folder}"]
    command += [*map(str, sorted(folder.glob("*.cpp"))), "-o", str(library)]
    subprocess.run(command, check=True, capture_output=True, text=True)
    return ctypes.CDLL(str(library))


def address(array: NDArray[Any]) -> int:
    """The address of a contiguous array's first entry."""
    assert array.flags.c_contiguous
    return array.ctypes.data


def make_pairs(
    x: NDArray[np.int8],
    y: NDArray[np.int8],
    norms: tuple[NDArray[np.int32], NDArray[np.int32]],
    keys: NDArray[np.int64],
    least: NDArray[np.uint16] | None,
    *,
    first: int,
    triangle: bool,
) -> Pairs:
    """The arguments for x [N, P, K] against y [M, Q, K] and keys [N, ALL, P]."""
    return Pairs(
        *(address(each) for each in (x, y, *norms, keys)),
        None if least is None else address(least),
        *(x.shape[0], y.shape[0], x.shape[1], y.shape[1], x.shape[2], keys.shape[1], first),
        triangle,
    )
