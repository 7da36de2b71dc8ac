"""The Typer application `musc-fast`: its commands, and how errors end it."""

from __future__ import annotations

import os
import signal
import sys
import time
import warnings
from collections.abc import Callable
from typing import Annotated

import typer

from .._version import __version__
from ..errors import DistributedError, InputError, MuscFastError
from .command import CONTEXT, Group, add_command
from .console import console, errors, print_marked, print_plain, warnings_printed
from .demo import demo
from .evaluate import evaluate
from .exit_status import EXIT_STATUS
from .inspect import backbones, info
from .score import score
from .watch import watch

app = typer.Typer(
    name="musc-fast",
    cls=Group,
    context_settings=CONTEXT,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Find defects in a folder of product images: no training, no labels, no prompts. "
    "The images score each other (MuSc, ICLR 2024).",
    epilog="\n".join(EXIT_STATUS),
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print_plain(f"musc-fast {__version__}")
        raise typer.Exit


@app.callback()
def _start(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """Under torchrun let only rank 0 print, and refuse commands other than `score`."""
    if "WORLD_SIZE" not in os.environ:  # `launched` imports torch, which takes seconds
        return
    from ..distributed.launch import launched

    rank, ranks = launched()
    console.quiet = errors.quiet = rank > 0
    if ranks > 1 and context.invoked_subcommand != "score":
        raise InputError(
            f"{context.invoked_subcommand}: of the commands only score runs under torchrun; start "
            "this one without"
        )


EXAMPLES: dict[Callable[..., None], tuple[str, ...]] = {
    score: (
        "musc-fast score photos/",
        "musc-fast score today/ --references good/ --out today_results",
        "musc-fast score photos/ --fail-on-flagged --json - -q",
    ),
    watch: (
        "musc-fast watch incoming/ --bank line3.safetensors",
        "musc-fast watch incoming/ --bank line3.safetensors --page line3.html",
        "musc-fast watch incoming/ --bank line3.safetensors --on-flagged './lamp red' --json - -q",
    ),
    evaluate: (
        "musc-fast evaluate --root mvtec/ --category bottle --category cable",
        "musc-fast evaluate --dataset visa --root visa/ --cache features/",
        "musc-fast evaluate --root mvtec/ --json -",
    ),
    demo: ("musc-fast demo",),
    backbones: (),
    info: (),
}
for command, examples in EXAMPLES.items():  # the order in the help
    add_command(app, command, examples)


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    print_plain(f"warning: {message}", to=errors, wrap=False)


def main() -> None:
    """Run the command; a known error is one message on standard error and exit status 1.

    SIGTERM ends the command as an error does, so that scratch files and half results go.
    """
    if "WORLD_SIZE" not in os.environ:  # torchrun ends its ranks, which may wait for each other
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    warnings.showwarning = _show_warning
    try:
        with warnings_printed():
            app()
    except (MuscFastError, OSError) as error:
        if errors.quiet and not isinstance(error, DistributedError):
            # Rank 0 prints the same error; torchrun ends all ranks as soon as one has exited.
            time.sleep(3)
            sys.exit(1)
        errors.quiet = False
        print_marked("error:", "bold red", str(error))
        sys.exit(1)
