"""The Typer application `musc-fast`: its commands, and how errors end it."""

from __future__ import annotations

import os
import signal
import sys
import time
import warnings

import typer

from ..errors import DistributedError, InputError, MuscFastError
from .console import console, errors, print_plain, warnings_printed
from .demo import demo
from .evaluate import evaluate
from .inspect import backbones, info
from .score import score
from .watch import watch

app = typer.Typer(
    name="musc-fast",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Find defects in a folder of product images: no training, no labels, no prompts. "
    "The images score each other (MuSc, ICLR 2024).",
)


@app.callback()
def _start(context: typer.Context) -> None:
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


for command in (evaluate, watch, score, demo, backbones, info):  # the order in the help
    app.command()(command)


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
        errors.print("error:", style="bold red", end=" ")
        print_plain(str(error), to=errors, wrap=False)
        sys.exit(1)
