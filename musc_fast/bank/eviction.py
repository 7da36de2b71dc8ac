"""Which image a full bank gives up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

from .file import Entry

Eviction = Literal["oldest", "anomalous"]
EVICTIONS: tuple[Eviction, ...] = get_args(Eviction)


def victim(entries: Sequence[Entry], evict: Eviction) -> int:
    """The place of the entry that goes: the oldest, or that with the highest score.

    Of images with equal scores the oldest goes; those that were never scored go first.
    """

    def key(place: int) -> tuple[float, int]:
        entry = entries[place]
        if evict == "oldest":
            return 0.0, -entry.number
        return float("inf") if entry.score is None else entry.score, -entry.number

    return max(range(len(entries)), key=key)
