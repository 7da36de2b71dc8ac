"""Labelled sets for the stages beyond MuSc: still and moved, large, doubled, with one defect twice.

Every builder gives one or more lists of samples, a list a seed; the figures are means over them.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from musc_fast.datasets.layouts import Sample, load_mvtec
from musc_fast.datasets.sample.draw import draw_sample

from .checkout import SHARED
from .labelled_sets import choose_samples
from .large_pictures import draw_boards, draw_casts
from .repeated_defect import draw_repeats, make_stamp

BOARDS = SHARED / "tools" / "draw_boards.py"
SEEDS = (5, 6, 7)
STAMPS = (0, 4, 8)  # the drawn parts whose scratches are laid on others
PARTS = 18  # of a set with a defect that repeats


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


def doubled(name: str) -> Builder:
    """A set of the data folder in which each defective picture is there twice."""

    def build(source: Source) -> list[list[Sample]]:
        found = real_set(name)(source)
        for samples in found:
            for sample in [each for each in samples if each.label]:
                copy = source.scratch / name / sample.image.parent.name / sample.image.name
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(sample.image, copy)
                samples.append(replace(sample, image=copy))
        return found

    return build


def large_boards(defect: str) -> Builder:
    """Good large boards, and those with a defect: "bent" pin or "missing" part."""

    def build(source: Source) -> list[list[Sample]]:
        folder = source.scratch / "large_board"
        if not folder.exists():
            draw_boards(source.scratch)
        samples = load_mvtec(folder)[0].samples
        return [[each for each in samples if each.image.parent.name in ("good", defect)]]

    return build


def large_casts(source: Source) -> list[list[Sample]]:
    """Large cast surfaces, some with a hair scratch."""
    return [list(load_mvtec(draw_casts(source.scratch, good=10, bad=7))[0].samples)]


def repeats(count: int) -> Builder:
    """18 drawn parts of which `count`, drawn by lot, have the same scratch; a set a scratch."""

    def build(source: Source) -> list[list[Sample]]:
        sets = []
        for number in STAMPS:
            stamp, folder = make_stamp(number), source.scratch / f"repeats_{count}_{number}"
            chosen = set(np.random.default_rng(number).permutation(PARTS)[:count].tolist())
            for place, pixels in enumerate(draw_repeats(PARTS, chosen, stamp)):
                kind = "scratch" if place in chosen else "good"
                files = {folder / "test" / kind / f"{place:02d}.png": pixels}
                if place in chosen:
                    mask = folder / "ground_truth" / kind / f"{place:02d}_mask.png"
                    files[mask] = stamp.mask.astype(np.uint8) * 255
                for file, values in files.items():
                    file.parent.mkdir(parents=True, exist_ok=True)
                    Image.fromarray(values).save(file)
            sets.append(list(load_mvtec(folder)[0].samples))
        return sets

    return build


SETS: dict[str, Builder] = {
    "metal plates": real_set("mpdd_metal_plate"),
    "KolektorSDD": real_set("kolektorsdd"),
    "parts": drawn_parts,
    "boards": boards(),
    "boards moved": boards(shift=10),
    "boards turned": boards(turn=3),
    "boards moved and turned": boards(shift=10, turn=3),
    "boards lit": boards(light=0.1),
    "metal plates doubled": doubled("mpdd_metal_plate"),
    "KolektorSDD doubled": doubled("kolektorsdd"),
    "large boards, bent pin": large_boards("bent"),
    "large boards, part missing": large_boards("missing"),
    "large casts": large_casts,
    **{f"scratch on {count} of 18 parts": repeats(count) for count in (1, 3, 6, 9)},
}
