"""Retrieval apart for captions that need motion and for the others."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from simvtp.config.data_config import Level, ShapesConfig
from simvtp.config.recipes import get_recipe
from simvtp.data.clips import Clip
from simvtp.data.shapes.levels import without_motion
from simvtp.data.shapes.plan_clips import plan
from simvtp.errors import DataError
from simvtp.evaluation.metrics import chance, summarise
from simvtp.evaluation.modality.motion_queries import (
    READER,
    one_frame_candidates,
    split_by_motion,
)
from simvtp.runs.results import NEEDS_MOTION, Protocol, Result

PROTOCOL = Protocol("retrieval", "x", "test", "finetuned", "t2v", 4, 1, 1, "pessimistic", 0, "")


def config(level: Level, test: int) -> ShapesConfig:
    return ShapesConfig(level=level, train=3, val=5, test=test)


def clips_of(shapes: ShapesConfig, split: str = "test") -> list[Clip]:
    planned = [clip for clip in plan(shapes) if clip.split == split]
    return [Clip(clip.id, Path(clip.path), clip.captions) for clip in planned]


def test_all_captions_of_a_level_whose_clips_differ_in_motion_need_it() -> None:
    shapes = config("motion", 64)
    candidates = one_frame_candidates(shapes, "test", clips_of(shapes))
    assert min(candidates) >= 4, "four clips at a time show the same objects"


def fits_by_key(shapes: ShapesConfig, split: str, clips: list[Clip]) -> list[int]:
    planned = {clip.id: clip for clip in plan(shapes) if clip.split == split}
    still = [without_motion(planned[clip.id].statements[0]).key for clip in clips]
    return [still.count(one) for one in still]


def test_a_caption_of_a_pair_needs_motion_if_the_same_pair_is_shown_again() -> None:
    shapes = replace(config("pair", 4), val=120)
    clips = clips_of(shapes, "val")
    found = one_frame_candidates(shapes, "val", clips)
    assert found == fits_by_key(shapes, "val", clips) and max(found) > 1


def test_the_page_says_how_many_captions_of_the_default_experiment_need_motion() -> None:
    shapes = replace(get_recipe("tiny_pair").data.shapes, train=1, val=1)
    needed = sum(count > 1 for count in fits_by_key(shapes, "test", clips_of(shapes)))
    page = Path(__file__).parents[2] / "docs" / "modality_use.md"
    text = " ".join(page.read_text(encoding="utf-8").split())
    assert f"with the {shapes.test} test clips of `tiny_pair`, {needed} do" in text


def test_scenes_are_judged_by_what_may_be_said_of_them() -> None:
    shapes = config("scenes", 40)
    found = one_frame_candidates(shapes, "test", clips_of(shapes))
    assert min(found) >= 1 and len(found) == 40


def test_clips_of_other_settings_are_refused() -> None:
    shapes = config("pair", 6)
    with pytest.raises(DataError, match="is not the one that data.shapes"):
        one_frame_candidates(replace(shapes, seed=shapes.seed + 1), "test", clips_of(shapes))


def test_parts_have_the_ranks_of_their_queries_and_the_whole_gallery() -> None:
    ranks, candidates = (1, 2, 1, 30, 1), [1, 4, 2, 2, 1]
    names = [f"c{number}#0" for number in range(5)]
    whole = Result(PROTOCOL, {}, {}, 5, 40, ranks)
    needed, other = split_by_motion(whole, candidates, names)
    assert [one.result.ranks for one in (needed, other)] == [(2, 1, 30), (1, 1)]
    for one, name, reader in ((needed, NEEDS_MOTION[0], 125 / 3), (other, NEEDS_MOTION[1], 100)):
        part = one.result
        assert part.protocol == replace(PROTOCOL, setting=f"finetuned, {name}")
        assert (part.queries, part.gallery) == (len(part.ranks), 40)
        assert part.chance == chance(40, [1]) and part.baselines == {
            READER: {"R1": pytest.approx(reader)}
        }
        items = one.predictions.items(part)
        assert items.figure("R1") == pytest.approx(part.metrics["R1"])
    assert needed.result.metrics["R1"] == pytest.approx(100 / 3)
    assert needed.predictions.items(needed.result).ids == ("c1#0", "c2#0", "c3#0")
    # together they are the whole
    both = sum(one.result.metrics["R1"] * one.result.queries for one in (needed, other)) / 5
    assert both == pytest.approx(summarise(torch.tensor(ranks))["R1"])
    (all_of_them,) = split_by_motion(whole, [2] * 5, names)
    assert all_of_them.result.ranks == ranks
