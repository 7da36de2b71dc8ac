"""Where new images of a bank go, and which have to go for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from .file import Entry

Eviction = Literal["oldest", "anomalous"]
EVICTIONS: tuple[Eviction, ...] = ("oldest", "anomalous")


@dataclass(frozen=True)
class Places:
    """A bank's images after some are added.

    entries: by slot. slots: the place of each new image that stays among those added, by its slot.
    gone: the ids of the images that had to go.
    """

    entries: list[Entry]
    slots: dict[int, int]
    gone: list[str]


def places_of(
    held: Sequence[Entry], new: Sequence[Entry | None], capacity: int, evict: Eviction
) -> Places:
    """Find room for the images `new` beside those held, one after another; None is not taken in."""
    entries, slots, gone = list(held), dict[int, int](), []
    for image, entry in enumerate(new):
        if entry is None:
            continue
        slot = len(entries)
        if slot < capacity:
            entries.append(entry)
        else:
            slot = _victim([*entries, entry], evict)
            gone.append((entries[slot] if slot < len(entries) else entry).id)
            if slot == len(entries):
                continue  # the new image is the one to go
            entries[slot] = entry
        slots[slot] = image
    return Places(entries, slots, gone)


def _victim(entries: Sequence[Entry], evict: Eviction) -> int:
    """The place of the entry that goes."""

    def key(slot: int) -> tuple[float, int]:
        entry = entries[slot]
        if evict == "oldest":
            return 0.0, -entry.number
        return float("inf") if entry.score is None else entry.score, -entry.number

    return max(range(len(entries)), key=key)
