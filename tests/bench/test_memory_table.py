"""The committed table of counted memory follows from the code, and every recipe fits in it."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from simvtp.bench.memory_table import (
    CARDS,
    GIB,
    GPUS,
    RECIPES,
    RecipeMemory,
    count_recipe,
    fitted,
    memory_page,
    shape_of,
)
from simvtp.config.recipes import get_recipe
from simvtp.training.parallel.step_memory import Line, StepMemory

PAGE = Path("results/memory/2026-11-30-memory-of-a-step.md").read_text()
NARROW = {"dim": 64, "heads": 2, "depth": 4, "vocab_size": 97, "image_size": 32}


def rows(page: str, recipe: str) -> list[str]:
    return [line for line in page.splitlines() if line.startswith(f"| {recipe} |")]


@pytest.mark.parametrize("recipe", RECIPES)
def test_weights_and_states_are_those_of_the_model(recipe: str) -> None:
    experiment = get_recipe(recipe)
    model = shape_of(experiment.model, experiment.losses.wanted)
    held = sum(one.numel() for one in [*model.parameters(), *model.buffers()])
    trained = sum(one.numel() for one in model.parameters())
    stated = float(rows(PAGE, recipe)[0].split("|")[2])
    assert stated == pytest.approx(4 * (held + 3 * trained) / GIB, abs=0.005)


def test_every_recipe_for_gpus_fits_everywhere() -> None:
    for recipe in RECIPES:
        assert len(rows(PAGE, recipe)) == 1 + len(GPUS)
    assert "| — |" not in PAGE and ", checkpointing" not in PAGE.partition("| recipe | batch |")[2]


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["mac", "base"])
def test_the_rows_of_a_recipe_are_counted_again(recipe: str) -> None:
    assert rows(memory_page([count_recipe(recipe)]), recipe) == rows(PAGE, recipe)


@pytest.mark.slow
def test_a_smaller_model_needs_less() -> None:
    config = replace(get_recipe("mac").model, **NARROW)
    small = count_recipe("mac", config)
    (row, *_) = rows(memory_page([small]), "mac")
    whole = rows(PAGE, "mac")[0]
    assert all(
        float(less) < float(more)
        for less, more in zip(row.split("|")[2:-1], whole.split("|")[2:-1], strict=True)
    )


def test_what_does_not_fit_says_what_it_needs() -> None:
    line = Line(GIB, GIB)
    heavy = StepMemory(4 * GIB, 4 * GIB, 0, GIB // 4, GIB // 16, 0, line, line)
    memory = RecipeMemory("heavy", 64, 8, heavy)
    assert fitted(memory, 8, CARDS[24] * GIB) == ""
    light = replace(heavy, small=Line(0, GIB / 4), large=Line(0, GIB / 4))
    needs = fitted(replace(memory, checkpointed=light), 8, CARDS[24] * GIB)
    assert needs == "8, 18, checkpointing"
    huge = replace(light, held=8 * GIB, trained=8 * GIB)
    needs = fitted(replace(memory, checkpointed=huge), 8, CARDS[24] * GIB)
    assert re.fullmatch(r"8, \d+, checkpointing, shard", needs)
