"""Finding image files: in folders, in natural order, without what musc_fast itself wrote.

Every failure is an `ImageError` that names the path.
"""

from __future__ import annotations

import os
import re
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..errors import ImageError, MuscFastWarning
from ..files import PICTURE_FOLDERS, RUN_FILE, is_results_folder
from ..shown import shown
from .label_files import split_labels

IMAGE_SUFFIXES = frozenset(
    {".bmp", ".gif", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm"}
    | {".ppm", ".tif", ".tiff", ".webp"}
)

_MOST_KINDS = 5  # of files not taken that are listed
_DIGITS = re.compile(r"(\d+)")


def natural_key(path: Path) -> tuple[tuple[tuple[str | int, ...], ...], str]:
    """Return a sort key that puts `part2` before `part10` and compares folders part by part."""
    # Pieces alternate between text and number, so that equal positions have equal types.
    parts = (
        tuple(
            int(piece) if index % 2 else piece.casefold()
            for index, piece in enumerate(_DIGITS.split(part))
        )
        for part in path.parts
    )
    return tuple(parts), str(path)  # the path's text decides between `a1` and `a01`


def list_images(folder: Path) -> list[Path]:
    """Return the image files directly in `folder`, natural sorted; hidden ones are left out."""
    names = (entry for entry in folder.iterdir() if _is_image_name(entry.name))
    return sorted((entry for entry in names if entry.is_file()), key=natural_key)


def find_images(paths: Sequence[Path]) -> list[Path]:
    """Return the image files among `paths`, each once.

    The order is that of `paths`, natural sorted within each folder. A file that is reached twice is
    listed once, since in a batch it would be its own perfect neighbour.

    paths: files, which are taken whatever their suffix, and folders, which are searched recursively
        for names with one of `IMAGE_SUFFIXES` (in any case). Hidden files and folders, pipes and
        devices, and the heat maps and overlays of earlier results are skipped there. Labels beside
        photos (see `label_files`) are left out, and said to be; so are files of other kinds.
    Raises ImageError where a path does not exist or is neither a file nor a folder, or a folder
    holds no image.
    """
    by_real_path: dict[Path, Path] = {}
    left_out: list[Path] = []
    not_taken: Counter[str] = Counter()
    for path in map(Path, paths):
        if path.is_dir():
            files = sorted(walk_images(path, not_taken), key=natural_key)
            if not files:
                if is_results_folder(path):
                    raise ImageError(
                        f"{path}: this folder holds results of musc_fast, whose pictures are not "
                        "scored, and no other image; name the folder of the photos"
                    )
                known = " ".join(sorted(IMAGE_SUFFIXES))
                found = f"; found {_kinds(not_taken)}" if not_taken else ""
                raise ImageError(f"{path}: no images in this folder (looked for {known}{found})")
            files, labels = split_labels(files, path)
            left_out += labels
            if not files:
                raise ImageError(
                    f"{path}: holds labels alone ({labels[0].name}, ...), which are not scored; "
                    "name the folder of the photos, or the files"
                )
        elif path.is_file():
            files = [path]
        elif path.exists():
            raise ImageError(f"{path}: neither a file nor a folder")
        else:
            raise ImageError(f"{path}: no such file or folder")
        for file in files:
            by_real_path.setdefault(file.resolve(), file)
    left_out = [file for file in left_out if file.resolve() not in by_real_path]
    if left_out:
        warnings.warn(labels_note(left_out), MuscFastWarning, stacklevel=2)
    if not_taken:
        count = not_taken.total()
        note = f"{count} file{'s' if count > 1 else ''} not taken: {_kinds(not_taken)}"
        warnings.warn(note, MuscFastWarning, stacklevel=2)
    return list(by_real_path.values())


def labels_note(labels: Sequence[Path]) -> str:
    """The sentence that says which pictures were left out as labels."""
    more = f" and {len(labels) - 1} more" if len(labels) > 1 else ""
    return (
        f"{labels[0]}{more}: left out as labels (by their names, folders or two levels); "
        "name a file itself to score it"
    )


def _kinds(counts: Counter[str]) -> str:
    """Suffixes of files with their numbers, as "2 .heic, 1 .mp4", most frequent first."""
    kinds = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    more = f" and {len(kinds) - _MOST_KINDS} kinds more" if len(kinds) > _MOST_KINDS else ""
    listing = ", ".join(
        f"{count} {kind or 'without suffix'}" for kind, count in kinds[:_MOST_KINDS]
    )
    return shown(listing + more)


def walk_images(folder: Path, not_taken: Counter[str] | None = None) -> Iterator[Path]:
    """Yield the image files under `folder`; links to folders are followed, each real folder once.

    not_taken: counts the suffixes of other files, but for hidden ones and those of a results
        folder.

    In a results folder of musc_fast its heat maps and overlays are skipped, other images are not.
    """
    visited = {os.path.realpath(folder)}
    for base, folders, files in os.walk(folder, followlinks=True):
        subfolders = []
        skipped = PICTURE_FOLDERS if RUN_FILE in files and is_results_folder(base) else ()
        for name in sorted(folders):
            real = os.path.realpath(os.path.join(base, name))
            if not name.startswith(".") and name not in skipped and real not in visited:
                visited.add(real)
                subfolders.append(name)
        folders[:] = subfolders  # os.walk goes on with these
        if not_taken is not None and not (RUN_FILE in files and is_results_folder(base)):
            others = (name for name in files if not _is_image_name(name) and name[0] != ".")
            not_taken.update(os.path.splitext(name)[1].lower() for name in others)
        images = (Path(base, name) for name in files if _is_image_name(name))
        # A broken link is yielded too: the error of reading it tells the user of the lost image.
        yield from (file for file in images if file.is_file() or not os.path.exists(file))


def _is_image_name(name: str) -> bool:
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES
