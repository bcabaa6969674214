"""Scenes of the embedded data set: objects, what they do, and where they are in each frame.

Sizes. The small recipes cut 64 x 64 frames into patches of 8 x 8, and tube masking at 0.9 hides the
same patches in every frame: 6 of 64 stay visible. An object must still show itself there, so a
small object measures 17 to 19 px and a large one 26 to 29 px, and most objects move: counted over
400 clips (a patch counts where the object fills an eighth of it in some frame), a small moving
object passes through 18 patches and is missed completely in 15 % of the clips, a large moving one
27 patches and 4 %; small objects that stay where they are are missed in half of them. Objects
larger than a patch, several frames in each, over a background that drifts slowly: that is the
redundancy over space and time which natural video has and high mask ratios live on.

Units: positions and diameters are fractions of the frame's side, x to the right and y down; frames
count from 0; spans are half-open. The content of a scene is decided by Philox bits alone, and
placement by numbers rounded to 4 digits, so that the records are the same on each machine.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from simvtp.config.data_config import ShapesConfig

SPLITS = ("train", "val", "test")
FPS = 8
SHAPES = ("circle", "square", "triangle", "star", "cross", "ring", "heart", "moon")
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (220, 30, 35),
    "orange": (250, 130, 20),
    "yellow": (250, 225, 50),
    "green": (40, 175, 60),
    "cyan": (60, 215, 225),
    "blue": (40, 80, 230),
    "purple": (135, 50, 190),
    "pink": (255, 135, 195),
    "white": (245, 245, 245),
}
SIZES = ("small", "large")
TEXTURES = ("plain", "striped", "dotted", "checked")
DIRECTIONS: dict[str, tuple[int, int]] = {
    "left": (-1, 0),
    "right": (1, 0),
    "up": (0, -1),
    "down": (0, 1),
}
MOTIONS = (*DIRECTIONS, "circle", "bounce", "spin", "still")
EVENTS = ("enter", "leave", "appear", "disappear", "recolour", "grow", "shrink")
COMING_AND_GOING = ("enter", "leave", "appear", "disappear")
BACKGROUNDS = ("plain", "clouds", "waves", "tiles", "ripples")
BACKGROUND_COLOURS: dict[str, tuple[int, int, int]] = {
    "grey": (128, 128, 132),
    "dark": (40, 42, 50),
    "brown": (110, 80, 58),
    "olive": (95, 102, 62),
}

SMALL = (0.27, 0.30)  # diameters in frame sides: 17 to 19 px of 64
GROWTH = 1.5  # large = 1.5 x small: 26 to 29 px of 64
LAYOUTS = 7  # placements tried for each object; the one that covers the others least is kept

T = TypeVar("T")


class Draw:
    """A stream of random choices, a function of (seed, split, index, attempt, purpose).

    It reads raw Philox words: numpy promises these to stay the same in later versions, which it
    does not for `Generator`.
    """

    def __init__(
        self, seed: int, split: str, index: int, attempt: int = 0, purpose: int = 0
    ) -> None:
        key = np.array([seed % 2**64, (SPLITS.index(split) << 48) | index], dtype=np.uint64)
        self._bits = np.random.Philox(
            key=key, counter=np.array([0, attempt, purpose, 0], dtype=np.uint64)
        )
        self._words: list[int] = []

    def unit(self) -> float:
        """Returns a number in [0, 1)."""
        if not self._words:
            self._words = self._bits.random_raw(64).tolist()
        return (self._words.pop() >> 11) * 2.0**-53

    def units(self, count: int) -> NDArray[np.float32]:
        """Returns `count` numbers in [0, 1) as float32."""
        words = np.asarray(self._bits.random_raw(count), dtype=np.uint64)
        return ((words >> np.uint64(40)).astype(np.float32)) * np.float32(2.0**-24)

    def between(self, low: float, high: float) -> float:
        """Returns a number in [low, high)."""
        return low + (high - low) * self.unit()

    def chance(self, probability: float) -> bool:
        """Returns True with this probability."""
        return self.unit() < probability

    def pick(self, choices: Sequence[T]) -> T:
        """Returns one of the choices, each with equal probability."""
        return choices[int(self.unit() * len(choices))]

    def sample(self, choices: Sequence[T], count: int) -> list[T]:
        """Returns `count` different choices in random order."""
        left = list(choices)
        return [left.pop(int(self.unit() * len(left))) for _ in range(min(count, len(left)))]


@dataclass(frozen=True)
class Event:
    """Something that happens to an object in frames [start, end).

    Attributes:
        value: the new colour or size, or the side of the frame.
    """

    kind: str
    start: int
    end: int
    value: str


@dataclass(frozen=True)
class Thing:
    """One object: what it is at first, what it does, what happens to it, and where it is."""

    colour: str
    shape: str
    size: str
    texture: str
    motion: str
    event: Event | None = None
    diameter: float = 0.0
    x: float = 0.5  # middle of the path
    y: float = 0.5
    angle: float = 0.0  # degrees
    phase: float = 0.0  # of a circular path, in turns
    turn: int = 1  # sense of circling and spinning

    @property
    def colours(self) -> tuple[str, ...]:
        """First colour and, if it changes, the last."""
        return (
            (self.colour, self.event.value)
            if self.event and self.event.kind == "recolour"
            else (self.colour,)
        )

    @property
    def sizes(self) -> tuple[str, ...]:
        """First size and, if it changes, the last."""
        return (
            (self.size, self.event.value)
            if self.event and self.event.kind in ("grow", "shrink")
            else (self.size,)
        )

    def visible(self, frames: int) -> tuple[int, int]:
        """Returns the span of the frames in which any of it can be seen."""
        if self.event and self.event.kind in ("enter", "appear"):
            return self.event.start, frames
        if self.event and self.event.kind in ("leave", "disappear"):
            return 0, self.event.end
        return 0, frames


@dataclass(frozen=True)
class Background:
    """Background of a scene; `drift` in frame sides per frame."""

    kind: str
    colour: str
    drift_x: float
    drift_y: float


@dataclass(frozen=True)
class Scene:
    """Contents of a clip."""

    frames: int
    background: Background
    things: tuple[Thing, ...]

    @property
    def events(self) -> tuple[tuple[Thing, Event], ...]:
        """Objects with what happens to them, in order of time."""
        found = [(thing, thing.event) for thing in self.things if thing.event]
        return tuple(sorted(found, key=lambda pair: pair[1].start))


def draw_scene(draw: Draw, config: ShapesConfig) -> Scene:
    """Draws a scene without placement (see `place`).

    It has 2 objects, or 3 with a probability of 0.6 x difficulty.
    """
    count = 3 if draw.chance(0.6 * config.difficulty) else 2
    colours = draw.sample(tuple(COLOURS), count)
    large = draw.pick(range(count)) if draw.chance(0.7) else -1  # one large object; else all alike
    rest = "small" if large >= 0 or count == 3 or draw.chance(0.5) else "large"
    things = []
    for number, colour in enumerate(colours):
        shape, texture = draw.pick(SHAPES), draw.pick(TEXTURES)
        # Nobody sees these spin.
        plain_and_round = shape in ("circle", "ring") and texture == "plain"
        motion = draw.pick([m for m in MOTIONS if m != "spin" or not plain_and_round])
        things.append(Thing(colour, shape, "large" if number == large else rest, texture, motion))
    kind = "plain" if draw.chance((1 - config.difficulty) ** 2) else draw.pick(BACKGROUNDS[1:])
    side = draw.between(-0.02, 0.02), draw.between(-0.02, 0.02)
    background = Background(
        kind, draw.pick(tuple(BACKGROUND_COLOURS)), *(round(s, 4) for s in side)
    )
    return Scene(config.frames, background, _add_events(draw, things, config.frames))


def _add_events(draw: Draw, things: list[Thing], frames: int) -> tuple[Thing, ...]:
    """Adds no event to 30 % of the scenes, one to 45 %, two to 25 %.

    Two events are of different objects, clearly one after the other.
    """
    level = draw.unit()
    count = 0 if frames < 8 or level < 0.3 else 1 if level < 0.75 else 2
    used: list[Event] = []
    for number in draw.sample(range(len(things)), count):
        thing = things[number]
        taken = tuple(colour for other in things for colour in other.colours)
        kinds = ["recolour", "grow" if thing.size == "small" else "shrink"]
        # The frame is never left with nothing to see.
        if not any(event.kind in COMING_AND_GOING for event in used):
            kinds += ["enter", "leave"] if thing.motion in DIRECTIONS else ["appear", "disappear"]
        event = _draw_event(draw, draw.pick(kinds), thing, taken, frames)
        if all(abs(event.start - other.start) >= frames // 8 for other in used):
            used.append(event)
            things[number] = replace(thing, event=event)
    return tuple(things)


def _draw_event(draw: Draw, kind: str, thing: Thing, taken: Sequence[str], frames: int) -> Event:
    """Draws an event about half-way through the clip.

    It takes 1/8 (appear), 1/4 (change) or 3/8 (enter, leave) of the clip.
    """
    sixteenths, earliest, latest = {
        "enter": (6, 4, 8),
        "leave": (6, 4, 7),
        "appear": (2, 4, 10),
        "disappear": (2, 5, 11),
        "recolour": (4, 4, 9),
        "grow": (4, 4, 9),
        "shrink": (4, 4, 9),
    }[kind]
    start = (earliest + draw.pick(range(latest - earliest + 1))) * frames // 16
    opposite = {"left": "right", "right": "left", "up": "bottom", "down": "top"}
    towards = {"left": "left", "right": "right", "up": "top", "down": "bottom"}
    value = {
        "enter": opposite.get(thing.motion, ""),
        "leave": towards.get(thing.motion, ""),
        "grow": "large",
        "shrink": "small",
        # Drawn for every kind, so that the numbers after it stay the same.
        "recolour": draw.pick([colour for colour in COLOURS if colour not in taken]),
    }.get(kind, "")
    return Event(kind, start, start + max(1, sixteenths * frames // 16), value)


def place(draw: Draw, scene: Scene) -> Scene:
    """Returns the scene with diameters, paths and angles.

    They are chosen so that the objects cover each other as little as possible.
    """
    placed: list[Thing] = []
    for thing in scene.things:
        candidates = [_place_thing(draw, thing) for _ in range(LAYOUTS if placed else 1)]
        costs = [_total_overlap(placed, candidate, scene.frames) for candidate in candidates]
        placed.append(candidates[costs.index(min(costs))])
    return replace(scene, things=tuple(placed))


def _total_overlap(placed: Sequence[Thing], candidate: Thing, frames: int) -> float:
    return round(sum(_overlap(other, candidate, frames) for other in placed), 4)


def _place_thing(draw: Draw, thing: Thing) -> Thing:
    small = draw.between(*SMALL)
    diameter = small if thing.size == "small" else small * GROWTH
    widest = small * GROWTH if "large" in thing.sizes else small
    reach_x, reach_y = {"circle": (0.19, 0.19), "bounce": (0.0, 0.16)}.get(thing.motion, (0.0, 0.0))
    if thing.motion in DIRECTIONS:
        reach = path_length(thing, widest) / 2
        reach_x, reach_y = (reach * abs(step) for step in DIRECTIONS[thing.motion])
    room_x, room_y = (max(0.0, 0.5 - widest / 2 - reach) for reach in (reach_x, reach_y))
    return replace(
        thing,
        diameter=round(diameter, 4),
        x=round(0.5 + draw.between(-room_x, room_x), 4),
        y=round(0.5 + draw.between(-room_y, room_y), 4),
        angle=round(draw.between(-12, 12), 2),
        phase=round(draw.unit(), 4),
        turn=1 if draw.chance(0.5) else -1,
    )


def path_length(thing: Thing, widest: float) -> float:
    """Returns the length of the path of an object that moves straight inside the frame."""
    return min(0.55, 1 - widest)


def _overlap(a: Thing, b: Thing, frames: int) -> float:
    """Returns the mean depth, in frame sides, to which two objects cover each other."""
    (ax, ay, da, _), (bx, by, db, _) = track(a, frames), track(b, frames)
    distance = np.sqrt((ax - bx) ** 2 + (ay - by) ** 2)
    both = (presence(a, frames) > 0) & (presence(b, frames) > 0)
    return float((both * np.maximum(0.0, (da + db) / 2 - distance)).mean())


def track(
    thing: Thing, frames: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Returns centre x, centre y, diameter and angle in radians, each [frames]."""
    f = np.arange(frames, dtype=np.float64)
    elapsed = f / max(1, frames - 1)  # fraction of the clip
    x, y = np.full(frames, thing.x), np.full(frames, thing.y)
    angle = np.full(frames, math.radians(thing.angle))
    if thing.motion in DIRECTIONS:
        step_x, step_y = DIRECTIONS[thing.motion]
        along = _along(thing, f, elapsed)
        x = along if step_x > 0 else 1 - along if step_x else x
        y = along if step_y > 0 else 1 - along if step_y else y
    elif thing.motion == "circle":
        around = 2 * math.pi * (thing.turn * elapsed + thing.phase)
        x, y = x + 0.19 * np.cos(around), y + 0.19 * np.sin(around)
    elif thing.motion == "bounce":
        y = y + 0.16 - 0.32 * np.abs(np.sin(2 * math.pi * elapsed))
    elif thing.motion == "spin":
        angle = angle + thing.turn * math.radians(220) * elapsed
    return x, y, _diameters(thing, f), angle


def _along(
    thing: Thing, f: NDArray[np.float64], elapsed: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Returns the position on the way from side to side.

    Entering and leaving take the event's frames for one diameter.
    """
    event, d = thing.event, thing.diameter
    if event and event.kind == "enter":
        return -d / 2 + d / (event.end - event.start) * (f - event.start + 1)
    if event and event.kind == "leave":
        return 1 + d / 2 - d / (event.end - event.start) * (event.end - f)
    middle = {"right": thing.x, "left": 1 - thing.x, "down": thing.y, "up": 1 - thing.y}[
        thing.motion
    ]
    widest = d * GROWTH if event and event.kind == "grow" else d
    return middle + path_length(thing, widest) * (elapsed - 0.5)


def _diameters(thing: Thing, f: NDArray[np.float64]) -> NDArray[np.float64]:
    event = thing.event
    if event is None or event.kind not in ("grow", "shrink"):
        return np.full(len(f), thing.diameter)
    last = GROWTH if event.kind == "grow" else 1 / GROWTH
    return thing.diameter * (1 + (last - 1) * progress(event, len(f)))


def progress(event: Event, frames: int) -> NDArray[np.float64]:
    """Returns the progress of an event in each frame: 0 before it, 1 from its last frame on."""
    return np.clip(
        (np.arange(frames, dtype=np.float64) - event.start + 1) / (event.end - event.start),
        0.0,
        1.0,
    )


def presence(thing: Thing, frames: int) -> NDArray[np.float64]:
    """Returns the opacity of the object in each frame.

    What appears or disappears fades; what is outside the frame counts as 0.
    """
    f = np.arange(frames)
    first, stop = thing.visible(frames)
    shown = ((f >= first) & (f < stop)).astype(np.float64)
    if thing.event and thing.event.kind == "appear":
        shown *= progress(thing.event, frames)
    elif (
        thing.event and thing.event.kind == "disappear"
    ):  # still faintly there in the event's last frame
        length = thing.event.end - thing.event.start
        shown *= 1 - progress(thing.event, frames) * length / (length + 1)
    return shown
