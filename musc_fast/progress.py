"""Progress callbacks: bars on a terminal and in a notebook, plain lines elsewhere.

Terminals and lines are those of standard error.
"""

from __future__ import annotations

import html
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from .errors import InputError
from .shown import shown as shown_name

if TYPE_CHECKING:
    from rich.console import Console

Progress = Callable[[int, int], None]  # (done, total)
StageProgress = Callable[[str, int, int], None]  # (stage, done, total)

LINE_EVERY = 10.0  # seconds between two lines, at least
_DRAW_EVERY = 0.2  # seconds between two pictures of a notebook's bars, at least


class ProgressLines:
    """A (stage, done, total) function that writes lines, as "features: 12 of 48, 25%, ...".

    The first call writes a line, so that a log shows life at once; later lines are `LINE_EVERY`
    seconds apart or more, whatever the number of stages.

    write: takes a line without its end.
    clock: the time in seconds.
    """

    def __init__(
        self, write: Callable[[str], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._write, self._clock = write, clock
        self._starts: dict[str, tuple[float, int]] = {}  # a stage: its first call's time and count
        self._last: float | None = None

    def __call__(self, stage: str, done: int, total: int) -> None:
        now = self._clock()
        start, before = self._starts.setdefault(stage, (now, done))
        if self._last is not None and now - self._last < LINE_EVERY:
            return
        self._last = now
        self._write(_line(stage, done, total, now - start, before))


class NotebookBars:
    """A (stage, done, total) function that draws bars in the output of a notebook's cell.

    They are one piece of HTML that is replaced: unlike widgets they need no extension, and the
    last picture is kept with the notebook.

    display: `IPython.display.display`, or a function like it.
    clock: the time in seconds.
    """

    def __init__(
        self, display: Callable[..., Any], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._clock = clock
        self._stages: dict[str, tuple[float, int, int, int, float]] = {}
        self._last = clock()
        self._handle = display(self, display_id=True)

    def __call__(self, stage: str, done: int, total: int) -> None:
        now = self._clock()
        known = stage in self._stages
        start, before = self._stages[stage][:2] if known else (now, done)
        self._stages[stage] = (start, before, done, total, now - start)
        if not known or done == total or now - self._last >= _DRAW_EVERY:
            self.draw()

    def draw(self) -> None:
        """Replace the bars drawn before."""
        self._last = self._clock()
        if self._handle is not None:  # None where nothing takes the output of the cell
            self._handle.update(self)

    def _repr_html_(self) -> str:
        bars = (
            f'<div><progress value="{done}" max="{max(total, 1)}" style="width:12em"></progress> '
            f"{html.escape(_line(stage, done, total, seconds, before))}</div>"
            for stage, (_, before, done, total, seconds) in self._stages.items()
        )
        return f"<div>{''.join(bars)}</div>"

    def __repr__(self) -> str:
        return "\n".join(
            _line(stage, done, total, seconds, before)
            for stage, (_, before, done, total, seconds) in self._stages.items()
        )


def _line(stage: str, done: int, total: int, seconds: float, before: int) -> str:
    """A line about a stage, with the time left.

    seconds: since the first call of the stage, at which `before` were done.
    """
    text = f"{shown_name(stage)}: {done} of {total}"
    if total > 0:
        text += f", {100 * done / total:.0f}%"
    if before < done < total:
        text += f", about {_duration(seconds * (total - done) / (done - before))} left"
    return text


def _duration(seconds: float) -> str:
    minutes, rest = divmod(max(1, round(seconds)), 60)
    if minutes < 1:
        return f"{rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


@contextmanager
def stage_bars(shown: bool = True, *, console: Console | None = None) -> Iterator[StageProgress]:
    """Yield a (stage, done, total) function that draws a bar a stage with the time remaining.

    Where standard error is no terminal (a pipe, a log, a container), lines take the place of bars,
    see `ProgressLines`.

    shown: False yields a function that draws nothing.
    console: where to draw; None: standard error.
    """
    if not shown:
        yield lambda stage, done, total: None
        return
    from rich.console import Console

    console = Console(stderr=True) if console is None else console
    if console.is_jupyter:
        from IPython.display import display

        bars = NotebookBars(display)
        yield bars
        bars.draw()  # what was too soon after the picture before
        return
    if not console.is_terminal or console.is_dumb_terminal:
        where = console
        yield ProgressLines(
            lambda line: where.print(line, markup=False, highlight=False, soft_wrap=True)
        )
        return
    with _bars(console) as on_progress:
        yield on_progress


@contextmanager
def _bars(console: Console) -> Iterator[StageProgress]:
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
    with Bars(*columns, console=console) as bars:
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
def stages_of(progress: bool | StageProgress | None) -> Iterator[StageProgress]:
    """Yield the caller's (stage, done, total) function, one that draws (True), or a mute one."""
    check_progress(progress)
    if not isinstance(progress, bool) and progress is not None:
        yield progress
    else:
        with stage_bars(bool(progress)) as on_progress:
            yield on_progress


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
