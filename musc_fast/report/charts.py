"""Charts of the report as inline SVG: histogram, ROC and precision-recall curve.

The charts hold numbers and fixed words only, no text of a user's. Colours come from the page's
style.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]
Bools = NDArray[np.bool_]

_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 10, 24, 46  # margins around the plot, in units of the view


def nice_ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round numbers in [low, high], at most `most` + 1 of them."""
    span = high - low
    if not span > 0:
        return [low]
    raw = span / most
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * m for m in (1, 2, 5, 10) if power * m >= raw * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    return [k * step for k in range(first, math.floor(high / step + 1e-9) + 1)]


def histogram_bins(
    scores: Floats, threshold: float | None
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Edges [bins + 1] of equal bins, and the bin of each score [N].

    A threshold within the range of the scores is an edge, so no bin holds both flagged and
    unflagged images.
    """
    low, high = float(scores.min()), float(scores.max())
    if not high > low:
        half = max(abs(low) * 0.05, 1e-6)
        low, high = low - half, high + half
    bins = min(48, max(8, 2 * math.ceil(math.sqrt(scores.size))))
    width = (high - low) / bins
    bins_below = None
    if threshold is not None and low <= threshold <= high:
        bins_below = math.ceil((threshold - low) / width)
        low = threshold - bins_below * width
        bins = max(bins_below + 1, math.ceil((high - low) / width * (1 - 1e-12)))
    index = np.floor((scores - low) / width).astype(np.int64).clip(0, bins - 1)
    if threshold is not None and bins_below is not None:
        # Rounding must not move an image over the threshold.
        flagged = scores >= threshold
        index[flagged] = np.maximum(index[flagged], bins_below)
        index[~flagged] = np.minimum(index[~flagged], bins_below - 1)
    edges: NDArray[np.float64] = low + width * np.arange(bins + 1, dtype=np.float64)
    return edges, index


def histogram(
    scores: Floats,
    threshold: float | None,
    groups: Sequence[tuple[str, str, Bools]],
    axis: str,
) -> str:
    """SVG with stacked bars that count scores; each names its bin of `histogram_bins`.

    scores: [N].
    threshold: drawn as a dashed line where it lies within the scores; None draws none.
    groups: name, CSS class and members [N] of each part of the bars, from the bottom up.
    axis: label of the horizontal axis.
    """
    width, height = 560, 250
    edges, index = histogram_bins(scores, threshold)
    bins = len(edges) - 1
    counts = [np.bincount(index[members], minlength=bins) for _, _, members in groups]
    highest = int(np.bincount(index, minlength=bins).max())
    ticks = [t for t in nice_ticks(0, highest, 4) if t == int(t)]
    x = Axis(float(edges[0]), float(edges[-1]), _LEFT, width - _RIGHT)
    y = Axis(0, highest, height - _BOTTOM, _TOP)
    inside = threshold is not None and edges[0] <= threshold <= edges[-1]
    description = f"{scores.size} images from {scores.min():.3f} to {scores.max():.3f}" + (
        f"; threshold {threshold:.3f}" if threshold is not None else "; no threshold"
    )
    parts = [_opening("histogram", "Histogram of scores", description, width, height, "group")]
    parts += [_y_tick(y(t), f"{t:.0f}", width) for t in ticks]
    for k in range(bins):
        base = y(0)
        for (name, css, _), count in zip(groups, counts, strict=True):
            if not count[k]:
                continue
            bar_height = max(2.0, y(0) - y(int(count[k])))  # so that one image is visible
            base -= bar_height
            parts.append(
                f'<rect class="bar {css}" data-bin="{k}" '
                f'data-range="{edges[k]:.3f} to {edges[k + 1]:.3f}" tabindex="0" role="button" '
                f'aria-pressed="false" x="{x(edges[k]) + 0.75:.1f}" y="{base:.1f}" '
                f'width="{max(1.0, x(edges[k + 1]) - x(edges[k]) - 1.5):.1f}" '
                f'height="{bar_height:.1f}"><title>{edges[k]:.3f} to {edges[k + 1]:.3f}: '
                f"{count[k]} {name}</title></rect>"
            )
    parts += [_x_tick(x(t), f"{t:.6g}", height) for t in nice_ticks(x.low, x.high, 8)]
    if threshold is not None and inside:
        cut = x(threshold)
        anchor = "end" if cut > width * 0.6 else "start"
        shift = -6 if anchor == "end" else 6
        parts.append(
            f'<line class="cut" x1="{cut:.1f}" x2="{cut:.1f}" y1="4" y2="{y(0):.1f}"/>'
            f'<text class="strong" x="{cut + shift:.1f}" y="15" text-anchor="{anchor}">'
            f"threshold {threshold:.3f}</text>"
        )
    parts.append(_axis_labels(axis, "images", width, height))
    return "".join(parts) + "</svg>"


def curve(
    kind: str,
    title: str,
    x_values: Floats,
    y_values: Floats,
    axes: tuple[str, str],
    point: tuple[float, float] | None,
    diagonal: bool,
) -> str:
    """SVG of a curve in the unit square.

    kind: CSS class and prefix of the ids, one of a kind in the page.
    title: name of the chart, for readers who cannot see it.
    x_values, y_values: [n] points of the curve, joined by straight lines.
    axes: labels of the horizontal and the vertical axis.
    point: (x, y) of the threshold, drawn as a dot; None where no image is flagged.
    diagonal: whether to draw the line from (0, 0) to (1, 1), the curve of a guess.
    """
    width, height = 360, 320
    x = Axis(0, 1, _LEFT, width - _RIGHT)
    y = Axis(0, 1, height - _BOTTOM, _TOP)
    description = f"{axes[1]} over {axes[0]}"
    if point is not None:
        description += f"; at the threshold {point[1]:.3f} at {point[0]:.3f}"
    parts = [_opening(kind, title, description, width, height)]
    for t in (0, 0.25, 0.5, 0.75, 1):
        parts += [_y_tick(y(t), f"{t:g}", width), _x_tick(x(t), f"{t:g}", height)]
    if diagonal:
        parts.append(f'<line class="chance" x1="{x(0)}" y1="{y(0)}" x2="{x(1)}" y2="{y(1)}"/>')
    line = " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in zip(x_values, y_values, strict=True))
    parts.append(f'<polyline class="curve" points="{line}"/>')
    if point is not None:
        parts.append(
            f'<circle class="at" cx="{x(point[0]):.1f}" cy="{y(point[1]):.1f}" r="5.5">'
            f"<title>at the threshold: {axes[0]} {point[0]:.3f}, {axes[1]} {point[1]:.3f}</title>"
            "</circle>"
        )
    parts.append(_axis_labels(axes[0], axes[1], width, height))
    return "".join(parts) + "</svg>"


class Axis:
    """Values low..high as coordinates start..end."""

    def __init__(self, low: float, high: float, start: float, end: float) -> None:
        self.low, self.high, self.start, self.end = low, high, start, end

    def __call__(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)


def _opening(
    kind: str, title: str, description: str, width: int, height: int, role: str = "img"
) -> str:
    return (
        f'<svg class="chart {kind}" viewBox="0 0 {width} {height}" role="{role}" '
        f'aria-labelledby="{kind}-title {kind}-desc"><title id="{kind}-title">{title}</title>'
        f'<desc id="{kind}-desc">{description}</desc>'
    )


def _y_tick(y: float, label: str, width: int) -> str:
    return (
        f'<line class="grid" x1="{_LEFT}" x2="{width - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{label}</text>'
    )


def _x_tick(x: float, label: str, height: int) -> str:
    return f'<text x="{x:.1f}" y="{height - _BOTTOM + 17}" text-anchor="middle">{label}</text>'


def _axis_labels(x_label: str, y_label: str, width: int, height: int) -> str:
    middle = (_LEFT + width - _RIGHT) / 2
    return (
        f'<text x="{middle}" y="{height - 6}" text-anchor="middle">{x_label}</text>'
        f'<text x="4" y="13">{y_label}</text>'
    )
