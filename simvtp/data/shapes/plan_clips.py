"""Plan of the embedded data set: scene and captions of each clip, before anything is drawn.

Clip i of a split depends on (configuration, split, i), and in val and test also on the clips before
it, with which it must not be confused; more clips of a split therefore never change the first ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum

from simvtp.config.data_config import ShapesConfig
from simvtp.data.shapes.grammar import Statement, draw_caption, satisfies
from simvtp.data.shapes.levels import LEVELS, draw_level_scene, level_caption, without_motion
from simvtp.data.shapes.scene import SPLITS, Draw, Scene, draw_scene, place
from simvtp.errors import ConfigError

MAX_ATTEMPTS = 5000


class Purpose(IntEnum):
    """Streams of random numbers of a clip (see `Draw`); a new one shifts no others."""

    SCENE = 0
    SECOND_CAPTION = 1
    LAYOUT = 2
    PIXELS = 3
    TASKS = 4


@dataclass(frozen=True)
class PlannedClip:
    """One clip before it is drawn: its scene and its captions."""

    id: str
    split: str
    index: int
    scene: Scene
    statements: tuple[Statement, ...]
    captions: tuple[str, ...]

    @property
    def path(self) -> str:
        """Path relative to the manifest."""
        return clip_path(self.split, self.index)


def clip_path(split: str, index: int) -> str:
    """Returns the path of a clip relative to the manifest."""
    return f"clips/{split}/{index:06d}.mp4"


def plan(config: ShapesConfig) -> list[PlannedClip]:
    """Returns all clips of a configuration: a pure function, the same on every machine.

    Raises:
        ConfigError: val or test asks for more distinguishable clips than were found.
    """
    clips = [clip for split in SPLITS for clip in _plan_split(config, split)]
    splits: dict[str, str] = {}
    for clip in clips:
        for caption in clip.captions:
            if splits.setdefault(caption, clip.split) != clip.split:
                raise RuntimeError(
                    f"the caption '{caption}' is in two splits: the wording does not determine "
                    "the content"
                )
    return clips


def _plan_split(config: ShapesConfig, split: str) -> Iterator[PlannedClip]:
    earlier: list[PlannedClip] = []
    for index in range(getattr(config, split)):
        clip = _plan_clip(config, split, index, earlier)
        if clip is None:
            raise ConfigError(
                f"data.shapes.{split}={getattr(config, split)}: only {index} clips were found that "
                "no caption confuses; ask for fewer, or lower "
                f"data.shapes.difficulty={config.difficulty} so that captions name more."
            )
        earlier.append(clip)
        yield clip


def _plan_clip(
    config: ShapesConfig, split: str, index: int, earlier: Sequence[PlannedClip]
) -> PlannedClip | None:
    """Returns the clip of the first attempt that fits its split, or None."""
    if config.level != "scenes":
        return _plan_level_clip(config, split, index, earlier)
    for attempt in range(MAX_ATTEMPTS):
        draw = Draw(config.seed, split, index, attempt, Purpose.SCENE)
        scene = draw_scene(draw, config)
        statement, caption = draw_caption(draw, scene, config.difficulty)
        if statement.split != split:
            continue
        if split != "train" and _confused(statement, scene, earlier):
            continue
        captions = [(statement, caption)]
        if split == "train":
            captions += _second_caption(config, index, scene, caption)
        placed = place(Draw(config.seed, split, index, attempt, Purpose.LAYOUT), scene)
        return PlannedClip(
            id=f"{split}_{index:06d}",
            split=split,
            index=index,
            scene=placed,
            statements=tuple(statement for statement, _ in captions),
            captions=tuple(caption for _, caption in captions),
        )
    return None


def _plan_level_clip(
    config: ShapesConfig, split: str, index: int, earlier: Sequence[PlannedClip]
) -> PlannedClip | None:
    """Returns the clip of a level below `scenes`, or None if no attempt fits its split.

    Where clips come in groups, the objects decide the split, so that all motions of a group lie in
    it.
    """
    size = LEVELS[config.level].group if split != "train" else 1
    group = earlier[index - index % size :]  # those that show the same objects
    for attempt in range(MAX_ATTEMPTS):
        draw = Draw(config.seed, split, index, attempt, Purpose.SCENE)
        scene = draw_level_scene(config, draw, draw)
        if group:
            scene = _with_motions(group[0].scene, scene)
        statement, caption = level_caption(config, scene)
        deciding = without_motion(statement) if LEVELS[config.level].group > 1 else statement
        if deciding.split != split or (split != "train" and _confused(statement, scene, earlier)):
            continue
        placed = place(Draw(config.seed, split, index, attempt, Purpose.LAYOUT), scene)
        return PlannedClip(
            id=f"{split}_{index:06d}",
            split=split,
            index=index,
            scene=placed,
            statements=(statement,),
            captions=(caption,),
        )
    return None


def _with_motions(shown: Scene, other: Scene) -> Scene:
    """Returns the objects and the ground of `shown` with the motions of `other`."""
    pairs = zip(shown.things, other.things, strict=True)
    return replace(
        shown, things=tuple(replace(thing, motion=given.motion) for thing, given in pairs)
    )


def _confused(statement: Statement, scene: Scene, earlier: Sequence[PlannedClip]) -> bool:
    """Returns True if a caption of one fits the other, for any of the earlier clips."""
    return any(
        satisfies(statement, clip.scene) or satisfies(clip.statements[0], scene) for clip in earlier
    )


def _second_caption(
    config: ShapesConfig, index: int, scene: Scene, first: str
) -> list[tuple[Statement, str]]:
    """Returns another caption for half of the training clips.

    It has other words and leaves out other attributes.
    """
    draw = Draw(config.seed, "train", index, 0, Purpose.SECOND_CAPTION)
    if draw.chance(0.5):
        return []
    for _ in range(8):
        statement, caption = draw_caption(draw, scene, config.difficulty)
        if statement.split == "train" and caption != first:
            return [(statement, caption)]
    return []
