"""Names of images in the results: relative to their common folder, distinct, printable."""

from __future__ import annotations

import os
import posixpath
from collections import Counter
from collections.abc import Sequence
from pathlib import Path


def relative_names(paths: Sequence[Path]) -> list[str]:
    """Each path below the images' common folder, with forward slashes."""
    root = common_folder(paths)
    return [_absolute(path).relative_to(root).as_posix() for path in paths]


def result_names(paths: Sequence[Path]) -> list[str]:
    """A distinct relative name for each image: its path below the common folder, no suffix.

    Images that differ in nothing but the suffix keep it.
    """
    with_suffix = relative_names(paths)
    stems = [posixpath.splitext(name)[0] for name in with_suffix]
    uses = Counter([*stems, *with_suffix])
    return [
        stem if uses[stem] == 1 or stem == name else name
        for stem, name in zip(stems, with_suffix, strict=True)
    ]


def common_folder(paths: Sequence[Path]) -> Path:
    """The deepest folder that holds all of `paths`, absolute."""
    return Path(os.path.commonpath([_absolute(path).parent for path in paths]))


def metric_title(name: str) -> str:
    """The name of a metric as a reader knows it: "image F1-max" for "image_f1_max"."""
    kind, _, metric = name.partition("_")
    known = {"auroc": "AUROC", "ap": "AP", "f1_max": "F1-max", "pro": "PRO"}
    return f"{kind} {known.get(metric, metric)}"


def printable(name: str) -> str:
    """`name` with U+FFFD for each lone surrogate, by which Python marks bytes that are not UTF-8.

    An HTML page cannot hold lone surrogates.
    """
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _absolute(path: Path) -> Path:
    """The path absolute and without `..`: a result named with `..` would leave its folder."""
    return Path(os.path.abspath(path))
