"""Progress where there is no terminal: plain lines, few, that tell stage, share and time left."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from musc_fast.errors import InputError
from musc_fast.progress import LINE_EVERY, NotebookBars, ProgressLines, stage_bars, stages_of


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_lines_are_few_and_tell_the_time_left() -> None:
    lines: list[str] = []
    clock = Clock()
    on_progress = ProgressLines(lines.append, clock)
    for done in range(101):  # a second each
        on_progress("features", done, 100)
        clock.now += 1
    assert lines[0] == "features: 0 of 100, 0%"
    assert lines[1] == "features: 10 of 100, 10%, about 1 min 30 s left"
    assert lines[-1] == "features: 100 of 100, 100%"
    assert len(lines) == 11
    clock.now += LINE_EVERY
    on_progress("[/x] scoring\x1b", 3, 0)  # a stage whose work is not known yet
    assert lines[-1] == "[/x] scoring\\x1b: 3 of 0"


def test_stages_share_the_ten_seconds() -> None:
    lines: list[str] = []
    clock = Clock()
    on_progress = ProgressLines(lines.append, clock)
    for stage in range(50):
        on_progress(f"stage {stage}", 1, 2)
        clock.now += 0.5
    assert len(lines) == 3


@pytest.mark.parametrize("terminal", [False, True])
def test_bars_are_for_terminals(terminal: bool) -> None:
    file = io.StringIO()
    with stage_bars(console=Console(file=file, force_terminal=terminal, width=80)) as draw:
        draw("features", 1, 2)
        written = file.getvalue()
    assert ("\x1b[" in file.getvalue()) == terminal
    if not terminal:
        assert written == "features: 1 of 2, 50%\n"  # at once, not when the block ends


def test_stages_of_takes_a_function_or_a_truth_value() -> None:
    calls: list[tuple[str, int, int]] = []
    with stages_of(lambda *call: calls.append(call)) as on_progress:
        on_progress("a", 1, 2)
    assert calls == [("a", 1, 2)]
    with stages_of(False) as on_progress:
        on_progress("a", 1, 2)
    with pytest.raises(InputError, match="progress: found 'yes'"), stages_of("yes"):  # type: ignore[arg-type]
        pass


class Shown:
    """Takes what a notebook would display, and counts how often it is redrawn."""

    def __init__(self) -> None:
        self.html: list[str] = []

    def __call__(self, bars: NotebookBars, *, display_id: bool) -> Shown:
        assert display_id
        self.update(bars)
        return self

    def update(self, bars: NotebookBars) -> None:
        self.html.append(bars._repr_html_())


def test_bars_of_a_notebook_are_replaced_in_place_and_not_too_often() -> None:
    shown, clock = Shown(), Clock()
    bars = NotebookBars(shown, clock)
    for done in range(101):
        bars("features", done, 100)
        clock.now += 0.01
    bars("<b>scoring\x1b", 1, 4)
    clock.now += 5
    bars("<b>scoring\x1b", 2, 4)
    assert 6 <= len(shown.html) <= 10  # of 103 calls
    assert shown.html[-1].count("<progress") == 2
    assert 'value="100" max="100"' in shown.html[-1]
    assert "&lt;b&gt;scoring\\x1b: 2 of 4, 50%, about 10 s left" in shown.html[-1]
    assert "features: 100 of 100, 100%\n<b>scoring\\x1b: 2 of 4" in repr(bars)
    bars("unknown", 0, 0)  # a stage whose work is not known yet
    assert 'value="0" max="1"' in shown.html[-1]
