"""How a function becomes a command: its help text, its examples, the options that all share."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from .console import talking

CONTEXT = {"help_option_names": ["-h", "--help"]}
MESSAGES = "Messages"

_COMMON = {
    "quiet": Annotated[
        bool,
        typer.Option(
            "--quiet",
            "-q",
            help="Print nothing but warnings and errors.",
            rich_help_panel=MESSAGES,
        ),
    ],
    "verbose": Annotated[
        bool,
        typer.Option(
            "--verbose",
            "-v",
            help="Also print what is used, and where an error arose.",
            rich_help_panel=MESSAGES,
        ),
    ],
    "log_file": Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Append every line, with its time, to this file.",
            show_default=False,
            rich_help_panel=MESSAGES,
        ),
    ],
}
_DEFAULTS: dict[str, Any] = {"quiet": False, "verbose": False, "log_file": None}


def _without_bool(params: list[Any]) -> list[Any]:
    """The parameters; a flag, which takes no value, shows none in the help."""
    for param in params:
        if getattr(param, "is_flag", False) and param.metavar is None:
            param.metavar = ""
    return params


class Command(TyperCommand):
    """A command whose help shows no value for flags."""

    def get_params(self, ctx: Any) -> list[Any]:
        """The parameters of the command and --help."""
        return _without_bool(super().get_params(ctx))


class Group(TyperGroup):
    """The commands together; their help shows no value for flags."""

    def get_params(self, ctx: Any) -> list[Any]:
        """The parameters of the group and --help."""
        return _without_bool(super().get_params(ctx))


def add_command(
    app: typer.Typer, function: Callable[..., Any], examples: Sequence[str] = ()
) -> None:
    """Add a function to `app` as the command of its name.

    examples: command lines, each with what it does after two blanks and a #.
    """
    text = inspect.getdoc(function) or ""
    paragraphs = (" ".join(paragraph.split()) for paragraph in text.split("\n\n"))
    lines = (f"[cyan]{line.replace('[', chr(92) + '[')}[/]" for line in examples)
    epilog = "\n".join(["[bold]Examples[/]", *lines]) if examples else None
    app.command(
        function.__name__,
        cls=Command,
        context_settings=CONTEXT,
        help="\n\n".join(paragraphs),
        epilog=epilog,
    )(_with_common_options(function))


def _with_common_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function with the options of `_COMMON`, which `talking` takes."""
    signature = inspect.signature(function, eval_str=True)
    parameters = dict(signature.parameters)
    for name, annotation in _COMMON.items():
        parameters[name] = inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=_DEFAULTS[name],
            annotation=annotation,
        )

    @functools.wraps(function)
    def run(**given: Any) -> Any:
        talk = {name: given.pop(name) for name in _COMMON}
        with talking(**talk):
            return function(**given)

    run.__signature__ = signature.replace(parameters=[*parameters.values()])  # type: ignore[attr-defined]
    return run
