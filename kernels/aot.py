"""Compile a kernel ahead of time, without a GPU, and read what the machine code uses.

Tests and the static report of benchmarks/ read instructions, registers, spills and shared memory.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from .devices import REGISTERS, THREADS, shared_memory

TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"


@dataclass(frozen=True)
class Compiled:
    """Machine code and what it uses.

    arch: 10 * major + minor of the compute capability.
    shared: bytes of shared memory a block.
    registers: of a thread.
    spills: bytes of stack and local memory a thread.
    """

    arch: int
    ptx: str
    cubin: bytes
    shared: int
    threads: int
    registers: int
    spills: int

    @property
    def occupancy(self) -> float:
        """Estimated share of a multiprocessor's threads that are resident at a time."""
        limit = THREADS.get(self.arch, 2048)
        registers = -(-self.registers // 8) * 8 * self.threads
        blocks = min(
            limit // self.threads,
            REGISTERS // max(registers, 1),
            (shared_memory(self.arch) + 1024) // (self.shared + 1024),
        )
        return blocks * self.threads / limit

    def sass(self) -> str:
        """The disassembly."""
        return _cuobjdump(self.cubin, "-sass")


def compile_kernel(
    kernel: Any, arch: int, arguments: Mapping[str, str | int | bool], **options: int
) -> Compiled:
    """The machine code of `kernel` for `arch`.

    arguments: for each argument a Triton type ("*fp16", "i32") or the value of a constant. Pointers
        are taken as 16-byte aligned, as torch allocates memory; a type that ends in ":16" says that
        the integer divides by 16.
    options: options of a launch (num_warps, num_stages).
    """
    signature: dict[str, str] = {}
    constants: dict[tuple[int, ...], Any] = {}
    attributes: dict[tuple[int, ...], Any] = {}
    for index, name in enumerate(kernel.arg_names):
        value = arguments[name]
        if not isinstance(value, str):
            signature[name], constants[(index,)] = "constexpr", value
            continue
        signature[name] = value.removesuffix(":16")
        if value.startswith("*") or value.endswith(":16"):
            attributes[(index,)] = [["tt.divisibility", 16]]
    source = ASTSource(kernel, signature, constants, attributes)
    # Every launch in kernels/ asks for fusion: Triton 3.9 warns where a launch
    # does not say, and 3.10 is to change the default.
    target, options = GPUTarget("cuda", arch, 32), {"enable_fp_fusion": True, **options}
    binary = triton.compile(source, target=target, options=options)
    cubin = binary.asm["cubin"]
    usage = _cuobjdump(cubin, "--dump-resource-usage")
    numbers = {key: int(value) for key, value in re.findall(r"(REG|STACK|LOCAL):(\d+)", usage)}
    threads = 32 * binary.metadata.num_warps * getattr(binary.metadata, "num_ctas", 1)
    declared = re.search(r"\.reqntid\s+(\d+)", binary.asm["ptx"])  # includes specialised warps
    return Compiled(
        arch,
        binary.asm["ptx"],
        cubin,
        binary.metadata.shared,
        int(declared[1]) if declared else threads,
        numbers["REG"],
        numbers["STACK"] + numbers["LOCAL"],
    )


def _cuobjdump(cubin: bytes, *options: str) -> str:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(cubin)
        command = [str(TOOLS / "cuobjdump"), *options, str(path)]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout
