"""Transforms between the frame and an image, in units of their sides.

A transform [2, 3] leads from a point of the frame to the point of the image that shows the same
place of the product. Points are (x / width, y / height), so one transform holds for the image, its
anomaly map and its grid of patches alike; pixel i of n covers i / n to (i + 1) / n.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]
Size = tuple[int, int]  # (height, width)

IDENTITY: Matrix = np.eye(2, 3)
_COVERED = 0.75  # share of a patch that must lie within the image
_POINTS = 4  # a side of a patch, where its cover is sampled


def to_pixels(transform: Matrix, frame: Size, image: Size) -> Matrix:
    """A transform between the pixels, by their centres, of a frame and an image of these sizes."""
    return _whole(_centres(image) @ _whole(transform) @ np.linalg.inv(_centres(frame)))[:2]


def to_units(matrix: Matrix, frame: Size, image: Size) -> Matrix:
    """The transform of a matrix as from `to_pixels`."""
    return _whole(np.linalg.inv(_centres(image)) @ _whole(matrix) @ _centres(frame))[:2]


def inverse(transform: Matrix) -> Matrix:
    """The transform back, from the image to the frame."""
    return np.asarray(np.linalg.inv(_whole(transform))[:2])


def chain(transforms: Iterable[Matrix]) -> Matrix:
    """The transform that applies these one after another."""
    result = np.eye(3)
    for each in transforms:
        result = _whole(each) @ result
    return result[:2]


def largest_move(transform: Matrix, size: Size) -> float:
    """How far a corner of the frame is moved at most, in units of the longer side of `size`."""
    corners = np.array([[0, 0], [1, 0], [0, 1], [1, 1]], dtype=np.float64)
    apart = (apply(transform, corners) - corners) * (size[1], size[0])
    return float(np.hypot(apart[:, 0], apart[:, 1]).max() / max(size))


def apply(transform: Matrix, points: Matrix) -> Matrix:
    """Points [n, 2] of the frame as points of the image."""
    return np.asarray(points @ transform[:, :2].T + transform[:, 2])


def turn_and_scale(transform: Matrix, size: Size) -> tuple[float, float]:
    """The turn in degrees and the scale of a rigid or similarity transform on sides of `size`."""
    matrix = to_pixels(transform, size, size)
    scale = float(np.sqrt(abs(np.linalg.det(matrix[:, :2]))))
    return float(np.degrees(np.arctan2(matrix[1, 0], matrix[0, 0]))), scale


def covered(transform: Matrix, grid: Size) -> NDArray[np.bool_]:
    """[P], whether the image shows what lies under each patch of the frame, for the most part."""
    height, width = grid
    rows = (np.arange(height * _POINTS) + 0.5) / (height * _POINTS)
    columns = (np.arange(width * _POINTS) + 0.5) / (width * _POINTS)
    points = np.stack(np.meshgrid(columns, rows), axis=-1).reshape(-1, 2)
    found = apply(transform, points)
    inside = ((found >= 0) & (found <= 1)).all(axis=1)
    patches = inside.reshape(height, _POINTS, width, _POINTS).mean(axis=(1, 3))
    return np.asarray(patches.reshape(-1) >= _COVERED)


def _centres(size: Size) -> Matrix:
    """From units of the sides to pixel numbers: the centre of pixel 0 lies half a pixel in."""
    return np.array([[size[1], 0, -0.5], [0, size[0], -0.5], [0, 0, 1]], dtype=np.float64)


def _whole(matrix: Matrix) -> Matrix:
    """A transform with its third row."""
    return matrix if len(matrix) == 3 else np.vstack([matrix, (0.0, 0.0, 1.0)])
