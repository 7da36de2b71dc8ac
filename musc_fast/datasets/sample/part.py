"""The part of the demo sample: its geometry and machined finish as maps for the shader.

A square flange seen from above: a face-milled plate with four countersunk bolt holes, two dowel
holes, a milled slot and an engraved type mark, and in its middle a turned boss with a groove, a
counterbore and a through bore. Lengths are in *units*: the image spans [-1, 1] both ways, x to
the right, y down, z towards the camera.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

Array = NDArray[np.float32]

PLATE_HALF, PLATE_CORNER = 0.77, 0.17
THICKNESS = 0.11
BOSS_RADIUS, BOSS_HEIGHT = 0.45, 0.075
COUNTERBORE_RADIUS, COUNTERBORE_DEPTH = 0.285, 0.035
GROOVE_RADIUS, GROOVE_HALF_WIDTH, GROOVE_DEPTH = 0.37, 0.010, 0.010
SLOT_U, SLOT_HALF_LENGTH, SLOT_RADIUS, SLOT_DEPTH = 0.61, 0.13, 0.042, 0.042
_FINE = 8  # entries of a tool mark table between two of its random values
MILL_RADIUS = 1.05  # radius of the face mill, whose teeth leave arcs on the plate


@dataclass(frozen=True)
class Hole:
    """A drilled through hole with a conical sink.

    u, v: centre in units, in part axes.
    radius, sink: radii of the hole and of the top of its cone, in units.
    """

    u: float
    v: float
    radius: float
    sink: float


BORE = Hole(0.0, 0.0, 0.19, 0.205)
BOLT_HOLES = tuple(Hole(u, v, 0.066, 0.112) for u in (-0.575, 0.575) for v in (-0.575, 0.575))
DOWEL_HOLES = (Hole(0.0, -0.61, 0.040, 0.050), Hole(0.0, 0.61, 0.040, 0.050))
HOLES = (BORE, *BOLT_HOLES, *DOWEL_HOLES)

# Strokes (from x, y; to x, y) of the glyphs of the type mark MF-47, in a cell of 1 x 1.6.
_GLYPHS = {
    "M": ((0, 1.6, 0, 0), (0, 0, 0.5, 0.8), (0.5, 0.8, 1, 0), (1, 0, 1, 1.6)),
    "F": ((0, 1.6, 0, 0), (0, 0, 0.9, 0), (0, 0.75, 0.7, 0.75)),
    "-": ((0.15, 0.8, 0.85, 0.8),),
    "4": ((0.75, 1.6, 0.75, 0), (0.75, 0, 0, 1.1), (0, 1.1, 1.0, 1.1)),
    "7": ((0, 0, 1, 0), (1, 0, 0.4, 1.6)),
}
_MARK, _MARK_U, _MARK_SCALE = "MF-47", -0.61, 0.056
_STROKE, _STROKE_DEPTH = 0.0062, 0.0050


@dataclass(frozen=True)
class Pose:
    """How the part lies under the camera: shift in units, angle in radians, scale about 1."""

    shift_x: float = 0.0
    shift_y: float = 0.0
    angle: float = 0.0
    scale: float = 1.0


@dataclass
class Frame:
    """Pixel centres of a square canvas in image axes (x, y) and in part axes (u, v), all [S, S].

    side: S, the canvas's side in pixels.
    """

    side: int
    pose: Pose
    x: Array = field(init=False)
    y: Array = field(init=False)
    u: Array = field(init=False)
    v: Array = field(init=False)

    def __post_init__(self) -> None:
        axis = ((np.arange(self.side) + 0.5) * (2.0 / self.side) - 1.0).astype(np.float32)
        self.x = np.broadcast_to(axis[None, :], (self.side, self.side))
        self.y = np.broadcast_to(axis[:, None], (self.side, self.side))
        cos, sin = np.cos(self.pose.angle), np.sin(self.pose.angle)
        dx = (axis - np.float32(self.pose.shift_x)) / np.float32(self.pose.scale)
        dy = (axis - np.float32(self.pose.shift_y)) / np.float32(self.pose.scale)
        self.u = np.float32(cos) * dx[None, :] + np.float32(sin) * dy[:, None]
        self.v = np.float32(-sin) * dx[None, :] + np.float32(cos) * dy[:, None]

    @property
    def unit(self) -> float:
        """Number of pixels in a unit."""
        return self.side / 2.0

    def to_image(self, u: float, v: float) -> tuple[float, float]:
        """Return the image coordinates (x, y) of a point in part axes."""
        cos, sin = np.cos(self.pose.angle), np.sin(self.pose.angle)
        return (
            float(self.pose.shift_x + self.pose.scale * (cos * u - sin * v)),
            float(self.pose.shift_y + self.pose.scale * (sin * u + cos * v)),
        )

    def window(self, u: float, v: float, radius: float) -> tuple[slice, slice]:
        """Return rows and columns of the square of half-width `radius` about a point (u, v)."""
        x, y = self.to_image(u, v)

        def bounds(centre: float) -> slice:
            low = int((centre - radius + 1.0) * self.unit)
            high = int((centre + radius + 1.0) * self.unit) + 2
            return slice(min(max(low, 0), self.side), min(max(high, 0), self.side))

        return bounds(y), bounds(x)


@dataclass
class Surface:
    """A part as maps for the shader, float32 [S, S] unless another shape is named.

    cover: share of each pixel that the part covers; the mat is visible through the rest.
    height: in units above the plate's face.
    tangent_u, tangent_v: direction of the tool marks in part axes.
    tilt: slope that the tool marks add across their direction.
    along, across: Ward roughness along and across the tool marks.
    albedo: [3, S, S], a factor on the light that the metal reflects.
    holes: through holes, which the shader draws itself.
    """

    cover: Array
    height: Array
    tangent_u: Array
    tangent_v: Array
    tilt: Array
    along: Array
    across: Array
    albedo: Array
    holes: tuple[Hole, ...]


def resize(values: Array, side: int) -> Array:
    """Return a map stretched to [side, side], bicubic."""
    image = Image.fromarray(np.ascontiguousarray(values, dtype=np.float32))
    return np.asarray(image.resize((side, side), Image.Resampling.BICUBIC), np.float32)


def smooth_noise(rng: np.random.Generator, side: int, cells: int) -> Array:
    """Return noise [side, side] of about unit variance, smooth over side / cells pixels."""
    return resize(1.35 * rng.standard_normal((cells, cells), dtype=np.float32), side)


def build_part(frame: Frame, holes: Sequence[Hole], rng: np.random.Generator) -> Surface:
    """Return the part without defects.

    holes: to drill; a hole that is left out is missing.
    rng: draws the tool marks.
    """
    u, v = frame.u, frame.v
    edge = _plate_edge(u, v)
    radius = np.sqrt(u * u + v * v)
    turned = radius < BOSS_RADIUS
    inner = np.maximum(radius, 1e-4)
    arc = np.sqrt(np.maximum(MILL_RADIUS**2 - v * v, 0.05))
    surface = Surface(
        cover=np.clip(0.5 - edge * frame.unit, 0.0, 1.0),
        height=_height(u, v, radius, edge),
        tangent_u=np.where(turned, -v / inner, -v / MILL_RADIUS),
        tangent_v=np.where(turned, u / inner, arc / MILL_RADIUS),
        tilt=_tool_marks(frame, u + arc, radius, turned, rng),
        along=np.where(turned, np.float32(0.125), np.float32(0.17)),
        across=np.where(turned, np.float32(0.37), np.float32(0.43)),
        albedo=np.empty((3, frame.side, frame.side), np.float32),
        holes=tuple(holes),
    )
    # A chamfered edge has weak tool marks and reflects almost alike in all directions.
    plain = (edge > -0.022) | (np.abs(_slot_edge(u, v) + 0.008) < 0.010)
    surface.along[plain] = 0.34
    surface.across[plain] = 0.38
    surface.tilt[plain] *= 0.25
    for hole in holes:
        _sink(surface, frame, hole)
    _engrave(surface, frame)
    # Every part has faint differences in its metal and from handling.
    surface.albedo[...] = 1.0 + 0.012 * smooth_noise(rng, frame.side, 9)
    return surface


def _plate_edge(u: Array, v: Array) -> Array:
    """Signed distance to the plate's outline, negative inside."""
    qu = np.abs(u) - (PLATE_HALF - PLATE_CORNER)
    qv = np.abs(v) - (PLATE_HALF - PLATE_CORNER)
    outside = np.sqrt(np.maximum(qu, 0.0) ** 2 + np.maximum(qv, 0.0) ** 2)
    distance: Array = outside + np.minimum(np.maximum(qu, qv), 0.0) - np.float32(PLATE_CORNER)
    return distance


def _slot_edge(u: Array, v: Array) -> Array:
    dv = np.maximum(np.abs(v) - SLOT_HALF_LENGTH, 0.0)
    distance: Array = np.sqrt((u - SLOT_U) ** 2 + dv * dv) - np.float32(SLOT_RADIUS)
    return distance


def _ramp(distance: Array, width: float) -> Array:
    """Profile of a chamfer: 0 where distance <= -width, 1 where distance >= 0, linear between."""
    ramp: Array = np.clip(distance * np.float32(1.0 / width) + np.float32(1.0), 0.0, 1.0)
    return ramp


def _height(u: Array, v: Array, radius: Array, edge: Array) -> Array:
    height = -0.016 * _ramp(edge, 0.022)
    # The boss has a chamfered rim and a fillet at its foot.
    height += BOSS_HEIGHT * _ramp(BOSS_RADIUS - radius, 0.012)
    height -= 0.016 * _ramp(radius - (BOSS_RADIUS - 0.012), 0.016)
    height -= COUNTERBORE_DEPTH * _ramp(COUNTERBORE_RADIUS - radius, 0.014)
    groove = np.abs(radius - GROOVE_RADIUS) - np.float32(GROOVE_HALF_WIDTH)
    height -= GROOVE_DEPTH * _ramp(-groove, 0.007)
    height -= SLOT_DEPTH * _ramp(-_slot_edge(u, v), 0.016)
    return height.astype(np.float32, copy=False)


def _tool_marks(
    frame: Frame, feed: Array, radius: Array, turned: NDArray[np.bool_], rng: np.random.Generator
) -> Array:
    """Slope across the tool marks: the pattern of the feed and of random teeth, fading locally."""
    # A unit has 512 random values of the table, whatever the image's size.
    position = np.where(turned, radius + 3.0, feed) * np.float32(512.0)
    wander = smooth_noise(rng, frame.side, 6)
    position += np.float32(0.9) * wander
    tables = _mark_table(rng), _mark_table(rng)
    index = np.clip(position * _FINE, 0.0, len(tables[0]) - 1.0).astype(np.intp)
    share = np.clip(0.5 + 0.5 * smooth_noise(rng, frame.side, 14), 0.0, 1.0)
    low, high = (table.take(index) for table in tables)
    tilt: Array = high + share * (low - high)
    return tilt


def _mark_table(rng: np.random.Generator, length: int = 2400) -> Array:
    noise = rng.standard_normal(length).astype(np.float32)
    fine = ndimage.gaussian_filter1d(noise, 1.3)
    coarse = ndimage.gaussian_filter1d(rng.standard_normal(length).astype(np.float32), 5.0)
    feed = np.sin(np.arange(length, dtype=np.float32) * np.float32(2.0 * np.pi / 11.0))
    table = 0.17 * fine + 0.18 * coarse + 0.045 * feed
    steps = np.arange(length * _FINE, dtype=np.float32) / np.float32(_FINE)
    marks: Array = np.interp(steps, np.arange(length), table).astype(np.float32)
    return marks


def _sink(surface: Surface, frame: Frame, hole: Hole) -> None:
    """Cut the cone of a hole; the shader draws the inside, which stays level with the rim here."""
    window = frame.window(hole.u, hole.v, hole.sink + 0.03)
    du, dv = frame.u[window] - np.float32(hole.u), frame.v[window] - np.float32(hole.v)
    distance = np.maximum(np.sqrt(du * du + dv * dv), 1e-4)
    cone = distance < hole.sink
    depth = 0.8 * (hole.sink - np.maximum(distance, hole.radius))
    surface.height[window] -= np.where(cone, depth, 0.0)
    for target, value in (
        (surface.tangent_u, -dv / distance),
        (surface.tangent_v, du / distance),
        (surface.along, np.float32(0.25)),
        (surface.across, np.float32(0.42)),
        (surface.tilt, surface.tilt[window] * np.float32(0.5)),
    ):
        target[window] = np.where(cone, value, target[window])


def _engrave(surface: Surface, frame: Frame) -> None:
    """Engrave the type mark along the left edge, reading from bottom to top."""
    advance = 1.55
    length = (len(_MARK) - 1) * advance + 1.0
    window = frame.window(_MARK_U, 0.0, 0.5 * length * _MARK_SCALE + 0.03)
    # Axes of the text: `a` runs along the text (up the part), `b` down the glyphs (to the right).
    a = -frame.v[window] / np.float32(_MARK_SCALE) + np.float32(length / 2.0)
    b = (frame.u[window] - np.float32(_MARK_U)) / np.float32(_MARK_SCALE) + np.float32(0.8)
    nearest = np.full(a.shape, 1e3, np.float32)
    for index, glyph in enumerate(_MARK):
        for a0, b0, a1, b1 in _GLYPHS[glyph]:
            np.minimum(
                nearest, segment_distance(a - index * advance, b, (a0, b0), (a1, b1)), out=nearest
            )
    edge = nearest * np.float32(_MARK_SCALE) - np.float32(_STROKE)
    cut = _ramp(-edge, 2.0 * _STROKE) * (edge < 0.0)
    surface.height[window] -= np.float32(_STROKE_DEPTH) * cut
    inside = edge < 0.0
    surface.along[window][inside] = 0.4
    surface.across[window][inside] = 0.4


def segment_distance(
    a: Array, b: Array, start: tuple[float, float], end: tuple[float, float]
) -> Array:
    """Return the distance of points (a, b) to the segment from `start` to `end`."""
    da, db = end[0] - start[0], end[1] - start[1]
    pa, pb = a - np.float32(start[0]), b - np.float32(start[1])
    along = np.clip((pa * da + pb * db) / max(da * da + db * db, 1e-12), 0.0, 1.0)
    distance: Array = np.sqrt((pa - along * da) ** 2 + (pb - along * db) ** 2).astype(np.float32)
    return distance
