"""The drawn sample by all cores: the pictures of `draw_sample`, without their masks."""

from __future__ import annotations

import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from PIL import Image

from musc_fast.datasets.sample.photo import take_photo

SIZE = 512


def count_defects(images: int) -> int:
    """How many of `images` are defective: a quarter."""
    return max(1, images // 4)


@dataclass(frozen=True)
class Drawing:
    """Files of drawn parts.

    good, defective: in the order of their numbers.
    """

    good: tuple[Path, ...]
    defective: tuple[Path, ...]

    def first(self, images: int) -> list[Path]:
        """The files that a sample of `images` has, good ones first."""
        defects = count_defects(images)
        return [*self.good[: images - defects], *self.defective[:defects]]


def draw_images(folder: Path, counts: list[int]) -> Drawing:
    """Draw below `folder` the pictures that samples of `counts` images need.

    Call this before anything starts threads or uses a GPU, since the processes are forked where
    the system forks.
    """
    counts_by_kind = {
        "good": max(n - count_defects(n) for n in counts),
        "defective": max(count_defects(n) for n in counts),
    }
    files = {
        kind: tuple(folder / f"{kind}_{number:03d}.png" for number in range(count))
        for kind, count in counts_by_kind.items()
    }
    folder.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(os.cpu_count() or 1) as pool:
        for kind, paths in files.items():
            draw = partial(_draw, defective=kind == "defective")
            list(pool.map(draw, range(len(paths)), paths))
    return Drawing(files["good"], files["defective"])


def _draw(number: int, path: Path, *, defective: bool) -> None:
    photo = take_photo(number, defective=defective, size=SIZE)
    Image.fromarray(photo.pixels).save(path, compress_level=4)
