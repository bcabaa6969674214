"""Text-to-video retrieval apart for captions that need motion, and for the others.

A caption of the embedded data set needs motion if what it says of a still picture (colours, shapes,
sizes, textures, the ground) fits another clip of the gallery as well: a reader of one frame can
then only guess among these clips. Motions and events are what is left out. The generator knows;
other data sets have no such split.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from simvtp.config.data_config import ShapesConfig
from simvtp.data.clips import Clip
from simvtp.data.shapes.description.oracles import ONE_FRAME, fitting_clips
from simvtp.data.shapes.plan_clips import plan
from simvtp.data.shapes.scene import SPLITS
from simvtp.errors import DataError
from simvtp.evaluation.examples.example_cards import Scored
from simvtp.evaluation.examples.predictions import RanksOnly
from simvtp.evaluation.metrics import chance, summarise
from simvtp.runs.results import NEEDS_MOTION, Result

READER = "a reader of one frame"  # name of the baseline


def one_frame_candidates(config: ShapesConfig, split: str, clips: Sequence[Clip]) -> list[int]:
    """Returns how many of the clips fit what one frame shows of each clip's caption.

    1: the caption needs no motion.

    Args:
        config: settings of the embedded data set.
        split: of the clips.
        clips: in the order of the result; each has one caption.

    Raises:
        DataError: a clip is not one that these settings make.
    """
    others: dict[str, Any] = {name: 0 for name in SPLITS if name != split}
    alone = replace(config, **others)
    planned = {clip.id: clip for clip in plan(alone)}
    for clip in clips:
        if clip.id not in planned or planned[clip.id].captions != tuple(clip.captions):
            raise DataError(
                f"clip {clip.id} of the {split} split is not the one that data.shapes.* describes: "
                "the folder of the embedded data was changed; delete it, and it is made again."
            )
    return fitting_clips([planned[clip.id] for clip in clips], ONE_FRAME)


def split_by_motion(
    result: Result, candidates: Sequence[int], names: Sequence[str]
) -> list[Scored]:
    """Returns the results of the captions that need motion and of the others.

    The gallery is whole in both. A kind that no caption is of has no result. Each has the R@1 of a
    reader of one frame, who guesses among the clips that fit, as a baseline.

    Args:
        result: text to video, with its ranks.
        candidates: as `one_frame_candidates` gives them, by query.
        names: of the queries.
    """
    needs = torch.tensor(candidates) > 1
    found = []
    for name, chosen in zip(NEEDS_MOTION, (needs, ~needs), strict=True):
        numbers = chosen.nonzero()[:, 0].tolist()
        if not numbers:
            continue
        ranks = tuple(result.ranks[number] for number in numbers)
        guesses = [100 / candidates[number] for number in numbers]
        part = Result(
            protocol=replace(result.protocol, setting=f"{result.protocol.setting}, {name}"),
            metrics=summarise(torch.tensor(ranks)),
            chance=chance(result.gallery, [1] * len(ranks)),
            queries=len(ranks),
            gallery=result.gallery,
            ranks=ranks,
            baselines={READER: {"R1": sum(guesses) / len(guesses)}},
        )
        found.append(Scored(part, RanksOnly([names[number] for number in numbers])))
    return found
