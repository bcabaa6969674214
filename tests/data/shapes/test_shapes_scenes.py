"""Rendered scenes show what their records say."""

import dataclasses

import numpy as np
import pytest

from simvtp.data.shapes.render_scene import render
from simvtp.data.shapes.scene import (
    COLOURS,
    DIRECTIONS,
    MOTIONS,
    SHAPES,
    Background,
    Draw,
    Event,
    Scene,
    Thing,
)


def seen(thing: Thing) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns area [F] and centroid x, y [F] of a scene's only object.

    It is found by its distance from the background.
    """
    scene = Scene(16, Background("plain", "dark", 0.0, 0.0), (thing,))
    frames = render(scene, 64, 0.0, Draw(0, "train", 0)).astype(float)
    mask = np.abs(frames - (40, 42, 50)).sum(-1) > 60
    area = mask.sum((1, 2))
    grid = np.arange(64)
    with np.errstate(invalid="ignore"):
        return area, (mask.sum(1) * grid).sum(1) / area, (mask.sum(2) * grid).sum(1) / area


def thing(
    motion: str, event: Event | None = None, size: str = "small", shape: str = "square"
) -> Thing:
    return Thing(
        "red", shape, size, "plain", motion, event, diameter=0.28 if size == "small" else 0.42
    )


@pytest.mark.parametrize("motion", MOTIONS)
def test_objects_move_as_they_are_said_to(motion: str) -> None:
    _, x, y = seen(thing(motion))
    if motion in DIRECTIONS:
        step_x, step_y = DIRECTIONS[motion]
        assert (np.diff(x) * step_x > 0.5).all() if step_x else np.ptp(x) < 0.5
        assert (np.diff(y) * step_y > 0.5).all() if step_y else np.ptp(y) < 0.5
        assert 30 < np.ptp(x) + np.ptp(y) < 40
    elif motion == "circle":
        assert np.ptp(x) > 20 and np.ptp(y) > 20 and abs(x[0] - x[-1]) < 1
        assert np.ptp(np.hypot(x - 31.5, y - 31.5)) < 1.5
    elif motion == "bounce":
        assert (
            np.ptp(x) < 0.5
            and np.ptp(y) > 18
            and ((y[1:-1] < y[:-2]) & (y[1:-1] <= y[2:])).sum() == 2
        )  # two hops
    else:
        assert np.ptp(x) < 1 and np.ptp(y) < 1


def test_spinning_turns_the_object_and_standing_still_does_not() -> None:
    def change(motion: str) -> float:
        scene = Scene(16, Background("plain", "dark", 0.0, 0.0), (thing(motion, shape="star"),))
        frames = render(scene, 64, 0.0, Draw(0, "train", 0)).astype(float)
        return float(np.abs(np.diff(frames, axis=0)).mean(axis=(1, 2, 3)).min())

    assert change("spin") > 0.3 and change("still") == 0


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes_differ_in_outline_and_large_is_larger(shape: str) -> None:
    small, large = (
        seen(thing("still", shape=shape))[0][0],
        seen(thing("still", size="large", shape=shape))[0][0],
    )
    assert 60 < small < 330 and 1.8 < large / small < 2.8  # area grows by 1.5 squared
    others = [
        seen(thing("still", size="large", shape=other))[0][0] for other in SHAPES if other != shape
    ]
    assert all(other != large for other in others)


def test_events_happen_when_the_record_says() -> None:
    whole = seen(thing("still"))[0][0]
    grown = seen(thing("still", Event("grow", 6, 10, "large")))[0]
    assert (
        (grown[:6] == whole).all()
        and grown[9] > 2 * whole
        and (grown[9:] == grown[9]).all()
        and (np.diff(grown[5:10]) > 0).all()
    )
    appeared = seen(thing("spin", Event("appear", 6, 8, "")))[0]
    assert (appeared[:6] == 0).all() and (appeared[6:] > 0).all()
    gone = seen(thing("still", Event("disappear", 6, 8, "")))[0]
    assert (gone[:8] > 0).all() and (gone[8:] == 0).all()
    for motion, side in (("right", "left"), ("left", "right"), ("down", "top"), ("up", "bottom")):
        area, x, y = seen(thing(motion, Event("enter", 5, 11, side)))
        assert (
            (area[:5] == 0).all()
            and (area[5:] > 0).all()
            and 0 < area[5] < whole / 2
            and area[10] == pytest.approx(whole, abs=25)
        )
        first = {"left": x[5], "right": 63 - x[5], "top": y[5], "bottom": 63 - y[5]}[side]
        assert first < 6
        towards = {"right": "right", "left": "left", "down": "bottom", "up": "top"}[motion]
        area, x, y = seen(thing(motion, Event("leave", 5, 11, towards)))
        assert (
            (area[:11] > 0).all()
            and (area[11:] == 0).all()
            and area[5] == pytest.approx(whole, abs=25)
        )
        assert {"left": x[10], "right": 63 - x[10], "top": y[10], "bottom": 63 - y[10]}[towards] < 6


def test_colours_are_what_they_are_called() -> None:
    for colour, rgb in COLOURS.items():
        changed = dataclasses.replace(
            thing("still", Event("recolour", 6, 10, colour)),
            colour="red" if colour != "red" else "blue",
        )
        frames = render(
            Scene(16, Background("plain", "grey", 0.0, 0.0), (changed,)),
            64,
            0.0,
            Draw(0, "train", 0),
        ).astype(int)
        middle = frames[:, 30:34, 30:34].mean((1, 2))
        nearest = [min(COLOURS, key=lambda name: np.abs(m - COLOURS[name]).sum()) for m in middle]
        assert nearest[:6] == [changed.colour] * 6 and nearest[9:] == [colour] * 7, rgb
