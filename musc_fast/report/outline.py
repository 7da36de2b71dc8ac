"""Outlines of regions as SVG paths: marching squares, then Douglas and Peucker's simplification.

Marching squares looks at each cell, the square between the centres of four neighbouring pixels, and
joins those sides of the cell that the outline crosses.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]
Points = NDArray[np.float64]  # [n, 2] as x, y

# For each set of a cell's corners that lie in a region (sum of 1 left upper, 2 right upper, 4 right
# lower, 8 left lower), the pairs of sides that an outline joins. Two opposite corners count as
# connected (5 and 10).
_TOP, _RIGHT, _BOTTOM, _LEFT = range(4)
_JOINED_SIDES = {
    1: ((_LEFT, _TOP),),
    2: ((_TOP, _RIGHT),),
    3: ((_LEFT, _RIGHT),),
    4: ((_RIGHT, _BOTTOM),),
    5: ((_TOP, _RIGHT), (_LEFT, _BOTTOM)),
    6: ((_TOP, _BOTTOM),),
    7: ((_LEFT, _BOTTOM),),
    8: ((_LEFT, _BOTTOM),),
    9: ((_TOP, _BOTTOM),),
    10: ((_LEFT, _TOP), (_RIGHT, _BOTTOM)),
    11: ((_RIGHT, _BOTTOM),),
    12: ((_LEFT, _RIGHT),),
    13: ((_TOP, _RIGHT),),
    14: ((_LEFT, _TOP),),
}
# A side joins the centres of two pixels: row and column of the first, and whether the second lies
# below the first (else to its right).
_Side = tuple[int, int, bool]


def outlines(labels: NDArray[np.integer[Any]], values: Floats, threshold: float) -> list[Points]:
    """Closed outlines of all regions, holes included.

    Each outline is [n, 2], x and y in pixels; 0, 0 is the outer corner of the first pixel. The last
    point joins the first.

    labels: [h, w], regions are > 0.
    values: [h, w]; between two pixels an outline runs where the values cross `threshold`.
    threshold: level of the outline.
    """
    inside = np.pad(labels > 0, 1)
    # The frame around the map has no values, marked by NaN: there an outline runs half-way.
    field = np.pad(np.asarray(values, dtype=np.float64), 1, constant_values=np.nan)
    corners = inside[:-1, :-1] + 2 * inside[:-1, 1:] + 4 * inside[1:, 1:] + 8 * inside[1:, :-1]
    joined: dict[_Side, list[_Side]] = {}
    for row, column in np.argwhere((corners > 0) & (corners < 15)).tolist():
        sides: tuple[_Side, ...] = (
            (row, column, False),
            (row, column + 1, True),
            (row + 1, column, False),
            (row, column, True),
        )
        for one, other in _JOINED_SIDES[int(corners[row, column])]:
            joined.setdefault(sides[one], []).append(sides[other])
            joined.setdefault(sides[other], []).append(sides[one])
    loops = []
    while joined:
        first, (side, _) = joined.popitem()
        loop = [first]
        previous = first
        while side != first:
            loop.append(side)
            ends = joined.pop(side)
            previous, side = side, (ends[1] if ends[0] == previous else ends[0])
        loops.append(np.array([_crossing(side, field, threshold) for side in loop]))
    return loops


def _crossing(side: _Side, field: NDArray[np.float64], threshold: float) -> tuple[float, float]:
    """x and y where the field crosses the threshold between the two pixels of a side."""
    row, column, down = side
    start = field[row, column]
    end = field[row + 1, column] if down else field[row, column + 1]
    share = (threshold - start) / (end - start) if start != end else 0.5
    if not 0 <= share <= 1:  # the frame's NaN, or a pixel of a dropped region
        share = 0.5
    # Back by 1 for the frame around the map, forward by 0.5 to the centre of a pixel.
    x, y = column - 0.5, row - 0.5
    return (x, y + share) if down else (x + share, y)


def simplify(loop: Points, tolerance: float) -> Points:
    """A closed loop [n, 2] with fewer points (Douglas and Peucker 1973).

    tolerance: no dropped point lies farther than this from the line that replaces it.
    """
    if len(loop) < 4:
        return loop
    farthest = int(np.argmax(np.hypot(*(loop - loop[0]).T)))
    closed = np.vstack([loop, loop[:1]])
    keep = np.zeros(len(closed), dtype=bool)
    keep[[0, farthest, -1]] = True
    todo = [(0, farthest), (farthest, len(closed) - 1)]
    while todo:
        start, end = todo.pop()
        if end - start < 2:
            continue
        line = closed[end] - closed[start]
        points = closed[start + 1 : end] - closed[start]
        length = float(np.hypot(*line))
        if length == 0:
            distance = np.hypot(*points.T)
        else:
            distance = np.abs(points[:, 0] * line[1] - points[:, 1] * line[0]) / length
        worst = int(np.argmax(distance))
        if distance[worst] > tolerance:
            middle = start + 1 + worst
            keep[middle] = True
            todo += [(start, middle), (middle, end)]
    return closed[:-1][keep[:-1]]


def svg_path(
    labels: NDArray[np.integer[Any]],
    values: Floats,
    threshold: float,
    size: tuple[float, float],
    tolerance: float = 0.4,
) -> str:
    """The outlines of all regions as the attribute `d` of an SVG path, in whole numbers.

    labels, values, threshold: as for `outlines`.
    size: (h, w) of the view that the map fills.
    tolerance: of `simplify`, in pixels of the map.
    """
    x_scale, y_scale = size[1] / labels.shape[1], size[0] / labels.shape[0]
    parts = []
    for loop in outlines(labels, values, threshold):
        points = np.rint(simplify(loop, tolerance) * (x_scale, y_scale)).astype(int).tolist()
        parts.append("M" + "L".join(f"{x} {y}" for x, y in points) + "Z")
    return "".join(parts)
