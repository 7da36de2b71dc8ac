"""What the commands share: their consoles, the loading of a backbone, the end by Ctrl-C."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.text import Text

from ..errors import MuscFastWarning
from ..shown import shown

if TYPE_CHECKING:
    from ..musc import MuSc

console = Console()
errors = Console(stderr=True)


@contextmanager
def interruptible(message: str) -> Iterator[None]:
    """End the command with `message` and exit status 130 on Ctrl-C."""
    try:
        yield
    except KeyboardInterrupt:
        print_plain(f"interrupted: {message}", to=errors)
        raise typer.Exit(130) from None


@contextmanager
def warnings_printed() -> Iterator[None]:
    """Print each warning of musc_fast as a line on standard error, others as Python does."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", MuscFastWarning)
        shown = warnings.showwarning

        def show(message: Any, category: type[Warning], *rest: Any) -> None:
            if issubclass(category, MuscFastWarning):
                errors.print("note:", style="bold yellow", end=" ")
                text = str(message).encode("utf-8", "replace").decode()
                print_plain(" ".join(text.splitlines()), to=errors, wrap=False)
            else:
                shown(message, category, *rest)

        warnings.showwarning = show  # type: ignore[assignment]
        yield


def load(arguments: dict[str, Any]) -> MuSc:
    """`MuSc(**arguments)`, while a line on standard error shows what is being fetched."""
    from ..musc import MuSc

    with errors.status(named("loading ", arguments["backbone"]), spinner="line") as status:
        return MuSc(**arguments, notify=lambda text: status.update(named(text)))


def named(*parts: object) -> Text:
    """Names and words as text for a table or a line: nothing in them is markup or control."""
    return Text("".join(shown(part) for part in parts))


def print_plain(text: str, *, to: Console = console, wrap: bool = True) -> None:
    """Print text as it is: no markup, no colours; `wrap`=False leaves long lines whole.

    Control characters are shown, not sent to the terminal.
    """
    to.print(shown(text, lines=True), markup=False, highlight=False, soft_wrap=not wrap)


def print_place(results: Path) -> None:
    """Print where the results are, in one line that can be copied."""
    print_plain(f"results: {results}", wrap=False)
