"""What scoring found about a batch besides scores: copies and repeated defects, by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .copies import Copy
from .repeats import Repeat
from .scores import BatchScores

_NAMED = 5  # images in a sentence


def sentences(
    scores: BatchScores, names: Sequence[str], references: Sequence[str] = ()
) -> tuple[str, ...]:
    """What a user should know of copies and repeats, a sentence a kind.

    names, references: of the images, and of those they were scored against.
    """
    found = []
    kinds: tuple[tuple[str, str], ...] = (
        ("images", "there twice, and no reference of each other"),
        ("references", "references that are there twice, and count once"),
        ("image of reference", "also among the references, and scored without that one"),
    )
    for among, what in kinds:
        copies = [copy for copy in scores.copies if copy.among == among]
        if copies:
            pairs = [" = ".join(_pair(copy, names, references)) for copy in copies]
            found.append(f"{_listed(pairs)}: {what}")
    found += [
        f"{_listed([names[image] for image in repeat.images])}: these {len(repeat.images)} images "
        "share something that the others do not have, at one place, and are not compared with each "
        "other there"
        for repeat in scores.repeats
    ]
    return tuple(found)


def record(
    scores: BatchScores, names: Sequence[str], references: Sequence[str] = ()
) -> dict[str, Any]:
    """The same for run.json: "found_copies" and "found_repeats".

    A copy has the names "image" and "of", and "exact"; a repeat has "images", and "box": the left,
    top, right and bottom edge of its place, as shares of the picture.
    """
    rows, columns = scores.patch_scores.shape[1:]
    return {
        "found_copies": [
            dict(zip(("image", "of"), _pair(copy, names, references), strict=True))
            | {"exact": copy.exact}
            for copy in scores.copies
        ],
        "found_repeats": [
            {
                "images": [names[image] for image in repeat.images],
                "box": _box(repeat, rows, columns),
            }
            for repeat in scores.repeats
        ],
    }


def _pair(copy: Copy, names: Sequence[str], references: Sequence[str]) -> tuple[str, str]:
    first = references if copy.among == "references" else names
    second = names if copy.among == "images" else references
    return first[copy.image], second[copy.of]


def _box(repeat: Repeat, rows: int, columns: int) -> list[float]:
    down, right = zip(*(divmod(patch, columns) for patch in repeat.patches), strict=True)
    edges = (
        min(right) / columns,
        min(down) / rows,
        (max(right) + 1) / columns,
        (max(down) + 1) / rows,
    )
    return [round(edge, 4) for edge in edges]


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
