"""The defects of the demo sample, cut into or laid onto the surface of the part.

Each function changes the maps of a `Surface` in place; the light decides how much of the change is
visible. The mask is not drawn here, but found where the photograph differs (see `photo`).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy import ndimage

from .part import (
    BOSS_RADIUS,
    COUNTERBORE_RADIUS,
    Array,
    Frame,
    Surface,
    segment_distance,
    smooth_noise,
)

Window = tuple[slice, slice]


def scratch(surface: Surface, frame: Frame, rng: np.random.Generator) -> None:
    """Cut a long, slightly bent scratch with a raised burr, and two shorter ones along it."""
    u, v = _free_spot(rng)
    # 25 to 60 degrees off the radius: neither along the turning marks nor straight across them.
    angle = np.arctan2(v, u) + rng.choice((-1.0, 1.0)) * np.radians(rng.uniform(25.0, 60.0))
    length, bend = rng.uniform(0.42, 0.52), rng.uniform(-0.05, 0.05)
    _cut_scratch(surface, frame, rng, (u, v), angle, length, bend, rng.uniform(0.0060, 0.0070))
    for side in (rng.uniform(0.022, 0.034), -rng.uniform(0.030, 0.045)):
        along = rng.uniform(-0.12, 0.12)
        beside = (
            u + along * np.cos(angle) - side * np.sin(angle),
            v + along * np.sin(angle) + side * np.cos(angle),
        )
        turn = angle + rng.uniform(-0.06, 0.06)
        share, width = rng.uniform(0.40, 0.65), rng.uniform(0.0034, 0.0044)
        _cut_scratch(surface, frame, rng, beside, turn, share * length, bend, width)


def _cut_scratch(
    surface: Surface,
    frame: Frame,
    rng: np.random.Generator,
    middle: tuple[float, float],
    angle: float,
    length: float,
    bend: float,
    half_width: float,
) -> None:
    window = frame.window(*middle, 0.5 * length + 0.06)
    u, v = frame.u[window], frame.v[window]
    count = 20
    s = np.linspace(-0.5, 0.5, count + 1)
    off = bend * (1.0 - 4.0 * s * s) + np.cumsum(rng.normal(0.0, 0.0018, count + 1))
    pu = middle[0] + length * (np.cos(angle) * s - np.sin(angle) * off)
    pv = middle[1] + length * (np.sin(angle) * s + np.cos(angle) * off)
    width = half_width * np.clip(1.15 - (2.0 * np.abs(s + 0.12)) ** 4, 0.12, 1.0)
    width *= rng.uniform(0.75, 1.1, count + 1)
    # Distance in half-widths to the nearest piece of the path.
    near = np.full(u.shape, 9.0, np.float32)
    for k in range(count):
        piece = segment_distance(u, v, (pu[k], pv[k]), (pu[k + 1], pv[k + 1]))
        np.minimum(near, piece / np.float32(0.5 * (width[k] + width[k + 1])), out=near)
    groove = np.maximum(1.0 - near * near, 0.0)
    burr = np.maximum(1.0 - ((near - 1.35) / 0.45) ** 2, 0.0)
    chatter = np.clip(0.5 + 0.6 * smooth_noise(rng, frame.side, 90)[window], 0.0, 1.2)
    depth = np.float32(1.1 * half_width)
    surface.height[window] += depth * (0.30 * burr * chatter - groove)
    _roughen(surface, window, np.clip(2.0 - near, 0.0, 1.0), 0.26, 0.30)
    _tint(surface, window, 1.0 + 0.20 * burr * chatter - 0.45 * groove)


def dent(surface: Surface, frame: Frame, rng: np.random.Generator) -> None:
    """Press a bowl into the part where something fell on it: a raised rim, a scuffed bottom."""
    u, v = _free_spot(rng)
    radius = rng.uniform(0.075, 0.095)
    window = frame.window(u, v, 1.9 * radius)
    angle, ratio = rng.uniform(0.0, np.pi), rng.uniform(0.70, 0.88)
    distance = _blob(frame, window, (u, v), angle, ratio, rng, 22, 0.07) / np.float32(radius)
    bowl = np.maximum(1.0 - distance * distance, 0.0) ** 1.5
    rim = np.maximum(1.0 - ((distance - 1.08) / 0.30) ** 2, 0.0) ** 2
    surface.height[window] += np.float32(0.30 * radius) * (0.20 * rim - bowl)
    struck = np.clip(1.6 - 1.9 * distance, 0.0, 1.0)
    _roughen(surface, window, struck, 0.34, 0.36)
    _tint(surface, window, 1.0 - 0.16 * struck)


def oil(surface: Surface, frame: Frame, rng: np.random.Generator) -> None:
    """Lay a thin brown film of oil with a darker border on the part, and drops beside it."""
    u, v = _free_spot(rng)
    radius = rng.uniform(0.095, 0.120)
    spots = [(u, v, radius)]
    for _ in range(3):
        angle, away = rng.uniform(0.0, 2.0 * np.pi), radius * rng.uniform(1.15, 1.45)
        drop = rng.uniform(0.014, 0.026)
        spots.append((u + away * np.cos(angle), v + away * np.sin(angle), drop))
    window = frame.window(u, v, 2.0 * radius)
    film = np.zeros(frame.u[window].shape, np.float32)
    for su, sv, size in spots:
        rough = 0.16 if size == radius else 0.05
        distance = _blob(
            frame, window, (su, sv), rng.uniform(0, np.pi), rng.uniform(0.68, 0.95), rng, 16, rough
        ) / np.float32(size)
        inside = np.clip((1.0 - distance) * np.float32(size / 0.012), 0.0, 1.0)
        border = np.clip(1.0 - np.abs(distance - 0.92) / 0.09, 0.0, 1.0)
        pool = np.clip(1.0 - distance * distance, 0.0, 1.0) if size == radius else 0.35
        np.maximum(film, inside * (0.50 + 0.28 * pool + 0.22 * border), out=film)
    film *= np.clip(1.0 + 0.10 * smooth_noise(rng, frame.side, 40)[window], 0.7, 1.25)
    np.minimum(film, 1.0, out=film)
    _tint(surface, window, *(1.0 - absorbed * film for absorbed in (0.62, 0.76, 0.97)))
    # Oil fills the finest marks and leaves a smoother, shinier face.
    surface.tilt[window] *= 1.0 - 0.5 * film
    surface.along[window] *= 1.0 - 0.25 * film


def rust(surface: Surface, frame: Frame, rng: np.random.Generator) -> None:
    """Grow a bloom of rust: orange to brown, dull, pitted, thinning out into specks."""
    u, v = _free_spot(rng)
    radius = rng.uniform(0.100, 0.125)
    window = frame.window(u, v, 1.9 * radius)
    distance = _blob(
        frame, window, (u, v), rng.uniform(0, np.pi), rng.uniform(0.65, 0.9), rng, 18, 0.10
    ) / np.float32(radius)
    fine = ndimage.gaussian_filter(
        rng.standard_normal(distance.shape, dtype=np.float32), 0.0045 * frame.unit
    )
    fine /= max(float(fine.std()), 1e-6)
    medium = smooth_noise(rng, frame.side, 60)[window]
    growth = 1.30 - 1.30 * distance + 0.17 * fine + 0.38 * medium
    crust = np.clip(2.2 * growth, 0.0, 1.0) * np.clip(4.0 * (1.5 - distance), 0.0, 1.0)
    surface.height[window] += crust * (0.0007 * fine)
    _roughen(surface, window, crust, 0.55, 0.55)
    shade = np.clip(1.05 - 0.38 * crust + 0.13 * fine + 0.16 * medium, 0.30, 1.2)
    _tint(surface, window, *(1.0 + crust * (rgb * shade - 1.0) for rgb in (0.85, 0.40, 0.16)))
    # Rusty water has stained the metal beyond the crust.
    halo = np.clip(1.5 - distance + 0.15 * medium, 0.0, 1.0) ** 1.5
    _tint(surface, window, *(1.0 - absorbed * halo for absorbed in (0.10, 0.22, 0.36)))


def _free_spot(rng: np.random.Generator) -> tuple[float, float]:
    """Draw a point (u, v) on a plain face: on the boss, or beside it near a diagonal."""
    if rng.random() < 0.3:
        angle = rng.uniform(0.0, 2.0 * np.pi)
        radius = 0.5 * (BOSS_RADIUS + COUNTERBORE_RADIUS)
    else:
        angle = np.radians(45.0 + 90.0 * rng.integers(4) + rng.choice((-17.0, 17.0)))
        radius = rng.uniform(0.57, 0.63)
    return float(radius * np.cos(angle)), float(radius * np.sin(angle))


def _blob(
    frame: Frame,
    window: Window,
    centre: tuple[float, float],
    angle: float,
    ratio: float,
    rng: np.random.Generator,
    cells: int,
    rough: float,
) -> Array:
    """Distance in units to `centre`, squeezed along one axis and made uneven.

    angle, ratio: direction of the long axis in radians, and length of the short axis to the long.
    cells, rough: number of noise features across the canvas, and the noise's strength.
    """
    du, dv = frame.u[window] - np.float32(centre[0]), frame.v[window] - np.float32(centre[1])
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    a, b = cos * du + sin * dv, (cos * dv - sin * du) / np.float32(ratio)
    uneven = 1.0 + np.float32(rough) * smooth_noise(rng, frame.side, cells)[window]
    distance: Array = np.sqrt(a * a + b * b) * np.maximum(uneven, 0.4)
    return distance


def _roughen(surface: Surface, window: Window, share: Array, along: float, across: float) -> None:
    """Blend the finish, by `share`, with one of roughness `along`, `across` and no tool marks."""
    surface.along[window] += share * (np.float32(along) - surface.along[window])
    surface.across[window] += share * (np.float32(across) - surface.across[window])
    surface.tilt[window] *= 1.0 - share


def _tint(surface: Surface, window: Window, *factors: Array) -> None:
    """Multiply the albedo by one factor for all channels, or by one factor a channel."""
    rows, columns = window
    surface.albedo[:, rows, columns] *= factors[0] if len(factors) == 1 else np.stack(factors)


DEFECTS: dict[str, Callable[[Surface, Frame, np.random.Generator], None]] = {
    "scratch": scratch,
    "dent": dent,
    "oil": oil,
    "rust": rust,
}
