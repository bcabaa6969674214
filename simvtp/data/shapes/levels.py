"""Levels of the embedded data set: from one flat object to the scenes of `scene.draw_scene`.

A level fixes what varies in its scenes and what its captions name:

    object    one flat object over a soft ground; colour, shape, size, motion, colour of the ground
    pair      two large flat objects over a soft ground; colour, shape and motion of each
    motion    as `pair`; four clips of val and test at a time show the same objects over the same
              ground, so their captions differ in motion alone
    natural   two textured objects over a ground with the spectrum and drift of real clips
    scenes    two or three objects, textures, events, five kinds of ground, paraphrases, omissions

All levels but `scenes` have one wording, name all that varies, and add no grain: the target of a
tube that is normalised by its own deviation would consist of grain where the picture is plain.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from simvtp.config.data_config import ShapesConfig
from simvtp.data.shapes.grammar import Mention, Statement, Wording
from simvtp.data.shapes.scene import (
    BACKGROUND_COLOURS,
    COLOURS,
    MOTIONS,
    SHAPES,
    SIZES,
    TEXTURES,
    Background,
    Draw,
    Scene,
    Thing,
)

ROUND = ("circle", "ring")  # nobody sees a flat one of these spin


@dataclass(frozen=True)
class LevelSpec:
    """Content of the scenes of a level.

    Attributes:
        objects: number of objects.
        sizes: of the objects; named if there are several.
        textures: of the objects; named if there are several.
        ground: kind of background.
        ground_named: captions end with the colour of the ground.
        drift: largest speed of the ground along each axis, in frame sides a frame.
        group: clips of val and test in a row that differ in motion alone.
    """

    objects: int
    sizes: tuple[str, ...] = ("large",)
    textures: tuple[str, ...] = ("plain",)
    ground: str = "soft"
    ground_named: bool = False
    drift: float = 0.01
    group: int = 1


LEVELS: dict[str, LevelSpec] = {
    "object": LevelSpec(1, sizes=SIZES, ground_named=True),
    "pair": LevelSpec(2),
    "motion": LevelSpec(2, group=4),
    "natural": LevelSpec(2, textures=TEXTURES, ground="rough", drift=0.004),
}


def draw_level_scene(config: ShapesConfig, objects: Draw, motions: Draw) -> Scene:
    """Draws a scene of the level `config.level`, without placement.

    Args:
        config: names the level.
        objects: decides the objects and the ground.
        motions: decides what each object does; may be the same stream.
    """
    spec = LEVELS[config.level]
    things = [
        Thing(
            colour=colour,
            shape=objects.pick(SHAPES),
            size=objects.pick(spec.sizes),
            texture=objects.pick(spec.textures),
            motion="still",
        )
        for colour in objects.sample(tuple(COLOURS), spec.objects)
    ]
    drift = [round(objects.between(-spec.drift, spec.drift), 4) for _ in range(2)]
    ground = Background(spec.ground, objects.pick(tuple(BACKGROUND_COLOURS)), drift[0], drift[1])
    moving = tuple(replace(thing, motion=motions.pick(_motions(thing))) for thing in things)
    return Scene(config.frames, ground, moving)


def _motions(thing: Thing) -> list[str]:
    flat_and_round = thing.texture == "plain" and thing.shape in ROUND
    return [motion for motion in MOTIONS if not (flat_and_round and motion == "spin")]


def level_caption(config: ShapesConfig, scene: Scene) -> tuple[Statement, str]:
    """Returns the content and the words of the only caption of a scene: all that varies."""
    spec = LEVELS[config.level]
    mentions = tuple(
        Mention(
            colour=thing.colour,
            shape=thing.shape,
            size=thing.size if len(spec.sizes) > 1 else "",
            texture=thing.texture if len(spec.textures) > 1 else "",
            motion=thing.motion,
        )
        for thing in scene.things
    )
    ground = (scene.background.kind, scene.background.colour) if spec.ground_named else ()
    statement = Statement(mentions, ground)
    plain = Draw(config.seed, "train", 0)  # the plain wording uses none of its numbers
    return statement, Wording(plain, 0.0).caption(statement)


def without_motion(statement: Statement) -> Statement:
    """Returns the statement as a viewer of one frame could make it."""
    return replace(statement, mentions=tuple(replace(m, motion="") for m in statement.mentions))
