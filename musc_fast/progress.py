"""Progress callbacks, and progress bars on standard error so that standard output stays clean."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from .errors import InputError
from .shown import shown as shown_name

Progress = Callable[[int, int], None]  # (done, total)
StageProgress = Callable[[str, int, int], None]  # (stage, done, total)


@contextmanager
def stage_bars(shown: bool = True) -> Iterator[StageProgress]:
    """Yield a (stage, done, total) function that draws a bar a stage with the time remaining.

    shown: False yields a function that draws nothing.
    """
    if not shown:
        yield lambda stage, done, total: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        TaskID,
        TaskProgressColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.progress import Progress as Bars

    columns = (
        TextColumn("{task.description:<18}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Bars(*columns, console=Console(stderr=True)) as bars:
        tasks: dict[str, TaskID] = {}

        def on_progress(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(shown_name(stage), total=total)
            bars.update(tasks[stage], completed=done, total=total)

        yield on_progress


def check_progress(progress: object) -> None:
    """Raise InputError unless `progress` is a bool or a function."""
    if not (progress is None or isinstance(progress, bool) or callable(progress)):
        raise InputError(f"progress: found {progress!r}, wanted True, False or a function")


@contextmanager
def scoring_progress(progress: bool | Progress) -> Iterator[Progress]:
    """Yield a (done, total) function: the caller's, one that draws a bar, or a mute one."""
    check_progress(progress)
    if not isinstance(progress, bool) and progress is not None:
        yield progress
    elif not progress:
        yield lambda done, total: None
    else:
        with stage_bars() as bars:
            yield lambda done, total: bars("scoring", done, total)
