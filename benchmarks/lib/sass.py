"""Machine code as cuobjdump prints it: instructions, loops, pipes; nothing here needs a GPU."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

_LINE = re.compile(
    r"^\s+/\*([0-9a-f]{4,})\*/\s+(?:@(!?U?P\w+)\s+)?([A-Z][\w.]*)\s*([^;]*);", re.MULTILINE
)
_MEMORY = ("LD", "ST", "ATOM", "RED", "SHFL")  # opcodes of the load and store units begin so
_PRODUCT = re.compile(r"[HIQ]GMMA\.(\d+)x(\d+)x(\d+)")
# Opcodes by the pipe that executes them (Hopper); whatever is not named here goes to the ALU.
_PIPES = {
    "fma": ("FADD", "FMUL", "FFMA", "IMAD", "HFMA2", "HADD2", "HMUL2", "IDP"),
    "xu": ("MUFU", "I2F", "F2I", "F2F", "I2I", "POPC", "FLO", "BREV", "FRND"),
    "fp64": ("DADD", "DMUL", "DFMA", "DSETP", "DMNMX"),
    "tensor": ("HGMMA", "IGMMA", "QGMMA", "HMMA", "IMMA", "DMMA"),
    "control": (
        *("BRA", "BSSY", "BSYNC", "EXIT", "RET", "CALL", "NOP", "BAR", "SYNCS", "WARPSYNC"),
        *("DEPBAR", "LDGDEPBAR", "WARPGROUP", "MEMBAR", "FENCE", "ERRBAR", "CCTL", "ARRIVES"),
        *(
            "NANOSLEEP",
            "YIELD",
            "BREAK",
            "BMOV",
            "ELECT",
            "VOTE",
            "S2R",
            "CS2R",
            "S2UR",
            "BPT",
            "KILL",
        ),
    ),
}


@dataclass(frozen=True)
class Instruction:
    """address: in bytes; predicate: of the execution, or None; operands: as they are printed."""

    address: int
    opcode: str
    predicate: str | None
    operands: str

    @property
    def base(self) -> str:
        """The opcode without modifiers."""
        return self.opcode.split(".")[0]

    @property
    def pipe(self) -> str:
        """The pipe that executes it: alu, fma, lsu, xu, fp64, tensor, control or uniform."""
        if self.base.startswith(("U", "R2U", "VOTEU")):
            return "uniform"
        for pipe, names in _PIPES.items():
            if self.base in names:
                return pipe
        return "lsu" if self.base.startswith(_MEMORY) else "alu"

    @property
    def product(self) -> tuple[int, int, int] | None:
        """Rows, columns and channels of a product of a group of four warps; None for others."""
        found = _PRODUCT.match(self.opcode)
        return None if found is None else (int(found[1]), int(found[2]), int(found[3]))

    @property
    def rows_in_registers(self) -> bool:
        """Whether a product takes its rows from registers: R is named twice before the columns."""
        return len(re.findall(r"\bR\d+", self.operands.split("gdesc")[0])) > 1

    @property
    def target(self) -> int | None:
        """The address that a branch jumps to."""
        found = re.search(r"0x([0-9a-f]+)", self.operands)
        return int(found[1], 16) if self.base == "BRA" and found else None


@dataclass(frozen=True)
class Function:
    """A kernel's instructions in order of their addresses."""

    name: str
    instructions: tuple[Instruction, ...]

    @cached_property
    def loops(self) -> list[frozenset[int]]:
        """The natural loops as sets of places in `instructions`, inner ones before outer ones.

        A jump back to code that is also reached otherwise (the out-of-line part of a wait, say) is
        no loop: the head of a loop dominates the jump.
        """
        after, before = self._edges()
        above = _dominators(after, before)
        bodies: dict[int, set[int]] = {}
        for place, next_places in enumerate(after):
            for head in next_places:
                if head in above[place]:
                    bodies.setdefault(head, set()).update(_body(head, place, before))
        return sorted((frozenset(body) for body in bodies.values()), key=len)

    def _edges(self) -> tuple[list[list[int]], list[list[int]]]:
        places = {each.address: k for k, each in enumerate(self.instructions)}
        after: list[list[int]] = []
        for k, each in enumerate(self.instructions):
            found = [] if each.target is None else [places[each.target]]
            ends = each.base in ("BRA", "EXIT", "RET") and each.predicate is None
            if each.base == "BRA" and re.match(r"!?U?P\d", each.operands):
                ends = False  # a condition among the operands
            if not ends and k + 1 < len(self.instructions):
                found.append(k + 1)
            after.append(found)
        before: list[list[int]] = [[] for _ in after]
        for k, found in enumerate(after):
            for each_place in found:
                before[each_place].append(k)
        return after, before

    def loops_of(self, places: Iterable[int]) -> list[frozenset[int]]:
        """The loops that hold all of `places`, the innermost first."""
        wanted = set(places)
        return [loop for loop in self.loops if wanted <= loop]


def _dominators(after: list[list[int]], before: list[list[int]]) -> list[frozenset[int]]:
    """For each place those that every way from the first one passes, as far as they start blocks.

    Only places where control flow joins or is joined can be heads of loops, so the sets hold these.
    """
    heads = {0} | {k for k, found in enumerate(before) if len(found) != 1}
    heads |= {k for found in after if len(found) > 1 for k in found}
    every = frozenset(heads)
    above = [every for _ in after]
    above[0] = frozenset({0})
    changed = True
    while changed:
        changed = False
        for k in range(1, len(after)):
            if not before[k]:
                continue
            met = frozenset.intersection(*(above[each] for each in before[k]))
            found = met | ({k} if k in heads else frozenset())
            if found != above[k]:
                above[k], changed = found, True
    return above


def _body(head: int, tail: int, before: list[list[int]]) -> set[int]:
    body, waiting = {head}, [tail]
    while waiting:
        place = waiting.pop()
        if place not in body:
            body.add(place)
            waiting += before[place]
    return body


def parse(text: str) -> dict[str, Function]:
    """The functions of cuobjdump's `-sass` by their names.

    Raises ValueError where there is none.
    """
    found = {}
    for part in re.split(r"^\s*Function : ", text, flags=re.MULTILINE)[1:]:
        name, _, rest = part.partition("\n")
        found[name.strip()] = Function(
            name.strip(),
            tuple(
                Instruction(int(address, 16), opcode, predicate or None, operands.strip())
                for address, predicate, opcode, operands in _LINE.findall(rest)
            ),
        )
    if not found:
        raise ValueError("no function in the disassembly")
    return found
