"""What a launch config must know of a GPU: its architecture and its shared memory."""

from __future__ import annotations

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
    """Bytes of shared memory a block may use; an unknown architecture is taken as its elder."""
    known = [each for each in SHARED_MEMORY if each <= arch]
    return SHARED_MEMORY[max(known)] if known else 48 << 10


def arch_of(device: torch.device) -> int:
    """The architecture of a GPU; 80 for the CPU (the interpreter)."""
    if device.type != "cuda":
        return 80
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor


def int8_by_tcgen05(arch: int) -> bool:
    """Whether Triton multiplies int8 by tcgen05, sm_100's own instruction.

    From Triton 3.8 on (triton-lang/triton#8463), and not on sm_103, which has none (#9773).
    """
    major, minor = (int(part) for part in triton.__version__.split(".")[:2])
    return arch == 100 and (major, minor) >= (3, 8)


def int8_gain(arch: int) -> float:
    """int8 operations in the time of one in 16 bits, about: twice by the data sheets.

    Where float16 has tcgen05 and int8 only the elder mma.sync, it is the slower one (an estimate).
    """
    return 0.5 if 100 <= arch < 120 and not int8_by_tcgen05(arch) else 2.0


def next_power_of_2(value: int) -> int:
    return 1 << max(0, value - 1).bit_length()
