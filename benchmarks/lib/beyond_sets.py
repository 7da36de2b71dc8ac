"""Labelled sets for the stages beyond MuSc: still, moved, turned and lit parts; real products.

Every builder gives one or more lists of samples, a list a seed; the figures are means over them.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from musc_fast.datasets.layouts import Sample, load_mvtec
from musc_fast.datasets.sample.draw import draw_sample

from .checkout import SHARED
from .labelled_sets import choose_samples

BOARDS = SHARED / "tools" / "draw_boards.py"
SEEDS = (5, 6, 7)


@dataclass(frozen=True)
class Source:
    """Where sets come from.

    data: the folder of the real sets.
    scratch: an empty folder for drawings.
    each: good images of a set, and as many defect images.
    seeds: of the drawings.
    """

    data: Path
    scratch: Path
    each: int
    seeds: tuple[int, ...]


Builder = Callable[[Source], list[list[Sample]]]


def real_set(name: str) -> Builder:
    """A set of the data folder, as accuracy.py chooses its images."""

    def build(source: Source) -> list[list[Sample]]:
        folder = source.data / name
        return [choose_samples(folder, source.each)] if folder.is_dir() else []

    return build


def boards(**options: float) -> Builder:
    """Drawn circuit boards, by options of draw_boards.py: shift (pixels), turn (degrees), light."""

    def build(source: Source) -> list[list[Sample]]:
        if not BOARDS.is_file():
            return []
        sets = []
        for seed in source.seeds:
            name = "_".join(f"{key}{value:g}" for key, value in options.items()) or "still"
            folder = source.scratch / f"boards_{name}_{seed}"
            arguments = [f"--{key}={value:g}" for key, value in options.items()]
            command = [sys.executable, str(BOARDS), str(folder), f"--seed={seed}", *arguments]
            subprocess.run(command, check=True)
            sets.append(list(load_mvtec(folder)[0].samples))
        return sets

    return build


def drawn_parts(source: Source) -> list[list[Sample]]:
    """The parts of the demo, half of them with a defect."""
    folder = source.scratch / "parts"
    draw_sample(folder, count=2 * source.each, defects=source.each)
    return [list(load_mvtec(folder)[0].samples)]


SETS: dict[str, Builder] = {
    "metal plates": real_set("mpdd_metal_plate"),
    "KolektorSDD": real_set("kolektorsdd"),
    "parts": drawn_parts,
    "boards": boards(),
    "boards moved": boards(shift=10),
    "boards turned": boards(turn=3),
    "boards moved and turned": boards(shift=10, turn=3),
    "boards lit": boards(light=0.1),
}
