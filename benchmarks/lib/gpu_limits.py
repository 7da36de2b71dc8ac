"""How long a tile of a search takes on an H100, from its instructions and bytes alone.

A multiprocessor is a closed system of two stations and a delay: R groups of warps go around, each
with a tile of its own. The first station is the product, with the slowest of tensor cores, shared
memory and L2; the second is the slowest of the pipes of ordinary instructions; the delay is what a
group waits for itself: latencies of instructions that depend on one another, and the start of a
block. Mean value analysis gives the tiles a cycle. Nothing is fitted to times of these kernels.

Rates, all of a multiprocessor and a cycle: the data sheet's for tensor cores (4096 operations of 16
bits, 8192 of int8), 128 bytes of shared memory, 4 instructions of a warp in all, 2 of the ALU, 4 of
the FMA pipe in floating point and 2 of integers, 1 of loads, stores and shuffles. Measured by ncu,
on other kernels or as shares: L2 gives 49 bytes, of which the winners' kernel took 0.96; a warp
alone issues every 2.4 cycles, the fixed latencies of ordinary code.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from .sass import Function, Instruction

MULTIPROCESSORS = 132
CLOCK = 1.7e9  # what ncu saw under the 16-bit search
OPERATIONS = {1: 8192.0, 2: 4096.0}  # of products a cycle, by the bytes of an entry
SHARED_BYTES = 128.0
L2_BYTES = 49.0 * 0.96
RATES = {"alu": 2.0, "fma": 4.0, "imad": 2.0, "lsu": 1.0, "xu": 0.5, "fp64": 2.0}
ISSUE = 4.0
CYCLES_AN_INSTRUCTION = 2.4
START = 1000.0  # cycles of a block before its first product: launch, addresses, first bytes


@dataclass(frozen=True)
class Tile:
    """What a group of warps does at a time.

    rows, columns, channels: of its product.
    size: bytes of an entry.
    warps: of the group.
    groups: how many share a multiprocessor.
    l2_bytes: that come from L2 for the tile.
    copied_bytes: that are written to shared memory for it: more where a cluster shares them.
    overlapped: the loop of products runs beside them; otherwise the group waits for products, and
        what else the loop holds follows.
    persistent: a block goes on with its next tile; otherwise each tile is a block's start.
    """

    rows: int
    columns: int
    channels: int
    size: int
    warps: int
    groups: int
    l2_bytes: float
    copied_bytes: float
    overlapped: bool = True
    persistent: bool = False


@dataclass(frozen=True)
class Counted:
    """Instructions of a warp for a tile by pipe, in the loop of products and elsewhere."""

    inside: Counter[str]
    outside: Counter[str]
    shape: tuple[int, int, int]
    rows_in_registers: bool

    @property
    def total(self) -> Counter[str]:
        return self.inside + self.outside


def count(function: Function, tile: Tile) -> Counted:
    """The instructions of a warp for a tile.

    The innermost loop with products runs as often as the tile's products ask for; a loop around it,
    where there is one, runs once a tile, and what lies outside both is left out; where there is
    none, the whole function runs once a tile.
    Raises ValueError where the function has no loop of products.
    """
    places = [k for k, each in enumerate(function.instructions) if each.product is not None]
    loops = [loop for loop in function.loops if loop.intersection(places)]
    if not loops:
        raise ValueError(f"{function.name}: no loop holds a product of a group of warps")
    inner, around = loops[0], loops[1:2]
    everything = around[0] if around else frozenset(range(len(function.instructions)))
    rows, columns, channels = shape = _product(function.instructions[min(inner & set(places))])
    wanted = tile.rows * tile.columns * tile.channels / (rows * columns * channels)
    wanted /= tile.warps / 4
    peeled = sum(place in everything and place not in inner for place in places)
    turns = (wanted - peeled) / len(inner.intersection(places))
    inside: Counter[str] = Counter()
    for pipe, number in _pipes(function, inner).items():
        inside[pipe] = round(number * turns)
    return Counted(
        inside,
        _pipes(function, everything - inner),
        shape,
        function.instructions[min(inner & set(places))].rows_in_registers,
    )


def _product(instruction: Instruction) -> tuple[int, int, int]:
    assert instruction.product is not None
    return instruction.product


def _pipes(function: Function, places: Iterable[int]) -> Counter[str]:
    return Counter(_pipe(function.instructions[place]) for place in places)


def _pipe(instruction: Instruction) -> str:
    """The pipe, with integer multiplications, which only half of the FMA pipe does, apart."""
    return "imad" if instruction.base == "IMAD" else instruction.pipe


def stations(tile: Tile, counted: Counted) -> dict[str, float]:
    """Cycles of a multiprocessor that a tile takes of each part of it, were that part alone."""
    operations = 2.0 * tile.rows * tile.columns * tile.channels
    rows, columns, channels = counted.shape
    products = operations / (2.0 * rows * columns * channels)
    operands = (0 if counted.rows_in_registers else rows) + columns
    shared = tile.copied_bytes + products * operands * channels * tile.size
    found = {
        "tensor": operations / OPERATIONS[tile.size],
        "shared": shared / SHARED_BYTES,
        "l2": tile.l2_bytes / L2_BYTES,
        "issue": counted.total.total() * tile.warps / ISSUE,
    }
    total = counted.total
    for pipe, rate in RATES.items():
        found[pipe] = total[pipe] * tile.warps / rate
    found["fma"] += found["imad"] / 2  # both halves are one pipe to floating point
    return found


PRODUCT_STATIONS = ("tensor", "shared", "l2")


def cycles_a_tile(tile: Tile, counted: Counted) -> float:
    """Cycles of a multiprocessor a tile, by mean value analysis of its groups."""
    taken = stations(tile, counted)
    product = max(taken[name] for name in PRODUCT_STATIONS)
    pipes = max(cycles for name, cycles in taken.items() if name not in PRODUCT_STATIONS)
    alone = counted.outside if tile.overlapped else counted.total
    delay = max(0.0, alone.total() * CYCLES_AN_INSTRUCTION - pipes)
    delay += 0.0 if tile.persistent else START
    return tile_time(product, pipes, delay, tile.groups)


def tile_time(product: float, pipes: float, delay: float, groups: int) -> float:
    """The cycles between two tiles where `groups` go around two stations and a delay."""
    waiting = {"product": 0.0, "pipes": 0.0}
    rate = 0.0
    for present in range(1, groups + 1):
        at_product = product * (1 + waiting["product"])
        at_pipes = pipes * (1 + waiting["pipes"])
        rate = present / (at_product + at_pipes + delay)
        waiting = {"product": rate * at_product, "pipes": rate * at_pipes}
    return 1 / rate
