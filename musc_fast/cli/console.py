"""What the commands share: where they print, how they load a backbone, how Ctrl-C ends them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.markup import escape

if TYPE_CHECKING:
    from ..musc import MuSc

console = Console()
errors = Console(stderr=True)


@contextmanager
def interruptible(word: str) -> Iterator[None]:
    """Ctrl-C ends the command with `word` on the state of things."""
    try:
        yield
    except KeyboardInterrupt:
        errors.print(f"interrupted: {word}")
        raise typer.Exit(130) from None


def load(backbone: str, **settings: Any) -> MuSc:
    """A MuSc with its backbone loaded, while a line tells what is being fetched."""
    from ..musc import MuSc

    with errors.status(f"loading {backbone}", spinner="line") as status:
        return MuSc(backbone, notify=lambda text: status.update(escape(text)), **settings)
