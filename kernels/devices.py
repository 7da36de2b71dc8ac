"""Properties of GPUs that launch configs depend on: architecture, shared memory, instructions."""

from __future__ import annotations

from functools import cache

import torch
import triton

# Architecture (10 * major + minor) -> bytes of shared memory that one block may use.
SHARED_MEMORY = {
    75: 64 << 10,
    80: 163 << 10,
    86: 99 << 10,
    87: 163 << 10,
    89: 99 << 10,
    90: 227 << 10,
    100: 227 << 10,
    103: 227 << 10,
    120: 99 << 10,
    121: 99 << 10,
}
# Threads and registers of a multiprocessor, for estimates of occupancy.
THREADS = {75: 1024, 86: 1536, 89: 1536, 120: 1536, 121: 1536}
REGISTERS = 65536


def shared_memory(arch: int) -> int:
    """Bytes of shared memory that a block may use on `arch`.

    An architecture that the table lacks is taken as the nearest older one.
    """
    known = [each for each in SHARED_MEMORY if each <= arch]
    return SHARED_MEMORY[max(known)] if known else 48 << 10


def arch_of(device: torch.device) -> int:
    """The architecture of a GPU; 80 for the CPU (the interpreter)."""
    if device.type != "cuda":
        return 80
    return _arch_of_gpu(torch.cuda.current_device() if device.index is None else device.index)


@cache
def _arch_of_gpu(index: int) -> int:
    """Asked many times a search, which torch answers in microseconds each."""
    major, minor = torch.cuda.get_device_capability(index)
    return 10 * major + minor


def int8_by_tcgen05(arch: int) -> bool:
    """Whether Triton multiplies int8 by tcgen05, sm_100's own instruction.

    Triton does so from 3.8 on (triton-lang/triton#8463), but not for sm_103, whose tcgen05 has no
    int8 (#9773).
    """
    major, minor = (int(part) for part in triton.__version__.split(".")[:2])
    return arch == 100 and (major, minor) >= (3, 8)


def int8_gain(arch: int) -> float:
    """How many times as fast an int8 product is as one in 16 bits: 2 by the data sheets.

    Where float16 has tcgen05 and int8 only the older mma.sync, int8 is slower; 0.5 is an estimate.
    """
    return 0.5 if 100 <= arch < 120 and not int8_by_tcgen05(arch) else 2.0


def next_power_of_2(value: int) -> int:
    """The least power of 2 that is at least `value`."""
    return 1 << max(0, value - 1).bit_length()
