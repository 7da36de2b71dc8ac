"""The exit statuses of the commands, and their list in the help (also in docs/results.md)."""

from __future__ import annotations

from collections.abc import Iterable

FLAGGED, LOOK = 3, 4  # of --fail-on-flagged

EXIT_STATUS = (
    "[bold]Exit status[/]",
    "0  done (also where images are flagged, without --fail-on-flagged)",
    "1  an error; its message says what to do",
    "2  the command line is wrong",
    "3  --fail-on-flagged (score, watch): images are flagged",
    "4  --fail-on-flagged: none is flagged, but some cannot be decided on (look, unreadable)",
    "130, 143  ended by Ctrl-C, by SIGTERM",
)


def status_of(verdicts: Iterable[str], *, unreadable: bool = False) -> int:
    """The exit status of --fail-on-flagged: FLAGGED, else LOOK, else 0.

    verdicts: of the images. unreadable: whether there were images besides that cannot be read.
    """
    found = set(verdicts)
    return FLAGGED if "flagged" in found else LOOK if "look" in found or unreadable else 0
