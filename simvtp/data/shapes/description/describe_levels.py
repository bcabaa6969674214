"""The table of `simvtp data describe shapes`: what each level asks of a model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import get_args

from simvtp.config.data_config import Level, ShapesConfig
from simvtp.data.shapes.description.oracles import ORACLES, oracle_recall
from simvtp.data.shapes.description.redundancy import (
    RATIOS,
    REAL_CORRELATION,
    REAL_INPAINTING,
    Frames,
    Redundancy,
    measure_redundancy,
)
from simvtp.data.shapes.plan_clips import PlannedClip, Purpose, plan
from simvtp.data.shapes.render_scene import render
from simvtp.data.shapes.scene import Draw

MEASURED_CLIPS = 24  # whose redundancy is measured; the standard error is about 0.02


@dataclass(frozen=True)
class LevelDescription:
    """Measurements of one level.

    Attributes:
        name: of the level.
        size: side of a frame that was drawn, in pixels; a patch is an eighth of it.
        words: different words in the captions of the test split.
        recalls: R@1 of each of `ORACLES` on the test split, in percent.
        redundancy: of the test clips.
        example: a caption.
    """

    name: str
    size: int
    words: int
    recalls: tuple[float, ...]
    redundancy: Redundancy
    example: str


def level_names() -> tuple[Level, ...]:
    """Returns the levels in order of difficulty."""
    return get_args(Level)


def describe_level(config: ShapesConfig) -> LevelDescription:
    """Measures one level: oracles over its test clips, redundancy of the first of them."""
    clips = plan(replace(config, train=0, val=0))
    shown = [_draw(config, clip) for clip in clips[:MEASURED_CLIPS]]
    return LevelDescription(
        name=config.level,
        size=config.image_size,
        words=len({word for clip in clips for word in clip.captions[0].split()}),
        recalls=tuple(oracle_recall(clips, oracle) for oracle in ORACLES),
        redundancy=measure_redundancy(shown, config.image_size // 8),
        example=clips[0].captions[0],
    )


def _draw(config: ShapesConfig, clip: PlannedClip) -> Frames:
    draw = Draw(config.seed, clip.split, clip.index, 0, Purpose.PIXELS)
    return render(clip.scene, config.image_size, config.difficulty, draw)


def description_lines(levels: list[LevelDescription], test: int) -> Iterator[str]:
    """Yields the lines of the table, a column a level."""
    width = 11
    name = 38

    def line(label: str, values: list[str]) -> str:
        return f"{label:<{name}}" + "".join(f"{value:>{width}}" for value in values)

    yield line("level", [level.name for level in levels])
    yield line("frame, px", [str(level.size) for level in levels])
    yield line("different words", [str(level.words) for level in levels])
    yield ""
    yield f"text-to-video R@1 (%) over {test} test clips of a reader who sees only"
    for number, oracle in enumerate(ORACLES):
        yield line(f"  {oracle.name}", [f"{level.recalls[number]:.1f}" for level in levels])
    yield line("  nothing (chance)", [f"{100 / test:.1f}"] * len(levels))
    yield ""
    yield "redundancy (in brackets: real clips)"
    found = [level.redundancy for level in levels]
    yield line(
        f"  patch, first to last frame ({REAL_CORRELATION:.2f})",
        [f"{one.first_last:.2f}" for one in found],
    )
    yield line("  patch, first to second frame", [f"{one.adjacent:.2f}" for one in found])
    for number, ratio in enumerate(RATIOS):
        yield line(
            f"  in-painting error at {ratio:.2f} ({REAL_INPAINTING[number]:.2f})",
            [f"{one.inpainting[number]:.2f}" for one in found],
        )
    yield ""
    for level in levels:
        yield f"{level.name}: {level.example}"
