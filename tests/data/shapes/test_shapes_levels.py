"""Levels of the embedded data set: what varies, what is named, and which reader is needed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from simvtp.__main__ import main
from simvtp.config.data_config import ShapesConfig
from simvtp.data.shapes.description.describe_levels import level_names
from simvtp.data.shapes.description.oracles import ORACLES, Oracle, oracle_recall
from simvtp.data.shapes.description.redundancy import (
    REAL_CORRELATION,
    REAL_INPAINTING,
    inpainting_error,
    measure_redundancy,
    patch_correlation,
)
from simvtp.data.shapes.grammar import satisfies
from simvtp.data.shapes.levels import LEVELS, without_motion
from simvtp.data.shapes.plan_clips import Purpose, plan
from simvtp.data.shapes.render_scene import render
from simvtp.data.shapes.scene import Draw

EASIER = tuple(LEVELS)


def small(level: str, **sizes: int) -> ShapesConfig:
    return replace(ShapesConfig(train=60, val=20, test=60, image_size=32), level=level, **sizes)


@pytest.mark.parametrize("level", EASIER)
def test_a_caption_is_in_one_split_and_fits_one_clip_of_it(level: str) -> None:
    clips = plan(small(level))
    by_caption: dict[str, set[str]] = {}
    for clip in clips:
        for caption in clip.captions:
            by_caption.setdefault(caption, set()).add(clip.split)
    assert all(len(splits) == 1 for splits in by_caption.values())
    test = [clip for clip in clips if clip.split == "test"]
    for clip in test:
        assert [o.id for o in test if satisfies(clip.statements[0], o.scene)] == [clip.id]


@pytest.mark.parametrize("level", EASIER)
def test_one_wording_names_all_that_varies(level: str) -> None:
    spec = LEVELS[level]
    for clip in plan(small(level)):
        assert len(clip.captions) == 1 and len(clip.scene.things) == spec.objects
        for thing in clip.scene.things:
            assert thing.event is None
            assert {thing.colour, thing.shape} <= set(clip.captions[0].split())
            assert (thing.size in clip.captions[0].split()) == (len(spec.sizes) > 1)


def test_groups_of_the_motion_level_differ_in_motion_alone() -> None:
    test = [clip for clip in plan(small("motion")) if clip.split == "test"]
    groups = [test[first : first + 4] for first in range(0, len(test), 4)]
    for group in groups:
        assert len({without_motion(clip.statements[0]).key for clip in group}) == 1
        assert len({clip.statements[0].key for clip in group}) == len(group) == 4
    recall = {oracle.name: oracle_recall(test, oracle) for oracle in ORACLES}
    assert recall["static (one frame)"] <= 25 and recall["everything"] == 100


@pytest.mark.parametrize("level", level_names())
def test_who_sees_everything_finds_every_clip_and_who_sees_nothing_guesses(level: str) -> None:
    test = [clip for clip in plan(small(level, train=0, val=0)) if clip.split == "test"]
    assert oracle_recall(test, ORACLES[-1]) == 100
    if level != "scenes":  # there the number of objects varies, which a caption may show
        assert oracle_recall(test, Oracle("nothing", ())) == pytest.approx(100 / len(test))
    recalls = [oracle_recall(test, oracle) for oracle in ORACLES[:3]]
    assert recalls == sorted(recalls)  # each of the first three sees more than the one before


def test_a_larger_test_split_keeps_the_first_clips() -> None:
    few, many = (
        [c for c in plan(small("motion", train=0, val=0, test=n)) if c.split == "test"]
        for n in (20, 60)
    )
    assert many[:20] == few


def test_the_natural_level_is_as_redundant_as_real_clips() -> None:
    config = small("natural", train=0, val=0, test=24)
    clips = [
        render(c.scene, 64, 0.5, Draw(0, c.split, c.index, 0, Purpose.PIXELS))
        for c in plan(config)
        if c.split == "test"
    ]
    found = measure_redundancy(clips, 8)
    assert found.first_last == pytest.approx(REAL_CORRELATION, rel=0.2)
    assert found.inpainting == pytest.approx(REAL_INPAINTING, rel=0.2)


@pytest.mark.parametrize("side", [32, 48])
def test_redundancy_of_pictures_whose_redundancy_is_known(side: int) -> None:
    rng = np.random.default_rng(side)
    noise = rng.integers(0, 256, (8, side, side, 3), dtype=np.uint8)
    still = np.repeat(noise[:1], 8, axis=0)
    ramp = np.repeat(np.arange(side, dtype=np.uint8)[None, None, :, None], 8, axis=0)
    ramp = np.broadcast_to(ramp, (8, side, side, 3)).copy()
    assert patch_correlation(still[0], still[-1], 8) == pytest.approx(1)
    assert abs(patch_correlation(noise[0], noise[1], 8)) < 0.1
    assert patch_correlation(noise[0], np.zeros_like(noise[0]), 8) == 0  # flat patches
    assert inpainting_error(ramp, 8, 0.5, rng) < 0.25
    assert inpainting_error(noise, 8, 0.5, rng) >= 1


def test_the_level_scenes_keeps_its_folder_and_its_clips(tmp_path: object) -> None:
    # Folders made before there were levels must be found again.
    assert replace(ShapesConfig(), level="scenes") == ShapesConfig()
    assert plan(small("scenes", train=0, val=0, test=5)) == plan(
        ShapesConfig(train=0, val=0, test=5, image_size=32)
    )


def test_describe_prints_each_level_with_chance(capsys: pytest.CaptureFixture[str]) -> None:
    argv = [
        "data",
        "describe",
        "shapes",
        "--test",
        "20",
        "--size",
        "32",
        "--levels",
        "object,motion",
    ]
    assert main(argv) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["level", "object", "motion"]
    assert next(line for line in lines if "chance" in line).split()[-1] == "5.0"
    assert next(line for line in lines if "everything" in line).split()[-2:] == ["100.0", "100.0"]


def test_an_unknown_level_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "describe", "shapes", "--levels", "hard"]) != 0
    assert "--levels=hard" in capsys.readouterr().err


@pytest.mark.parametrize("level", ["object", "motion"])
def test_the_committed_description_is_that_of_the_code(level: str) -> None:
    lines = Path("results/levels/levels.txt").read_text().splitlines()
    column = lines[0].split().index(level) - len(lines[0].split())
    test = plan(replace(ShapesConfig(train=0, val=0, test=256), level=level))
    for oracle in ORACLES:
        line = next(line for line in lines if line.startswith(f"  {oracle.name} "))
        assert line.split()[column] == f"{oracle_recall(test, oracle):.1f}"
