"""`musc-fast watch`."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.markup import escape

from ..errors import ImageError, InputError
from . import options
from .console import console, errors, interruptible, load

if TYPE_CHECKING:
    from ..runs.watch import Row


def watch(
    folder: Annotated[Path, typer.Argument(help="Folder that new images appear in.")],
    bank: Annotated[
        Path,
        typer.Option(help="File of the reference bank: made if absent, else gone on with."),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            help="The record, one line an image. Default: scores.csv beside the bank.",
            show_default=False,
        ),
    ] = None,
    backbone: options.BackboneOption = "dinov2-vit-s-14",
    size: options.SizeOption = None,
    capacity: Annotated[int, typer.Option(help="Images a new bank holds at most.")] = 200,
    evict: Annotated[
        Literal["oldest", "anomalous"],
        typer.Option(help="What a full bank gives up: the oldest image, or the most anomalous."),
    ] = "oldest",
    start: Annotated[
        int, typer.Option(help="Images that are scored against each other to begin with.")
    ] = 10,
    threshold: Annotated[
        float | None,
        typer.Option(help="Mark images whose raw score is at least this.", show_default=False),
    ] = None,
    once: Annotated[
        bool, typer.Option("--once", help="Score the images that are there, then end.")
    ] = False,
    interval: Annotated[
        float,
        typer.Option(help="Seconds between two looks; a file that changed in between waits."),
    ] = 2.0,
    save_every: Annotated[int, typer.Option(help="Save the bank after so many images.")] = 50,
    degrees: options.DegreesOption = "1,3,5",
    topmin: options.TopminOption = "0,0.3",
    backend: options.BackendOption = "auto",
    precision: options.PrecisionOption = "exact",
    memory_limit: options.MemoryOption = None,
    device: options.DeviceOption = "auto",
    weights: options.WeightsOption = None,
    offline: options.OfflineOption = False,
) -> None:
    """Score the images of a folder as they appear, each against a bank of those before it.

    Every image gets one line in the record; stopped or killed, the command goes on where it was.
    A file is known by its full path. One that cannot be read gets a line with the reason, and
    another when it has changed.

    Write an image under a name with a leading dot, then rename it: it is complete when it appears.

    Ctrl-C or SIGTERM ends the watch after the image under way; a second one at once.
    """
    from ..runs.watch import Settings, watching

    if interval <= 0:
        raise InputError(f"--interval: found {interval:g}, wanted seconds above 0")
    settings = options.scoring(
        degrees=degrees,
        topmin=topmin,
        neighbors="1",
        rscin=False,
        backend=backend,
        precision=precision,
        memory_limit=memory_limit,
        device=device,
        batch_size=1,
    )
    record = bank.with_name("scores.csv") if out is None else out
    how = Settings(capacity, evict, start, save_every, threshold)
    with interruptible("started again, the command goes on where it was"):
        musc = load(
            backbone,
            image_size=options.size("--size", size),
            weights=weights,
            offline=offline,
            **settings,
        )
        with watching(musc, folder, bank, record, how, shown=True) as watched, _stops() as stopped:
            for name in watched.gone:
                errors.print(
                    f"{_shown(name)} was scored, but is gone: left out of the bank",
                    markup=False,
                    highlight=False,
                )
            held = watched.bank.added
            begin = f"the bank has {held}" if held else f"the first {start} are scored together"
            errors.print(
                f"watching {_shown(folder)}: {len(watched.done)} images done, {begin}",
                markup=False,
                highlight=False,
                soft_wrap=True,
            )
            watched.look()
            while _waited(interval, stopped):
                ready = watched.look()
                for row in watched.score(ready, last=once):
                    _tell(row, watched.folder)
                    if stopped():
                        break
                if once:
                    break
    count = len(watched.done)
    if once and not count and not stopped():
        raise ImageError(f"{folder}: {len(ready)} images, wanted two readable ones to begin with")
    text = f"{count} images in {_shown(record)}, the bank has {watched.bank.added}"
    console.print(text, markup=False, highlight=False, soft_wrap=True)
    if stopped() == signal.SIGINT:
        raise typer.Exit(130)


@contextmanager
def _stops() -> Iterator[Callable[[], int]]:
    """Yield a function that tells the signal which asked to stop, 0: none; a second one kills."""
    asked = [0]

    def note(number: int, frame: object) -> None:
        asked[0] = number
        signal.signal(number, before[signal.Signals(number)])

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in before:
        signal.signal(number, note)
    try:
        yield lambda: asked[0]
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _waited(seconds: float, stopped: Callable[[], int]) -> bool:
    """Wait, in short naps since a signal does not end a sleep; False where one came."""
    end = time.monotonic() + seconds
    while not stopped() and (left := end - time.monotonic()) > 0:
        time.sleep(min(left, 0.1))
    return not stopped()


def _shown(name: str | Path) -> str:
    """A file name as text that any terminal takes, on one line."""
    text = str(name).encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return " ".join(text.splitlines())


def _tell(row: Row, folder: Path) -> None:
    """One line an image: its raw score, and what it was scored against."""
    name = escape(_shown(Path(row.file).relative_to(folder)))
    if row.reason:
        text = f"[yellow]unreadable[/]  {name}  {escape(_shown(row.reason))}"
    else:
        mark = "  [red]flagged[/]" if row.flagged == "1" else ""
        text = f"{float(row.raw_score):.4f}  {name}  [dim]against {row.references}[/]{mark}"
    console.print(text, highlight=False, soft_wrap=True)
