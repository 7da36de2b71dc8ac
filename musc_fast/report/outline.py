"""Outlines of regions as SVG paths: marching squares, then Douglas and Peucker's simplification."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]
Points = NDArray[np.float64]  # [n, 2] as x, y

# Sides of a cell of four pixels, and which of them an outline joins for each set of corners inside
# (1 left upper, 2 right upper, 4 right lower, 8 left lower). Opposite corners are connected.
_TOP, _RIGHT, _BOTTOM, _LEFT = range(4)
_JOINED = {
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
_Side = tuple[int, int, bool]  # row and column of its first pixel, and whether it runs downwards


def outlines(labels: NDArray[np.integer[Any]], values: Floats, threshold: float) -> list[Points]:
    """Closed outlines of all numbered regions (labels > 0, [h, w]), holes included.

    Between two pixels the outline runs where `values` [h, w] crosses `threshold`. Points are [n, 2]
    as x, y in pixels, where 0, 0 is the corner of the first pixel; the last joins the first.
    """
    inside = np.pad(labels > 0, 1)
    # NaN marks what has no value of its own: there the outline runs along the pixel's border.
    field = np.pad(np.asarray(values, dtype=np.float64), 1, constant_values=np.nan)
    case = inside[:-1, :-1] + 2 * inside[:-1, 1:] + 4 * inside[1:, 1:] + 8 * inside[1:, :-1]
    joined: dict[_Side, list[_Side]] = {}
    for row, column in np.argwhere((case > 0) & (case < 15)).tolist():
        sides: tuple[_Side, ...] = (
            (row, column, False),
            (row, column + 1, True),
            (row + 1, column, False),
            (row, column, True),
        )
        for one, other in _JOINED[int(case[row, column])]:
            joined.setdefault(sides[one], []).append(sides[other])
            joined.setdefault(sides[other], []).append(sides[one])
    loops = []
    while joined:
        first, (at, _) = joined.popitem()
        loop = [first]
        before = first
        while at != first:
            loop.append(at)
            left, right = joined.pop(at)
            before, at = at, (right if left == before else left)
        loops.append(np.array([_crossing(side, field, threshold) for side in loop]))
    return loops


def _crossing(side: _Side, field: NDArray[np.float64], threshold: float) -> tuple[float, float]:
    """Where the field passes the threshold on the way between two neighbouring pixels."""
    row, column, down = side
    start = field[row, column]
    end = field[row + 1, column] if down else field[row, column + 1]
    part = (threshold - start) / (end - start) if start != end else 0.5
    if not 0 <= part <= 1:  # NaN, or a pixel of a dropped region
        part = 0.5
    # The frame of one pixel moves the origin by one, the centre of a pixel by one half.
    x, y = column - 0.5, row - 0.5
    return (x, y + part) if down else (x + part, y)


def simplified(loop: Points, tolerance: float) -> Points:
    """The closed loop with the fewest points that leave none farther than `tolerance` from it."""
    if len(loop) < 4:
        return loop
    far = int(np.argmax(np.hypot(*(loop - loop[0]).T)))
    closed = np.vstack([loop, loop[:1]])
    keep = np.zeros(len(closed), dtype=bool)
    keep[[0, far, -1]] = True
    todo = [(0, far), (far, len(closed) - 1)]
    while todo:
        start, end = todo.pop()
        if end - start < 2:
            continue
        along = closed[end] - closed[start]
        between = closed[start + 1 : end] - closed[start]
        length = float(np.hypot(*along))
        if length == 0:
            distance = np.hypot(*between.T)
        else:
            distance = np.abs(between[:, 0] * along[1] - between[:, 1] * along[0]) / length
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
    """The outlines of all regions as the `d` of an SVG path in a view of `size` (h, w).

    tolerance: of the simplification, in pixels of the map. Coordinates are rounded to integers.
    """
    across, up = size[1] / labels.shape[1], size[0] / labels.shape[0]
    parts = []
    for loop in outlines(labels, values, threshold):
        points = np.rint(simplified(loop, tolerance) * (across, up)).astype(int).tolist()
        parts.append("M" + "L".join(f"{x} {y}" for x, y in points) + "Z")
    return "".join(parts)
