"""A chart of scores over time as inline SVG, for the page of a watch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from .charts import Axis, nice_ticks

_WIDTH, _HEIGHT = 900, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 12, 14, 40  # margins around the plot, in units of the view
_FEWEST = 20  # places of the horizontal axis, so that the first images do not fill it


@dataclass(frozen=True)
class Point:
    """An image in time.

    raw_score: its score. threshold: from which score on it was flagged, None where that was not
    known. verdict: "flagged", "look" or "clear". time: in seconds since 1970.
    """

    raw_score: float
    threshold: float | None
    verdict: str
    time: float


def timeline(points: Sequence[Point]) -> str:
    """SVG of the scores in the order of the images, with the threshold that each was held against.

    Each verdict has a colour and a shape: a circle for clear, a triangle for look, a larger square
    for flagged. The images are equally far apart, since a line stands still at night.

    points: the oldest first; none gives an empty chart.
    """
    levels = [level for point in points if (level := _level(point)) is not None]
    values = [point.raw_score for point in points] + levels
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    room = (high - low) * 0.08 or abs(high) * 0.05 or 1.0
    low = max(0.0, low - room) if low >= 0 else low - room
    x = Axis(-0.5, max(_FEWEST, len(points)) - 0.5, _LEFT, _WIDTH - _RIGHT)
    y = Axis(low, high + room, _HEIGHT - _BOTTOM, _TOP)
    counts = {name: sum(p.verdict == name for p in points) for name in ("flagged", "look", "clear")}
    told = ", ".join(f"{count} {name}" for name, count in counts.items())
    parts = [
        f'<svg class="timeline" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        'aria-labelledby="timeline-title timeline-desc">'
        '<title id="timeline-title">Raw score of each image over time</title>'
        f'<desc id="timeline-desc">the last {len(points)} images: {told}</desc>'
    ]
    parts += [
        f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y(tick):.1f}" '
        f'y2="{y(tick):.1f}"/><text x="{_LEFT - 8}" y="{y(tick) + 6:.1f}" '
        f'text-anchor="end">{tick:.6g}</text>'
        for tick in nice_ticks(low, high + room, 5)
    ]
    parts.append(_threshold_line(points, x, y))
    parts += [_mark(point, x(place), y(point.raw_score)) for place, point in enumerate(points)]
    ends = [(0, "start")] if points else []
    if len(points) >= _FEWEST:  # with fewer, the two times could meet
        ends.append((len(points) - 1, "end"))
    parts += [
        f'<text x="{x(place):.1f}" y="{_HEIGHT - 12}" text-anchor="{anchor}">'
        f"{clock(points[place].time)}</text>"
        for place, anchor in ends
    ]
    return "".join(parts) + "</svg>"


def _level(point: Point) -> float | None:
    """The threshold that can be drawn: one that flags none is infinite."""
    return point.threshold if point.threshold is None or math.isfinite(point.threshold) else None


def _threshold_line(points: Sequence[Point], x: Axis, y: Axis) -> str:
    steps: list[str] = []
    pen_down = False
    for place, point in enumerate(points):
        level = _level(point)
        if level is not None:
            start = f"{'L' if pen_down else 'M'}{x(place - 0.5):.1f},{y(level):.1f}"
            steps.append(f"{start}H{x(place + 0.5):.1f}")
        pen_down = level is not None
    return f'<path class="cut" d="{"".join(steps)}"/>' if steps else ""


def _mark(point: Point, x: float, y: float) -> str:
    title = f"<title>{point.raw_score:.4g}, {point.verdict}, {clock(point.time)}</title>"
    if point.verdict == "flagged":
        return (
            f'<rect class="flagged" x="{x - 7:.1f}" y="{y - 7:.1f}" width="14" height="14">'
            f"{title}</rect>"
        )
    if point.verdict == "look":
        return f'<path class="look" d="M{x:.1f},{y - 8:.1f}l7.5,13h-15z">{title}</path>'
    return f'<circle class="clear" cx="{x:.1f}" cy="{y:.1f}" r="4">{title}</circle>'


def clock(seconds: float) -> str:
    """A time as people of this place write it: the day, too, where that is not today."""
    then = datetime.fromtimestamp(seconds)
    today = then.date() == datetime.now().date()
    return then.strftime("%H:%M:%S" if today else "%Y-%m-%d %H:%M")
