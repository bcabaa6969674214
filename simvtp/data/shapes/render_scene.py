"""Renders scenes to frames.

Outlines are signed distances, textures lie in the object's own axes, the background drifts.

Legend: F frames, S side of the frame in pixels. Object coordinates u (right) and v (down) are in
units of the object's radius. Distances to the outline give the fraction of a pixel that is covered,
hence smooth edges at any size without rendering at a larger one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simvtp.data.shapes.scene import (
    BACKGROUND_COLOURS,
    COLOURS,
    Background,
    Draw,
    Scene,
    Thing,
    presence,
    progress,
    track,
)

Array = NDArray[Any]  # float32 in practice; numpy types arithmetic with Python floats as float64


def render(scene: Scene, size: int, difficulty: float, draw: Draw) -> NDArray[np.uint8]:
    """Returns the frames of a placed scene, uint8 [F, S, S, 3].

    Args:
        size: S.
        difficulty: strength of the background.
        draw: gives the grain of the background and the tint of the objects.
    """
    frames = _background(scene.background, scene.frames, size, difficulty, draw)
    for thing in scene.things:
        _paint(frames, thing, size, draw)
    return np.clip(frames + 0.5, 0, 255).astype(np.uint8)


# ---- background ----------------------------------------------------------------------------------


def _background(
    background: Background, frames: int, size: int, difficulty: float, draw: Draw
) -> Array:
    """Returns float32 [F, S, S, 3].

    It is one large picture, seen through a window that drifts with sub-pixel steps.
    """
    if background.kind in SPECTRA:
        return _spectral_ground(background, SPECTRA[background.kind], frames, size, draw)
    drift_x, drift_y = background.drift_x * size, background.drift_y * size
    margin = math.ceil(max(abs(drift_x), abs(drift_y)) * frames) + 2
    pattern = _pattern(background.kind, size + 2 * margin, size, draw)
    contrast = 0.06 if background.kind == "plain" else 0.16 + 0.16 * difficulty
    grain = _grain(size + 2 * margin, draw) * (0.02 + 0.10 * difficulty)
    windows = [
        _window(pattern * contrast + grain, margin + drift_x * f, margin + drift_y * f, size)
        for f in range(frames)
    ]
    moved = np.stack(windows)
    colour = np.array(BACKGROUND_COLOURS[background.colour], dtype=np.float32)
    # The second part keeps patterns visible on a dark background.
    return colour * (1 + moved[..., None]) + 60 * moved[..., None]


def _pattern(kind: str, side: int, size: int, draw: Draw) -> Array:
    """Returns float32 [side, side] in about -1..1, scaled for frames of `size` pixels."""
    y, x = (np.indices((side, side)).astype(np.float32) / size) * (2 * math.pi)
    angle, phase = draw.between(0, 2 * math.pi), draw.between(0, 2 * math.pi)
    along, across = (
        x * math.cos(angle) + y * math.sin(angle),
        y * math.cos(angle) - x * math.sin(angle),
    )
    if kind == "plain":
        return np.sin(0.5 * along + phase)
    if kind == "waves":
        return np.sin(3.5 * along + 1.2 * np.sin(1.5 * across) + phase)
    if kind == "tiles":
        return np.clip(4 * np.sin(2.5 * along) * np.sin(2.5 * across), -1, 1)
    if kind == "ripples":
        centre_x, centre_y = (draw.between(0.3, 0.7) * side / size * 2 * math.pi for _ in range(2))
        return np.sin(4 * np.hypot(x - centre_x, y - centre_y) + phase)
    total = np.zeros_like(x)
    for octave in range(6):  # clouds
        turn, shift, fast = (
            draw.between(0, 2 * math.pi),
            draw.between(0, 2 * math.pi),
            1.0 + 0.7 * octave,
        )
        total += np.sin(fast * (x * math.cos(turn) + y * math.sin(turn)) + shift) / fast**0.7
    return np.tanh(0.8 * total)


@dataclass(frozen=True)
class Spectrum:
    """Spectrum of a ground's luminance.

    Attributes:
        lowest: lowest frequency, in cycles a frame side.
        octaves: number of frequencies, each 1.6 times the one before.
        falloff: amplitude falls as 1 / frequency ** falloff.
        contrast: standard deviation, in grey levels.
    """

    lowest: float
    octaves: int
    falloff: float
    contrast: float


SPECTRA = {
    "soft": Spectrum(lowest=0.4, octaves=4, falloff=2.0, contrast=45.0),
    "rough": Spectrum(lowest=0.4, octaves=8, falloff=1.0, contrast=45.0),
}
WAVES = 2  # of each frequency


def _spectral_ground(
    background: Background, spectrum: Spectrum, frames: int, size: int, draw: Draw
) -> Array:
    """Returns float32 [F, S, S, 3]: one colour, brighter and darker by a sum of plane waves."""
    y, x = np.indices((size, size)).astype(np.float32) / size
    light: Array = np.zeros((frames, size, size), dtype=np.float32)
    power = 0.0
    for octave in range(spectrum.octaves):
        frequency = spectrum.lowest * 1.6**octave
        amplitude = (spectrum.lowest / frequency) ** spectrum.falloff
        for _ in range(WAVES):
            turn, phase = draw.between(0, 2 * math.pi), draw.between(0, 2 * math.pi)
            along = frequency * (math.cos(turn) * x + math.sin(turn) * y)
            step = frequency * (
                math.cos(turn) * background.drift_x + math.sin(turn) * background.drift_y
            )
            for f in range(frames):
                light[f] += amplitude * np.sin(2 * math.pi * (along + step * f) + phase)
            power += amplitude**2 / 2
    colour = np.array(BACKGROUND_COLOURS[background.colour], dtype=np.float32)
    return colour + (spectrum.contrast / math.sqrt(power)) * light[..., None]


def _grain(side: int, draw: Draw) -> Array:
    """Returns blurred noise, float32 [side, side] in about -1..1."""
    noise = draw.units(side * side).reshape(side, side) * 2 - 1
    for axis in (0, 1):
        total = noise + np.roll(noise, 1, axis) + np.roll(noise, -1, axis)
        noise = (total / 3).astype(np.float32)
    return noise * 2


def _window(picture: Array, left: float, top: float, size: int) -> Array:
    """Returns the window of `size` pixels at a fractional position, interpolated."""
    x, y = math.floor(left), math.floor(top)
    a, b = np.float32(left - x), np.float32(top - y)
    rows = (
        picture[y : y + size, x : x + size + 1] * (1 - b)
        + picture[y + 1 : y + size + 1, x : x + size + 1] * b
    )
    return rows[:, :-1] * (1 - a) + rows[:, 1:] * a


# ---- objects -------------------------------------------------------------------------------------


def _paint(frames: Array, thing: Thing, size: int, draw: Draw) -> None:
    """Draws one object over the frames, in place."""
    tint = np.array([draw.between(0.94, 1.06) for _ in range(3)], dtype=np.float32)
    x, y, diameter, angle = (
        values.astype(np.float32)[:, None, None] for values in track(thing, len(frames))
    )
    radius = diameter / 2 * size  # pixels
    grid = np.arange(size, dtype=np.float32) + np.float32(0.5)
    right, down = grid[None, None, :] - x * size, grid[None, :, None] - y * size
    cos, sin = np.cos(angle), np.sin(angle)
    u, v = (right * cos + down * sin) / radius, (down * cos - right * sin) / radius
    inside = -OUTLINES[thing.shape](u, v) * radius  # pixels from the outline, positive inside
    opacity = presence(thing, len(frames)).astype(np.float32)[:, None, None]
    cover = np.clip(inside + 0.5, 0, 1) * opacity
    # Radius in pixels of a 64-pixel frame: textures keep their scale on objects of any size.
    pixels = thing.diameter / 2 * 64
    # 0 = the darker shade, 1 = the colour itself.
    light = TEXTURES_DRAWN[thing.texture](u * pixels, v * pixels)
    # A rim in the plain colour, so that a texture does not eat the outline.
    light = np.maximum(light, np.clip(1.8 - inside, 0, 1))
    shade = (0.36 + 0.64 * light) * (1.06 - 0.10 * (u + v)) * (0.6 + 0.4 * np.clip(inside, 0, 1))
    colour = _colours(thing, len(frames)) * tint
    frames += cover[..., None] * (
        np.minimum(colour[:, None, None, :] * shade[..., None], 255) - frames
    )


def _colours(thing: Thing, frames: int) -> Array:
    """Returns RGB in each frame, float32 [F, 3]."""
    first, last = (
        np.array(COLOURS[colour], dtype=np.float32)
        for colour in (thing.colours[0], thing.colours[-1])
    )
    if thing.event is None:
        return np.repeat(first[None], frames, axis=0)
    return first + progress(thing.event, frames).astype(np.float32)[:, None] * (last - first)


def _circle(u: Array, v: Array) -> Array:
    return np.hypot(u, v) - 0.95


def _ring(u: Array, v: Array) -> Array:
    return np.abs(np.hypot(u, v) - 0.67) - 0.3


def _square(u: Array, v: Array) -> Array:
    return np.maximum(np.abs(u), np.abs(v)) - 0.82


def _triangle(u: Array, v: Array) -> Array:
    down = v - np.float32(0.22)
    return np.maximum(down, np.float32(math.sqrt(0.75)) * np.abs(u) - 0.5 * down) - 0.64


def _star(u: Array, v: Array) -> Array:
    fifth = 2 * math.pi / 5
    angle = np.abs(np.mod(np.arctan2(u, -v) + fifth / 2, fifth) - fifth / 2)  # from the nearest tip
    distance = np.hypot(u, v)
    tip, notch = 1.2, (0.56 * math.cos(fifth / 2), 0.56 * math.sin(fifth / 2))
    length = math.hypot(notch[0] - tip, notch[1])
    normal = (notch[1] / length, (tip - notch[0]) / length)  # of the edge from the tip to the notch
    return normal[0] * (distance * np.cos(angle) - tip) + normal[1] * distance * np.sin(angle)


def _cross(u: Array, v: Array) -> Array:
    a, b = np.abs(u), np.abs(v)
    return np.minimum(np.maximum(a - 0.36, b - 1.0), np.maximum(a - 1.0, b - 0.36))


def _heart(u: Array, v: Array) -> Array:
    x, y = np.abs(u) * np.float32(0.62), np.float32(0.52) - v * np.float32(0.62)
    lobe = np.hypot(x - 0.25, y - 0.75) - math.sqrt(2) / 4
    middle = 0.5 * np.maximum(x + y, 0)
    edge = np.sqrt(
        np.minimum(x**2 + (y - 1) ** 2, (x - middle) ** 2 + (y - middle) ** 2)
    ) * np.sign(x - y)
    return np.where(x + y > 1, lobe, edge) / np.float32(0.62)


def _moon(u: Array, v: Array) -> Array:
    return np.maximum(np.hypot(u, v) - 1.0, 0.72 - np.hypot(u - 0.55, v))


OUTLINES: dict[str, Callable[[Array, Array], Array]] = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "cross": _cross,
    "ring": _ring,
    "heart": _heart,
    "moon": _moon,
}


def _plain(u: Array, v: Array) -> Array:
    return np.ones_like(u)


def _striped(u: Array, v: Array) -> Array:
    return np.clip(0.5 + 1.4 * np.sin(v * np.float32(2 * math.pi / 5.6)), 0, 1)


def _dotted(u: Array, v: Array) -> Array:
    period = 5.6
    across, down = (np.mod(w, period) - period / 2 for w in (u, v))
    return np.clip(np.hypot(across, down) - 1.2, 0, 1)


def _checked(u: Array, v: Array) -> Array:
    turn = np.float32(2 * math.pi / 9.0)
    return np.clip(0.5 + 2.2 * np.sin(u * turn) * np.sin(v * turn), 0, 1)


TEXTURES_DRAWN: dict[str, Callable[[Array, Array], Array]] = {
    "plain": _plain,
    "striped": _striped,
    "dotted": _dotted,
    "checked": _checked,
}
