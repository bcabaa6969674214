"""Oracles of the embedded data set: the R@1 that a reader of some attributes alone can reach.

An oracle sees of each clip the attributes that its name lists, without error, and ranks a caption's
clips by whether they fit what it can see; ties are broken at random. So its R@1 is the mean over
captions of 1 / (number of clips that fit), which is a property of the data and of no model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

from simvtp.data.shapes.grammar import Mention, Statement, satisfies
from simvtp.data.shapes.plan_clips import PlannedClip

GROUND = "ground"
STATIC = ("colour", "shape", "size", "texture", GROUND)
CHANGE = ("motion", "event", "value")


@dataclass(frozen=True)
class Oracle:
    """A reader of some attributes: those of `Mention`, and the ground."""

    name: str
    sees: tuple[str, ...]


ONE_FRAME = Oracle("static (one frame)", STATIC)
ORACLES = (
    Oracle("colour", ("colour",)),
    Oracle("colour and shape", ("colour", "shape")),
    ONE_FRAME,
    Oracle("motion and events", CHANGE),
    Oracle("everything", (*STATIC, *CHANGE)),
)


def oracle_recall(clips: Sequence[PlannedClip], oracle: Oracle) -> float:
    """Returns the text-to-video R@1 of an oracle over the first captions of `clips`, in percent."""
    if not clips:
        return float("nan")
    return 100 * sum(1 / count for count in fitting_clips(clips, oracle)) / len(clips)


def fitting_clips(clips: Sequence[PlannedClip], oracle: Oracle) -> list[int]:
    """Returns how many of `clips` fit the first caption of each, for all that an oracle sees.

    It is 1 where the oracle can tell the caption's own clip from the others.
    """
    seen = [reduce_statement(clip.statements[0], oracle.sees) for clip in clips]
    return [sum(satisfies(one, clip.scene) for clip in clips) for one in seen]


def reduce_statement(statement: Statement, sees: Sequence[str]) -> Statement:
    """Returns what is left of a caption's content for a reader of the attributes `sees`."""
    blank = {field.name: "" for field in fields(Mention) if field.name not in sees}
    mentions = tuple(replace(mention, **blank) for mention in statement.mentions)
    return Statement(mentions, statement.background if GROUND in sees else ())
