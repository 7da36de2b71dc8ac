"""What the commands share: consoles with a log file, progress, warnings, the end by Ctrl-C."""

from __future__ import annotations

import io
import logging
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.text import Text

from ..errors import InputError, MuscFastWarning
from ..shown import shown

if TYPE_CHECKING:
    from ..musc import MuSc
    from ..progress import StageProgress

_log = logging.getLogger("musc_fast.command")
_log.propagate = False
_log.setLevel(logging.INFO)


class _LoggedConsole(Console):
    """A console whose lines also go to the log file, where there is one, as plain text."""

    level = logging.INFO

    def print(self, *objects: Any, **options: Any) -> None:
        super().print(*objects, **options)
        if _log.handlers:
            text = io.StringIO()
            Console(file=text, width=160, no_color=True).print(*objects, **options)
            for line in text.getvalue().splitlines():
                if line.strip():
                    _log.log(self.level, line.rstrip())


console = _LoggedConsole()
errors = _LoggedConsole(stderr=True)
errors.level = logging.WARNING


@dataclass
class Talk:
    """How much a command says: `quiet` leaves warnings and errors, `verbose` adds what is used."""

    quiet: bool = False
    verbose: bool = False


talk = Talk()


@contextmanager
def talking(quiet: bool, verbose: bool, log_file: Path | None) -> Iterator[None]:
    """Say less or more than usual, and keep a log, for the time of the block.

    log_file: gets every line of the command, with times; one that exists is gone on with.

    Raises InputError where both `quiet` and `verbose` are set, or the log cannot be written.
    """
    if quiet and verbose:
        raise InputError("--quiet and --verbose contradict each other; give one")
    was_quiet = console.quiet
    handler = None
    if log_file is not None and not errors.quiet:  # quiet here: a rank that prints nothing
        try:
            log_file.parent.mkdir(parents=True, exist_ok=True)
            handler = logging.FileHandler(log_file, encoding="utf-8", errors="backslashreplace")
        except OSError as error:
            raise InputError(
                f"--log-file: {log_file} cannot be written ({error.strerror})"
            ) from None
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(message)s"))
        _log.addHandler(handler)
        _log.info("musc-fast %s", " ".join(map(shown, sys.argv[1:])))
    talk.quiet, talk.verbose = quiet, verbose
    console.quiet = quiet or was_quiet
    try:
        yield
    except Exception as error:
        if not isinstance(error, typer.Exit):
            if handler is not None:  # without one, logging writes on standard error itself
                _log.error("%s", error)
            if verbose:
                traceback.print_exception(error)
        raise
    finally:
        console.quiet = was_quiet
        talk.quiet = talk.verbose = False
        if handler is not None:
            _log.removeHandler(handler)
            handler.close()


@contextmanager
def printing_to_errors() -> Iterator[None]:
    """Print on standard error what else goes to standard output, which takes data meanwhile."""
    console.stderr = True
    try:
        yield
    finally:
        console.stderr = False


@contextmanager
def stages() -> Iterator[StageProgress]:
    """Yield a (stage, done, total) function: bars or lines on standard error, lines in the log."""
    from ..progress import ProgressLines, stage_bars

    shown_here = not (talk.quiet or errors.quiet)
    to_log = ProgressLines(_log.info)
    # A console without a log of its own: its lines would be there twice.
    with stage_bars(shown_here, console=Console(stderr=True)) as draw:

        def on_progress(stage: str, done: int, total: int) -> None:
            draw(stage, done, total)
            if _log.handlers:
                to_log(stage, done, total)

        yield on_progress


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
        shown_otherwise = warnings.showwarning

        def show(message: Any, category: type[Warning], *rest: Any) -> None:
            if issubclass(category, MuscFastWarning):
                text = str(message).encode("utf-8", "replace").decode()
                print_marked("note:", "bold yellow", " ".join(text.splitlines()))
            else:
                shown_otherwise(message, category, *rest)

        warnings.showwarning = show  # type: ignore[assignment]
        yield


def print_marked(mark: str, style: str, text: str) -> None:
    """Print a mark, as "error:", and a text after it on standard error."""
    line = Text.assemble((mark, style), " ", shown(text, lines=True))
    errors.print(line, soft_wrap=True)


def load(arguments: dict[str, Any], images: Sequence[Path] = ()) -> MuSc:
    """`MuSc(**arguments)`, while standard error shows what is being fetched or converted.

    images: what is scored together, to which a size or tiles that are "auto" are fitted.
    """
    from ..musc import MuSc

    with _loading(named("loading ", arguments["backbone"])) as notify:
        musc = MuSc(**arguments, notify=notify)
        if images:
            musc = musc.fitted(images)
    if talk.verbose:
        print_plain(what_is_used(musc), to=errors, wrap=False)
    return musc


@contextmanager
def _loading(text: Text) -> Iterator[Callable[[str], None]]:
    """Yield a function that shows a line about the loading: a spinner, or lines on no terminal.

    It may be called after the block, too: some models are converted when they first compute.
    """
    if talk.quiet or errors.quiet:
        yield lambda line: _log.info(line)
        return
    if not errors.is_terminal or errors.is_dumb_terminal:
        errors.print(text, soft_wrap=True)
        yield lambda line: errors.print(named(line), soft_wrap=True)
        return
    with errors.status(text, spinner="line") as status:
        ended = False

        def notify(line: str) -> None:
            if ended:
                errors.print(named(line), soft_wrap=True)
            else:
                status.update(named(line))
                _log.info(line)

        yield notify
        ended = True


def what_is_used(musc: MuSc) -> str:
    """One line: backbone, weights, size, what computes, and the kernels."""
    from ..runs.record import chosen_backend

    backbone = musc.backbone
    side = musc.size_text
    blocks = ",".join(map(str, backbone.blocks))
    return (
        f"using {backbone.spec.name} ({backbone.source}) at {side}, blocks {blocks}, recipe "
        f"{musc.recipe}; {backbone.engine} in {backbone.precision} on {backbone.device}, backend "
        f"{chosen_backend(musc)}"
    )


def named(*parts: object) -> Text:
    """Names and words as text for a table or a line: nothing in them is markup or control."""
    return Text("".join(shown(part) for part in parts))


def print_plain(text: str, *, to: Console | None = None, wrap: bool = True) -> None:
    """Print text as it is: no markup, no colours; `wrap`=False leaves long lines whole.

    Control characters are shown, not sent to the terminal.
    """
    where = console if to is None else to
    soft_wrap = not (wrap and where.is_terminal)  # lines of a log stay whole
    where.print(shown(text, lines=True), markup=False, highlight=False, soft_wrap=soft_wrap)


def print_place(results: Path) -> None:
    """Print where the results are, in one line that can be copied."""
    print_plain(f"results: {results}", wrap=False)
