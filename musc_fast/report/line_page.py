"""The page of a watch: the last image's verdict across the whole width, then images and scores.

The page is one file that needs no network and loads itself anew every few seconds. It is written
after every image, and from time to time between them; a browser that finds it old says so, since a
watch that was killed leaves its last verdict behind.
"""

from __future__ import annotations

import base64
import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from .._version import __version__
from ..files import replacing
from ..shown import shown
from .html import package_text, page_environment
from .timeline import Point, clock, timeline

REFRESH = 2  # seconds after which a browser loads the page anew
BEAT = 60.0  # seconds after which the page is written again where no image comes
STALE = 3 * BEAT  # an older page is not kept up any more
MARK = '<meta name="generator" content="musc_fast watch'  # of a page that may be written over
UNREADABLE = "unreadable"
WORDS = {"flagged": "FLAGGED", "look": "LOOK", "clear": "CLEAR", UNREADABLE: "UNREADABLE"}


@dataclass(frozen=True)
class ShownImage:
    """An image on the page.

    name: below the watched folder. verdict: a key of `WORDS`.
    raw_score, threshold: None where there is none. time: when it was read, in seconds since 1970.
    note: what else is to be said, as why a file cannot be read; "" for nothing.
    photo, heat: data URIs of the photo and of the transparent map that lies over it; "" for none.
    ratio: width of the photo by its height.
    """

    name: str
    verdict: str
    raw_score: float | None
    threshold: float | None
    time: float
    note: str = ""
    photo: str = ""
    heat: str = ""
    ratio: float = 1.0

    @property
    def word(self) -> str:
        """The verdict as it stands in the banner."""
        return WORDS[self.verdict]

    @property
    def clock(self) -> str:
        """The time as people write it."""
        return clock(self.time)

    @property
    def shown_name(self) -> str:
        """The name in printable characters."""
        return shown(self.name)


@dataclass(frozen=True)
class LineState:
    """What the page shows.

    folder: the watched one. images: the last ones, newest first. flagged: the last flagged ones,
        newest first. points: scores, oldest first.
    counts: images of the record by verdict, keys of `WORDS`.
    bank: one line about the bank. ended: "" while the watch goes on, else how it ended.
    """

    folder: str
    images: Sequence[ShownImage]
    flagged: Sequence[ShownImage]
    points: Sequence[Point]
    counts: dict[str, int]
    bank: str
    ended: str = ""


def write_line_page(path: Path, state: LineState) -> None:
    """Write the page, complete or not at all.

    Raises OSError where it cannot be written.
    """
    script = package_text("line_page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    last = state.images[0] if state.images else None
    pictured = {id(each): each for each in (*state.images, *state.flagged) if each.photo}
    values = {
        "mark": Markup(MARK),
        "version": __version__,
        "script": Markup(script),
        "script_hash": f"sha256-{digest}",
        "style": Markup(package_text("line_page.css")),
        "refresh": REFRESH,
        "written": round(time.time() * 1000),
        "stale": round(STALE * 1000),
        "now": time.strftime("%Y-%m-%d %H:%M:%S"),
        "state": state,
        "folder": shown(state.folder),
        "last": last,
        "kind": "ended" if state.ended else last.verdict if last else "waiting",
        "classes": {key: f"p{place}" for place, key in enumerate(pictured)},
        "pictured": list(pictured.values()),
        "id": id,
        "timeline": Markup(timeline(state.points)),
    }
    page = page_environment().get_template("line_page.html").stream(values)
    with replacing(path) as temporary, temporary.open("wb") as file:
        page.dump(file, encoding="utf-8", errors="replace")
