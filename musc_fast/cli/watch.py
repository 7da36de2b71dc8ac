"""`musc-fast watch`: score the images of a folder as they appear."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.text import Text

from ..errors import ImageError, InputError
from ..recipes import DEFAULT_RECIPE
from ..shown import shown
from . import beyond, options
from .console import console, errors, interruptible, load, print_plain, talk
from .watch_tell import Tell

if TYPE_CHECKING:
    from ..runs.watch import Watch
    from ..runs.watch_record import Row

_OF_BANK = {
    "reference": "  reference",
    "reference left out": "  reference, left out of the bank",
    "removed": "  found again among the images of the bank, and removed",
}
_LONGEST = 7 * 86400.0  # seconds between two looks


def watch(
    context: typer.Context,
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
    size: options.SizeOption = "auto",
    tiles: beyond.TilesOption = None,
    tile_margin: beyond.TileMarginOption = None,
    capacity: Annotated[
        int | None,
        typer.Option(help="Images a new bank holds at most. Default: 200.", show_default=False),
    ] = None,
    evict: Annotated[
        Literal["oldest", "anomalous"] | None,
        typer.Option(
            help="What a full new bank gives up: the oldest image, or the most anomalous. Default: "
            "the oldest.",
            show_default=False,
        ),
    ] = None,
    start: Annotated[
        int, typer.Option(help="Images that are scored against each other to begin with.")
    ] = 10,
    references: Annotated[
        Path | None,
        typer.Option(
            help="Folder of good images that a new bank is begun with. Default: the first --start "
            "images of the watched folder.",
            show_default=False,
            metavar="FOLDER",
        ),
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(
            help="Flag images whose raw score is at least this. Default: those that score higher "
            "than the images of the bank do against each other.",
            show_default=False,
            metavar="SCORE",
        ),
    ] = None,
    false_alarms: Annotated[
        float,
        typer.Option(
            help="Share of the good images that may be flagged, where the bank decides.",
            metavar="SHARE",
        ),
    ] = 0.01,
    keep_flagged: Annotated[
        bool,
        typer.Option(
            "--keep-flagged", help="Let flagged images into the bank, and look for none there."
        ),
    ] = False,
    pictures: Annotated[
        bool, typer.Option(help="Write a heat map over each flagged image, beside the record.")
    ] = True,
    page: Annotated[
        Path | None,
        typer.Option(
            help="Keep up a page with the last verdict, the last images and the scores over time, "
            "for a screen beside the line.",
            show_default=False,
            metavar="FILE",
        ),
    ] = None,
    on_flagged: Annotated[
        str | None,
        typer.Option(
            help="Run this command for each flagged image, with its path and raw score as last "
            "arguments. No shell runs it, and the watch does not wait for it.",
            show_default=False,
            metavar="COMMAND",
        ),
    ] = None,
    on_flagged_timeout: Annotated[
        float, typer.Option(help="Seconds after which the command is killed.", metavar="SECONDS")
    ] = 30.0,
    fail_on_flagged: options.FailOption = False,
    json: options.JsonOption = None,
    once: Annotated[
        bool, typer.Option("--once", help="Score the images that are there, then end.")
    ] = False,
    interval: Annotated[
        float,
        typer.Option(help="Seconds between two looks; a file that changed in between waits."),
    ] = 2.0,
    save_every: Annotated[int, typer.Option(help="Save the bank after so many images.")] = 50,
    recipe: options.RecipeOption = DEFAULT_RECIPE,
    degrees: options.DegreesOption = None,
    place: beyond.PlaceOption = "off",
    copies: beyond.CopiesOption = None,
    repeats: beyond.WatchRepeatsOption = None,
    topmin: options.TopminOption = "0,0.3",
    align: beyond.AlignOption = "off",
    backend: options.BackendOption = "auto",
    precision: options.PrecisionOption = "exact",
    memory_limit: options.MemoryOption = None,
    device: options.DeviceOption = "auto",
    engine: options.EngineOption = "auto",
    feature_precision: options.FeaturePrecisionOption = "auto",
    weights: options.WeightsOption = None,
    offline: options.OfflineOption = False,
    white: options.WhiteOption = None,
    max_pixels: options.MaxPixelsOption = None,
    ignore: beyond.IgnoreOption = None,
    pooling: beyond.PoolingOption = "lnamd",
    temperature: beyond.TemperatureOption = 1.0,
) -> None:
    """Score the images of a folder as they appear, each against a bank of those before it.

    What the images of the bank score against each other tells which new ones to flag. Flagged ones
    stay out of the bank. A defect among the first is found again, and taken out of the bank, once
    there are enough images to tell: it then gets a second line. Until then the verdict on what
    stands out is "look".

    Every image gets one line in the record; stopped or killed, the command goes on where it was.
    A file that is written anew under its old name is a new image with a line of its own. One that
    cannot be read gets a line with the reason, and another when it has changed.

    Write an image under a name with a leading dot, then rename it: it is complete when it appears.

    Ctrl-C or SIGTERM ends the watch after the image under way; a second one at once.
    """
    from ..datasets.find_images import find_images
    from ..report.folder import check_fillable
    from ..runs.watch import WatchSettings, watching

    if not 0 < interval <= _LONGEST:
        raise InputError(f"--interval: found {interval:g}, wanted seconds, at most a week")
    if bank.name in ("", ".."):
        raise InputError(f"--bank: found {str(bank)!r}, wanted the name of a file")
    # RsCIN and forward passes of several images need a whole batch.
    arguments = {
        **options.musc_arguments(context),
        "repeats": repeats or "off",
        "neighbors": (1,),
        "use_cls": False,
        "batch_size": 1,
    }
    record = bank.with_name("scores.csv") if out is None else out
    settings = WatchSettings(
        capacity=capacity,
        evict=evict,
        start=start,
        save_every=save_every,
        threshold=threshold,
        false_alarms=false_alarms,
        keep_flagged=keep_flagged,
        references=() if references is None else tuple(find_images([references])),
        pictures=pictures,
        page=page,
        copies=copies,
        repeats=repeats,
    )
    for name, file in (("--bank", bank), ("--out", record), ("--page", page)):
        if file is not None:
            check_fillable(file.parent, name)
    tell = Tell(record, (bank, page), json, on_flagged, on_flagged_timeout)
    with interruptible("started again, the command goes on where it was"), tell:
        musc = load(arguments)
        with (
            watching(musc, folder, bank, record, settings, shown=not talk.quiet) as watched,
            _stop_signals() as stop_signal,
        ):
            _print_start(watched, folder)
            found = _score_until_stopped(watched, stop_signal, interval, tell, once=once)
        _print_end(watched, found, record, stopped=bool(stop_signal()), once=once)
    if fail_on_flagged and tell.status:
        raise typer.Exit(tell.status)
    if stop_signal() == signal.SIGINT:
        raise typer.Exit(130)


def _print_end(watched: Watch, found: int, record: Path, *, stopped: bool, once: bool) -> None:
    """Say what the record and the bank hold now; `found` is as of `_score_until_stopped`.

    Raises ImageError where `once` found too few images to begin with.
    """
    from ..runs.watch_pictures import pictures_folder

    count = watched.lines
    if once and not count and not stopped:
        raise ImageError(
            f"{watched.folder}: {found} images, wanted two readable ones to begin with"
        )
    text = f"{count} images in {shown(record)}, {_bank_line(watched)}"
    print_plain(text, wrap=False)
    if pictures_folder(record).is_dir():
        print_plain(f"pictures of flagged images: {pictures_folder(record)}", wrap=False)
    if watched.settings.page is not None:
        print_plain(f"page: {watched.settings.page}", wrap=False)


def _print_start(watched: Watch, folder: Path) -> None:
    for name in watched.gone:
        print_plain(
            f"{shown(name)} was scored, but is gone or has changed: left out of the bank",
            to=errors,
        )
    if watched.begun and watched.settings.references:
        print_plain(
            "the bank has been begun already: --references are not read again",
            to=errors,
            wrap=False,
        )
    start, references = watched.settings.start, len(watched.settings.references)
    begin = f"the first {start} are scored together"
    if watched.begun:
        begin = _bank_line(watched)
    elif references:
        begin = f"the bank is begun with {references} references"
    print_plain(
        f"watching {shown(folder)}: {watched.lines} images done, {begin}",
        to=errors,
        wrap=False,
    )


def _bank_line(watched: Watch) -> str:
    """How many images the bank holds, and from which raw score on it flags."""
    level = watched.level
    says = "it cannot tell yet" if level is None else f"flagged from {level:.4f} on"
    return f"the bank has been given {watched.bank.added} and holds {len(watched.bank)}: {says}"


def _score_until_stopped(
    watched: Watch, stop_signal: Callable[[], int], interval: float, tell: Tell, *, once: bool
) -> int:
    """Score new images until a signal comes, or `once`; the number found by the last look."""
    found = 0
    watched.look()
    while _wait(interval, stop_signal, watched.idle):
        ready = watched.look()
        found = len(ready)
        for row in watched.score(ready, last=once):
            _print_row(row, watched.folder, watched.copy_of.get(row.path))
            tell(row)
            if stop_signal():
                break
        if once:
            break
    return found


@contextmanager
def _stop_signals() -> Iterator[Callable[[], int]]:
    """Yield a function that returns the signal that asked to stop, 0 for none.

    A second signal of the same number acts as without this.
    """
    last = 0

    def on_signal(number: int, frame: object) -> None:
        nonlocal last
        last = number
        signal.signal(number, before[signal.Signals(number)])

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in before:
        signal.signal(number, on_signal)
    try:
        yield lambda: last
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _wait(seconds: float, stop_signal: Callable[[], int], on_idle: Callable[[], None]) -> bool:
    """Wait in short sleeps, since a signal does not end a sleep; False where a signal came."""
    end = time.monotonic() + seconds
    while not stop_signal() and (left := end - time.monotonic()) > 0:
        time.sleep(min(left, 0.1))
        on_idle()
    return not stop_signal()


def _print_row(row: Row, folder: Path, copy_of: str | None = None) -> None:
    """Print an image's raw score, references and verdict, or why it cannot be read.

    copy_of: the image of the bank that it is a copy of.
    """
    path = Path(row.path)
    name = shown(path.relative_to(folder) if folder in path.parents else path)
    if row.reason:
        text = Text.assemble(("unreadable", "yellow"), f"  {name}  {shown(row.reason)}")
    else:
        text = Text(f"{float(row.raw_score):.4f}  {name}  ")
        level = f" from {float(row.threshold):.4f} on" if row.threshold else ""
        text.append(f"against {row.references}", "dim")
        if row.verdict == "flagged":
            text.append(f"  flagged{level}", "red")
        elif row.verdict == "look":
            text.append("  look", "yellow")
        elif row.verdict == "clear":
            text.append("  clear", "green")
        text.append(_OF_BANK.get(row.bank, ""), "dim")
        if copy_of is not None:
            first = Path(copy_of)
            first = first.relative_to(folder) if folder in first.parents else first
            text.append(f"  copy of {shown(first)}, scored without it", "dim")
    console.print(text, highlight=False, soft_wrap=True)
