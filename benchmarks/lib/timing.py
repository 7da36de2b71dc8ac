"""Seconds of calls that take turns, so that a drift of the machine's speed reaches all alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

Call = Callable[[], Any]


@dataclass(frozen=True)
class Timing:
    """Seconds of repeated runs."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def spread(self) -> float:
        """(max - min) / median."""
        return (max(self.seconds) - min(self.seconds)) / self.median

    def __str__(self) -> str:
        return f"{self.median:.3f} s ±{50 * self.spread:.0f}%"


def synchronise() -> None:
    """Wait until the GPU, if there is one, has done its work."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def settle(seconds: float = 0.05) -> None:
    """Let the threads of earlier calls come to rest; on a machine with a GPU return at once.

    After a call OpenBLAS's threads spin for 2^26 cycles, OpenMP's for fewer, on the cores that the
    next call needs. The wait is busy, since cores take tens of milliseconds to reach their speed
    again after a sleep.
    """
    start = time.perf_counter()
    while not torch.cuda.is_available() and time.perf_counter() - start < seconds:
        pass


def seconds_of(call: Call) -> float:
    """Seconds of one call, from rest to its last result."""
    synchronise()
    start = time.perf_counter()
    call()
    synchronise()
    return time.perf_counter() - start


def time_in_turns(calls: dict[str, Call], runs: int, warm: int = 1) -> dict[str, Timing]:
    """Time each call `runs` times after `warm` rounds; a call begins when the threads rest."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(warm + runs):
        for name, call in calls.items():
            settle()
            elapsed = seconds_of(call)
            if turn >= warm:
                seconds[name].append(elapsed)
    return {name: Timing(tuple(values)) for name, values in seconds.items()}


def time_on_device(calls: dict[str, Call], device: torch.device, runs: int) -> dict[str, Timing]:
    """Time short calls in turns: on a GPU between CUDA events, as many calls as take 20 ms."""
    counts = {}
    for name, call in calls.items():
        call()
        counts[name] = max(1, min(100, int(0.02 / _mean_seconds(call, device, 1))))
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(runs):
        for name, call in calls.items():
            seconds[name].append(_mean_seconds(call, device, counts[name]))
    return {name: Timing(tuple(values)) for name, values in seconds.items()}


def _mean_seconds(call: Call, device: torch.device, count: int) -> float:
    if device.type != "cuda":
        start = time.perf_counter()
        for _ in range(count):
            call()
        return max(1e-9, (time.perf_counter() - start) / count)
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    begin.record()
    for _ in range(count):
        call()
    end.record()
    torch.cuda.synchronize()
    return max(1e-9, float(begin.elapsed_time(end)) / 1000 / count)
