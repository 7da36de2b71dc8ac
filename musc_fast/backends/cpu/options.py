"""What a search is asked for and what it reports: settings, outputs, statistics."""

from __future__ import annotations

from dataclasses import dataclass, field
from time import perf_counter

from torch import Tensor

from ... import _C
from ...progress import Progress
from ...settings import SearchOptions


@dataclass
class SearchStatistics:
    """What a search did, for benchmarks and tests: sizes, seconds by stage, counts."""

    space: int = 0  # channels that were rounded and searched
    scale: float = 0.0
    chunk: int = 0
    segment: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    operations: float = 0.0  # of the first pass
    examined: int = 0  # (patch, image) pairs of the second pass
    scanned: int = 0  # (patch, segment) pairs scanned again
    recomputed: int = 0  # exact distances
    rows: int = 0  # patches finished
    fine: int = 0  # candidates compared in 12 bits
    rest: int = 0  # candidates compared by their rests

    def add(self, stage: str, since: float) -> None:
        """Add the seconds from `since` (perf_counter) to now to those of `stage`."""
        self.seconds[stage] = self.seconds.get(stage, 0.0) + perf_counter() - since

    def count(self, counters: _C.Counters) -> None:
        """Take the counts of the second pass."""
        self.examined, self.scanned = counters.examined, counters.scanned
        self.recomputed, self.rows = counters.recomputed, counters.rows
        self.fine, self.rest = counters.fine, counters.rest


@dataclass(frozen=True)
class SearchSettings:
    """How to search.

    certified, memory_limit, on_progress: the options of an operator, see `SearchOptions`.
    isa, prefix, chunk, segment: forced by tests and benchmarks; None: the search chooses.
    statistics: filled by the search.
    """

    certified: bool = True
    memory_limit: int | None = None
    on_progress: Progress | None = None
    isa: str | None = None
    prefix: int | None = None
    chunk: int | None = None
    segment: int | None = None
    statistics: SearchStatistics | None = None

    @classmethod
    def of(cls, options: SearchOptions) -> SearchSettings:
        """The settings for the options of an operator."""
        return cls(options.exact, options.memory_limit, options.on_progress)


@dataclass(frozen=True)
class Outputs:
    """Where results go; None: not wanted. For queries [N, P] and K references each:

    means: [N, P] float32, of the interval of smallest distances.
    distances: [N, P, K] float32, to the nearest patch of each reference.
    nearest: distances float32, images and patches int64 of the k_max nearest images, [N, P, k_max].
    """

    means: Tensor | None = None
    distances: Tensor | None = None
    nearest: tuple[Tensor, Tensor, Tensor] | None = None
