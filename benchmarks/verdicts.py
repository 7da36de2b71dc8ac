"""Verdicts of batches drawn from labelled sets: defects flagged, good ones flagged, "look".

    python benchmarks/verdicts.py --distances distances/ --json results/verdicts.json

Of each set the distances of all patches to all images are computed once (the default recipe's one
search) and kept in the folder --distances; a batch's scores are interval means over the columns of
its images, so that forty draws of a cell take seconds. A cell has N images, some of them defective,
and no references or 10 or 20 good ones that are not in the batch; cells for which a set has too few
good images are left out. "before" is the rule "split" alone, which judged all batches once;
"scores" the rule by raw scores alone, without the patches' scores.

Labels are used to draw and to count, never to judge. The plate train_00021 is left out, whose glare
outshines every defect though its label is good, and of exact copies all but one.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from lib.beyond_sets import BOARDS as DRAW_BOARDS
from lib.labelled_sets import SETS, SIZES, pooled_features
from lib.program import add_data, add_json, make_parser
from lib.results import write_results
from lib.verdict_tables import COUNTS, markdown
from musc_fast import MuSc, ops, reference
from musc_fast.datasets.layouts import load_mvtec
from musc_fast.datasets.sample.draw import draw_sample
from musc_fast.files import replacing
from musc_fast.threshold import find_threshold, judge_by_references

SAMPLE, BOARDS = "sample", "boards"
DEFECTS, REFERENCES = (0, 1, 2, 5), (0, 10, 20)
LEFT_OUT = ("train_00021.png", "train_00086.png", "val_00019.png", "kos26_Part5", "kos34_Part0")
Floats = NDArray[np.float32]
Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Distances:
    """Distances [N, P, N] of each patch to the nearest patch of each image, and labels [N]."""

    distances: Floats
    defective: NDArray[np.bool_]
    left_out: NDArray[np.bool_]
    rows: Floats
    columns: Floats

    def scores(self, images: Indices, others: Indices, k: int) -> tuple[Floats, Floats]:
        """Raw scores of images against `others`, and patch scores, means of the k lowest."""
        part = self.distances[np.ix_(images, range(self.distances.shape[1]), others)]
        for row, image in enumerate(images):
            part[row][:, others == image] = np.inf
        means = np.partition(part, k - 1, axis=-1)[..., :k].mean(axis=-1)
        maps = means.reshape(len(images), self.rows.shape[1], self.columns.shape[1])
        peaks: Floats = (self.rows @ maps @ self.columns.T).max(axis=(1, 2))
        return peaks, maps

    def batch(self, images: Indices) -> tuple[Floats, Floats]:
        """Raw and patch scores of a batch, each image against the others."""
        return self.scores(images, images, _ranks(len(images) - 1))

    def by_references(self, images: Indices, references: Indices) -> tuple[Floats, Floats, Floats]:
        """Raw scores of images against references; the references' leave-one-out scores."""
        k = _ranks(len(references))
        return self.scores(images, references, k)[0], *self.scores(references, references, k)


def main() -> None:
    """Judge the draws of every set and backbone, print a row a cell, write them as JSON."""
    parser = make_parser(__doc__)
    add_data(parser, [*SETS, SAMPLE, BOARDS])
    parser.add_argument("--backbones", nargs="+", default=list(SIZES))
    parser.add_argument("--draws", type=int, default=40, help="batches a cell")
    parser.add_argument(
        "--distances", type=Path, help="keep distances here, and take them from here"
    )
    parser.add_argument("--markdown", action="store_true", help="print docs/verdict.md's tables")
    add_json(parser)
    arguments = parser.parse_args()
    results: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as scratch:
        for backbone in arguments.backbones:
            for name in arguments.sets:
                found = load(arguments, Path(scratch), name, backbone)
                results += [
                    {"set": name, "backbone": backbone, **cell}
                    for cell in measure(found, arguments.draws)
                ]
                # After each cell: a cut leaves some.
                write_results(arguments.json, {"draws": arguments.draws}, results)
                print(f"{name}, {backbone}: done", flush=True)
    show(results)
    if arguments.markdown:
        print(markdown(results))


def load(arguments: argparse.Namespace, scratch: Path, name: str, backbone: str) -> Distances:
    """The distances of a set, from the folder or computed."""
    folder = arguments.distances or scratch
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{name}_{backbone}.npz"
    if not file.exists():
        compute(file, _root(arguments.data, scratch, name), backbone)
    with np.load(file) as stored:
        grid, size = stored["grid"], stored["size"]
        names = [str(each) for each in stored["names"]]
        return Distances(
            stored["distances"],
            stored["defective"],
            np.array([any(each in path for each in LEFT_OUT) for path in names]),
            _corners(int(grid[0]), int(size[0])),
            _corners(int(grid[1]), int(size[1])),
        )


def _root(data: Path, scratch: Path, name: str) -> Path:
    """The folder of a set, drawn where it is no real one."""
    if name == SAMPLE:
        if not (scratch / name).exists():
            draw_sample(scratch / name, count=140, defects=40, seed=3)
        return scratch / name
    if name == BOARDS:
        if not (scratch / name).exists():
            command = [sys.executable, str(DRAW_BOARDS), str(scratch / name)]
            subprocess.run([*command, "--good=70", "--bad=30"], check=True)
        return scratch / name / "board"
    return data / name


def compute(file: Path, root: Path, backbone: str) -> None:
    """Extract a set's features with the default recipe and keep the distances among them."""
    musc = MuSc(backbone, image_size=SIZES[backbone])
    samples = load_mvtec(root)[0].samples
    z = pooled_features(musc, samples)
    with replacing(file) as temporary, temporary.open("wb") as stream:
        np.savez(
            stream,
            distances=ops.patch_to_image(z).cpu().numpy(),
            defective=np.array([sample.label is True for sample in samples]),
            names=np.array([sample.image.name for sample in samples]),
            grid=np.array(musc.backbone.grid),
            size=np.array(musc.backbone.image_size),
        )


def _ranks(count: int) -> int:
    """How many of the lowest distances to `count` images are averaged."""
    return reference.interval((0.0, 0.3), count)[1]


def _corners(patches: int, pixels: int) -> Floats:
    """Rows of bilinear upsampling that can hold the maximum of a map.

    Between patches the upsampled map is bilinear, so its maximum is at a pixel next to a patch.
    """
    place = np.linspace(0, patches - 1, pixels)
    below = np.minimum(place.astype(int), patches - 2)
    weights = np.zeros((pixels, patches))
    weights[np.arange(pixels), below] = 1 - (place - below)
    weights[np.arange(pixels), below + 1] += place - below
    centre = np.arange(patches) * (pixels - 1) / (patches - 1)
    near = np.unique(np.concatenate([np.floor(centre + 1e-9), np.ceil(centre - 1e-9)]))
    return weights[near.astype(int)].astype(np.float32)


def measure(found: Distances, draws: int) -> Iterator[dict[str, Any]]:
    """One row a cell: what was flagged and looked at in its draws."""
    good = np.flatnonzero(~found.defective & ~found.left_out)
    bad = np.flatnonzero(found.defective & ~found.left_out)
    generator = np.random.default_rng(1)
    for count in COUNTS:
        for defects in DEFECTS:
            for references in REFERENCES:
                if count - defects + references > len(good) or defects > len(bad):
                    continue
                total = dict.fromkeys(_COUNTED, 0)
                for _ in range(draws):
                    normal = generator.permutation(good)
                    faulty = generator.permutation(bad)[:defects]
                    images = np.concatenate([normal[: count - defects], faulty])
                    others = normal[count - defects :][:references]
                    for key, value in judged(found, images, others, defects).items():
                        total[key] += value
                yield {
                    "images": count,
                    "defective": defects,
                    "references": references,
                    "batches": draws,
                    **total,
                }


_COUNTED = (
    "defects_flagged_before",
    "good_flagged_before",
    "any_flagged_before",
    "defects_flagged_scores",
    "any_flagged_scores",
    "defects_flagged",
    "defects_look",
    "good_flagged",
    "good_look",
    "any_flagged",
    "any_look",
)


def judged(found: Distances, images: Indices, references: Indices, defects: int) -> dict[str, int]:
    """Counts of one batch; its last images are the defective ones."""
    faulty = np.arange(len(images)) >= len(images) - defects
    if len(references):
        scores, scale, patches = found.by_references(images, references)
        now = judge_by_references(scores, scale, reference_patch_scores=patches)
        by_scores = judge_by_references(scores, scale)
    else:
        scores, patches = found.batch(images)
        now = find_threshold(scores, patch_scores=patches)
        by_scores = find_threshold(scores)
    before = find_threshold(scores, rule="split").flagged
    values = (
        (before & faulty).sum(),
        (before & ~faulty).sum(),
        before.any(),
        (by_scores.flagged & faulty).sum(),
        by_scores.flagged.any(),
        (now.flagged & faulty).sum(),
        (now.look & faulty).sum(),
        (now.flagged & ~faulty).sum(),
        (now.look & ~faulty).sum(),
        now.flagged.any(),
        now.look.any(),
    )
    return {key: int(value) for key, value in zip(_COUNTED, values, strict=True)}


def show(results: list[dict[str, Any]]) -> None:
    """Print the table, in per cent of the defects and of the good images."""
    table = Table(title="per cent of defects (d) and of good images (g)")
    for heading in (
        *("set", "backbone", "N", "defects", "references"),
        *(
            "d before",
            "g before",
            "d flagged",
            "d look",
            "g flagged",
            "g look",
            "any flag",
            "any look",
        ),
    ):
        table.add_column(heading)
    for row in results:
        bad = row["defective"] * row["batches"]
        fine = (row["images"] - row["defective"]) * row["batches"]
        table.add_row(
            *(str(row[key]) for key in ("set", "backbone", "images", "defective", "references")),
            _per_cent(row["defects_flagged_before"], bad),
            _per_cent(row["good_flagged_before"], fine),
            _per_cent(row["defects_flagged"], bad),
            _per_cent(row["defects_look"], bad),
            _per_cent(row["good_flagged"], fine),
            _per_cent(row["good_look"], fine),
            _per_cent(row["any_flagged"], row["batches"]),
            _per_cent(row["any_look"], row["batches"]),
        )
    Console(width=150).print(table)


def _per_cent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f}" if whole else ""


if __name__ == "__main__":
    main()
