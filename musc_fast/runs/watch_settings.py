"""How a folder is watched: `WatchSettings`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from ..bank.eviction import Eviction
from ..errors import InputError
from ..settings import Switch, check_switch, whole_number
from ..threshold import FALSE_ALARMS


@dataclass(frozen=True)
class WatchSettings:
    """How a folder is watched.

    capacity: images that a new bank holds at most; None: 200, or what the bank was made with.
    evict: what a full bank gives up, see `ReferenceBank`; None: the oldest, or as it was made.
    start: images that are scored against each other while the bank is empty.
    save_every: images after which the bank is saved.
    threshold: raw score from which an image is flagged; None: the bank's own scores decide.
    false_alarms: share of the good images that may be flagged, where the bank decides.
    keep_flagged: let flagged images into the bank.
    references: images that a new bank is begun with; none: the first `start` of the folder.
    pictures: write an overlay of every flagged image.
    page: an HTML page that shows the last images; None: no page.
    copies, repeats: of the bank, see `ReferenceBank`; None: as it was made, or as the `MuSc` has
        them.

    Raises InputError naming the setting.
    """

    capacity: int | None = None
    evict: Eviction | None = None
    start: int = 10
    save_every: int = 50
    threshold: float | None = None
    false_alarms: float = FALSE_ALARMS
    keep_flagged: bool = False
    references: tuple[Path, ...] = ()
    pictures: bool = True
    page: Path | None = None
    copies: Switch | None = None
    repeats: Switch | None = None

    def __post_init__(self) -> None:
        for name in ("capacity", "start", "save_every"):
            value = getattr(self, name)
            if name != "capacity" or value is not None:
                object.__setattr__(self, name, whole_number(name, value, 1))
        number = isinstance(self.threshold, int | float) and math.isfinite(self.threshold)
        if self.threshold is not None and not number:
            raise InputError(f"threshold: found {self.threshold!r}, wanted a finite number")
        rate = self.false_alarms
        if not isinstance(rate, int | float) or not 0 < rate <= 0.5:
            raise InputError(f"false_alarms: found {rate!r}, wanted a share in (0, 0.5], as 0.01")
        for name in ("copies", "repeats"):
            if getattr(self, name) is not None:
                check_switch(name, getattr(self, name))
        if self.start < 2:
            raise InputError(f"start: found {self.start}, wanted 2 or more")
        if len(self.references) == 1:
            raise InputError("references: found one image, wanted two or more, or none")
        first = max(self.start, len(self.references))
        if self.capacity is not None and self.capacity < first:
            name = "references" if len(self.references) > self.start else "images of the start"
            raise InputError(f"capacity: found {self.capacity}, wanted {first} or more, the {name}")

    @property
    def new_capacity(self) -> int:
        """The capacity of a new bank."""
        least = max(200, self.start, len(self.references))
        return least if self.capacity is None else self.capacity
