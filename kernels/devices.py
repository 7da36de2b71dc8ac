"""What a launch config must know of a GPU: its architecture and its shared memory."""

from __future__ import annotations

import torch
from torch import Tensor

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


def arch_of(tensor: Tensor) -> int:
    """The architecture of the GPU that holds `tensor`; 80 for CPU tensors (the interpreter)."""
    if tensor.device.type != "cuda":
        return 80
    major, minor = torch.cuda.get_device_capability(tensor.device)
    return 10 * major + minor


def next_power_of_2(value: int) -> int:
    return 1 << max(0, value - 1).bit_length()
