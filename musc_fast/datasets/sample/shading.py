"""The camera and light of the demo sample: surface maps to a linear RGB photograph.

Normals come from the height map; machined metal is shaded with Ward's anisotropic lobe (Ward,
"Measuring and modeling anisotropic reflection", SIGGRAPH 1992) under a key and a fill light near
the part, and a soft sky. Shadows are found by marching rays through the height map; cavities are
darkened by their depth below the surroundings.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from .part import THICKNESS, Array, Frame, Hole, Surface, resize, smooth_noise

# Linear RGB: colour of the metal under the key light and under the sky, and colour of the mat.
_KEY_ON_METAL = (0.975, 0.955, 0.915)
_SKY_ON_METAL = (0.90, 0.95, 1.02)
_MAT = (0.0165, 0.0175, 0.0200)
_STRIP = 32  # rows that are shaded at a time
_PERSPECTIVE = 0.045  # share by which the far rim of a hole appears nearer the optical axis


@dataclass(frozen=True)
class Light:
    """The key light of one photograph.

    x, y, z: position in units, in image axes.
    strength: factor on the brightness.
    warmth: share by which red is stronger and blue weaker.
    """

    x: float = -1.00
    y: float = -1.25
    z: float = 1.75
    strength: float = 1.0
    warmth: float = 0.0

    @property
    def colour(self) -> tuple[float, float, float]:
        """Linear RGB of the light."""
        return self.strength * (1.0 + self.warmth), self.strength, self.strength * (1 - self.warmth)


def shade(surface: Surface, frame: Frame, light: Light, rng: np.random.Generator) -> Array:
    """Return the linear RGB [3, S, S] of the part on its mat; `rng` draws the mat's grain."""
    shadow, mat_shadow, cavity = _shadows(surface, frame, light)
    key, ambient = _metal(surface, frame, light, shadow)
    key *= cavity
    ambient *= cavity
    mat = _mat(frame, light, mat_shadow, rng)
    rgb = np.empty((3, frame.side, frame.side), np.float32)
    for channel, plane in enumerate(rgb):
        np.multiply(key, _KEY_ON_METAL[channel], out=plane)
        plane += _SKY_ON_METAL[channel] * ambient
        plane *= surface.albedo[channel]
    for hole in surface.holes:
        _drill(rgb, frame, light, hole)
    for channel, plane in enumerate(rgb):
        ground = _MAT[channel] * mat
        plane -= ground
        plane *= surface.cover
        plane += ground
        plane *= light.colour[channel]
    return rgb


def _metal(surface: Surface, frame: Frame, light: Light, shadow: Array) -> tuple[Array, Array]:
    """Light that the metal reflects from the key light and from its surroundings, each [S, S]."""
    smooth = ndimage.gaussian_filter(surface.height, 0.0022 * frame.unit) * np.float32(frame.unit)
    slope_y, slope_x = _central_difference(smooth, 0), _central_difference(smooth, 1)
    cos, sin = np.float32(np.cos(frame.pose.angle)), np.float32(np.sin(frame.pose.angle))
    fill = Light(-1.7 * light.x, 0.35, 1.5)
    key, ambient = np.empty_like(smooth), np.empty_like(smooth)
    # Strips of rows stay in the CPU's cache, which makes this twice as fast.
    for top in range(0, frame.side, _STRIP):
        rows = slice(top, top + _STRIP)
        sx, sy = slope_x[rows], slope_y[rows]
        nz = np.reciprocal(np.sqrt(1.0 + sx * sx + sy * sy))
        nx, ny = -sx * nz, -sy * nz
        tu, tv = surface.tangent_u[rows], surface.tangent_v[rows]
        tx, ty = cos * tu - sin * tv, sin * tu + cos * tv
        lean = tx * nx + ty * ny  # makes the tangent perpendicular to the normal
        normal, tangent = (nx, ny, nz), (tx - lean * nx, ty - lean * ny, -lean * nz)
        # The sky is brighter towards the key light and dark at the horizon.
        towards = np.maximum(0.30 - 0.55 * nx - 0.70 * ny, 0.0)
        sky = 0.035 + 0.40 * towards * towards + 0.05 * nz
        sky *= 1.0 + np.float32(0.8) * surface.tilt[rows]
        side = _ward(surface, frame, rows, fill, normal, tangent)
        ambient[rows] = (sky + 0.22 * side) * (0.40 + 0.60 * shadow[rows])
        key[rows] = 0.98 * _ward(surface, frame, rows, light, normal, tangent) * shadow[rows]
    return key, ambient


def _central_difference(values: Array, axis: int) -> Array:
    slope = np.zeros_like(values)
    if axis == 0:
        slope[1:-1] = (values[2:] - values[:-2]) * np.float32(0.5)
    else:
        slope[:, 1:-1] = (values[:, 2:] - values[:, :-2]) * np.float32(0.5)
    return slope


def _ward(
    surface: Surface,
    frame: Frame,
    rows: slice,
    light: Light,
    normal: tuple[Array, Array, Array],
    tangent: tuple[Array, Array, Array],
) -> Array:
    """Ward's lobe times the cosine of incidence on `rows`, for a camera far above."""
    (nx, ny, nz), (tx, ty, tz) = normal, tangent
    lx, ly = np.float32(light.x) - frame.x[rows], np.float32(light.y) - frame.y[rows]
    lz = np.float32(light.z)
    inverse = 1.0 / np.sqrt(lx * lx + ly * ly + lz * lz)
    lx, ly, lz_unit = lx * inverse, ly * inverse, lz * inverse
    cosine = np.maximum(lx * nx + ly * ny + lz_unit * nz, 0.0)
    hz = lz_unit + 1.0
    h_normal = np.maximum(lx * nx + ly * ny + hz * nz, 1e-3)
    h_tangent = lx * tx + ly * ty + hz * tz
    # Tool marks tilt the micro normal along the binormal, which is normal x tangent.
    bx, by, bz = ny * tz - nz * ty, nz * tx - nx * tz, nx * ty - ny * tx
    along, across = surface.along[rows], surface.across[rows]
    h_binormal = lx * bx + ly * by + hz * bz + surface.tilt[rows] * h_normal
    exponent = (h_tangent / along) ** 2 + (h_binormal / across) ** 2
    lobe = np.exp(-exponent / (h_normal * h_normal))
    lobe /= np.float32(4.0 * np.pi) * along * across
    value: Array = lobe * np.sqrt(cosine / np.maximum(nz, 0.15)) * (3.2 * inverse * inverse)
    return value


def _shadows(surface: Surface, frame: Frame, light: Light) -> tuple[Array, Array, Array]:
    """Shares of light, each [S, S]: key light on the part, light on the mat, light in cavities."""
    reduce = 4
    side = frame.side // reduce
    crop = slice(0, side * reduce)

    def small(values: Array) -> Array:
        blocks: Array = values[crop, crop].reshape(side, reduce, side, reduce).mean((1, 3))
        return blocks

    cover = small(surface.cover)
    height = small(surface.height)
    height = np.where(cover > 0.5, height, np.float32(-THICKNESS))
    reach = np.hypot(light.x, light.y)
    step = np.array([light.y, light.x]) / reach  # towards the light, one small pixel
    rise = light.z / reach * (2.0 / side)
    part_shadow = _march(height, step, rise, int(0.10 * side / 2) + 2)
    openness = np.ones_like(height)
    for radius, strength in ((0.016, 5.0), (0.05, 2.2)):
        around = ndimage.gaussian_filter(height, radius * side / 2, mode="nearest")
        openness -= strength * np.clip(around - height, 0.0, 0.05)
    openness = np.where(cover > 0.5, openness, 1.0)

    distance = THICKNESS / rise
    cast = np.maximum(
        ndimage.shift(cover, -0.5 * distance * step, order=1),
        ndimage.shift(cover, -distance * step, order=1),
    )
    contact = ndimage.gaussian_filter(cover, 0.045 * side / 2, mode="nearest")
    soft = ndimage.gaussian_filter(cast, 0.028 * side / 2, mode="nearest")
    mat = 1.0 - np.clip(0.62 * soft + 0.33 * contact, 0.0, 0.93)
    return resize(part_shadow, frame.side), resize(mat, frame.side), resize(openness, frame.side)


def _march(height: Array, step: NDArray[np.float64], rise: float, count: int) -> Array:
    """Soft self-shadow: 1 where nothing rises above the ray to the light, else less.

    height: map in units.
    step: direction of the light in pixels.
    rise: of the ray in a step.
    count: steps of the march.
    """
    lit = np.ones_like(height)
    for index in range(1, count):
        offset = -index * step
        blocker = ndimage.shift(height, offset, order=1, mode="nearest")
        above = blocker - height - np.float32(index * rise)
        np.minimum(lit, 1.0 - np.clip(above * np.float32(60.0), 0.0, 0.75), out=lit)
    softened: Array = ndimage.gaussian_filter(lit, 0.9)
    return softened


def _drill(rgb: Array, frame: Frame, light: Light, hole: Hole) -> None:
    """Paint the inside of a through hole into `rgb`: its lit wall and the dark mat far below."""
    window = frame.window(hole.u, hole.v, hole.radius + 0.02)
    cx, cy = frame.to_image(hole.u, hole.v)
    dx, dy = frame.x[window] - np.float32(cx), frame.y[window] - np.float32(cy)
    distance = np.maximum(np.sqrt(dx * dx + dy * dy), 1e-4)
    inside = np.clip((hole.radius - distance) * frame.unit + 0.5, 0.0, 1.0)
    far_x = frame.x[window] - np.float32(cx * (1 - _PERSPECTIVE))
    far_y = frame.y[window] - np.float32(cy * (1 - _PERSPECTIVE))
    far_radius = hole.radius * (1 - 2.2 * _PERSPECTIVE)
    far = np.sqrt(far_x * far_x + far_y * far_y)
    floor = np.clip((far_radius - far) * frame.unit * 0.7 + 0.5, 0.0, 1.0)
    reach = np.hypot(light.x, light.y)
    facing = -(dx * light.x + dy * light.y) / (distance * reach)  # 1 on the wall facing the light
    depth = np.clip((hole.radius - distance) / (0.10 + 0.25 * hole.radius), 0.0, 1.0)
    wall = (0.030 + 0.34 * np.clip(facing, 0.0, 1.0) ** 1.5) * (1.0 - 0.75 * depth)
    spill = np.clip(0.5 + 0.5 * (far_x * light.x + far_y * light.y) / (-reach * hole.radius), 0, 1)
    bottom = 0.0015 + 0.0065 * spill * min(1.0, hole.radius / 0.19)
    grey = wall + floor * (bottom - wall)
    for channel, plane in enumerate(rgb):
        plane[window] += inside * (_SKY_ON_METAL[channel] * grey - plane[window])


def _mat(frame: Frame, light: Light, shadow: Array, rng: np.random.Generator) -> Array:
    """Grey of the rubber mat, about 1: grain, wear, a pool of light, the part's shadow."""
    side = frame.side
    grain = rng.standard_normal((side, side), dtype=np.float32)
    grain = ndimage.uniform_filter(grain, max(2, round(side / 340)))
    grain *= np.float32(0.16) * max(2, round(side / 340))
    wear = np.float32(0.05) * smooth_noise(rng, side, 7)
    far = (frame.x - np.float32(0.35 * light.x)) ** 2 + (frame.y - np.float32(0.35 * light.y)) ** 2
    pool = 1.25 / (1.0 + 0.35 * far)
    grey: Array = np.maximum(1.0 + grain + wear, 0.2) * pool * shadow
    return grey
