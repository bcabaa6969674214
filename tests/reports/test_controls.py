"""Rows outside a grid, such as no pre-training: shown and compared, and no part of the grid."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from reports.analysis.comparisons import compare, sentence
from reports.analysis.effects import effects
from reports.figures.curves import lines_of
from reports.figures.heatmap import heat_map
from reports.kinds.registry import report_type_of
from reports.output.tables import grid
from reports.study.sweep_results import SweepResults
from tests.reports.made_up import TEXT, VIDEO, plan, sweep_results

NULL = "no pre-training"
SEEDS = (0, 1, 2, 3)


def value(cell: dict[str, Any], seed: int) -> float:
    """Returns a value that grows with the video ratio and has noise of one size."""
    noise = np.random.default_rng([seed, int(100 * (cell[TEXT] or 0))]).normal()
    return float((2.3 if cell[VIDEO] == NULL else 10 + 20 * cell[VIDEO]) + 0.1 * noise)


def level() -> float:
    return float(np.mean([value({VIDEO: NULL, TEXT: None}, seed) for seed in SEEDS]))


def ratios(control: bool) -> SweepResults:
    cells: list[dict[str, Any]] = [{VIDEO: v, TEXT: t} for v in (0.5, 0.9) for t in (0.15, 0.75)]
    if control:
        cells.append({VIDEO: NULL, TEXT: None})
    names = {"controls": [NULL]} if control else {}
    return sweep_results(plan(seeds=SEEDS, cells=cells, **names), value)


def test_the_grid_stays_as_it_is_and_the_row_has_a_table_of_its_own() -> None:
    with_row, without = ratios(True), ratios(False)
    assert with_row.plan.axes == without.plan.axes, "its name is no value of an axis"
    first, second = grid(with_row)
    (alone,) = grid(without)
    assert (first.columns, first.rows) == (alone.columns, alone.rows)
    assert [cell.text for cell in second.rows[0]] == [NULL, f"{level():.1f}", "4"]
    assert second.rows[0][1].rank == 0, "it is not ranked with the cells of the grid"


def test_the_effects_of_the_grid_do_not_mix_with_it() -> None:
    assert effects(ratios(True)) == effects(ratios(False)) != ()


def test_it_is_compared_and_named_without_an_axis() -> None:
    sweep = ratios(True)
    (one,) = (found for found in compare(sweep) if sweep.plan.is_control(found.cell))
    assert sentence(sweep, one).startswith(f"{NULL} ")
    assert one.seeds.mean == pytest.approx(
        level() - np.mean([value({VIDEO: 0.9, TEXT: 0.75}, s) for s in SEEDS])
    )


def test_figures_show_it_as_a_level_and_not_as_a_point() -> None:
    sweep = ratios(True)
    along, lines = sweep.plan.axes[1], sweep.plan.axes[0]
    assert [line.label for line in lines_of(sweep, along, lines)] == ["0.5", "0.9"]
    assert all(len(line.positions) == 2 for line in lines_of(sweep, along, lines))
    levels = sweep.levels(*sweep.plan.column)
    assert {name: list(cells.values()) for name, cells in levels.items()} == {
        NULL: [pytest.approx(level())]
    }
    figure = heat_map(sweep)
    ticks = [tick.get_text() for tick in figure.axes[0].get_yticklabels()]
    assert ticks == ["0.9", "0.5"]


@pytest.mark.parametrize(
    "part", ["tables", "comparisons", "costs", "published", "plots", "verdict"]
)
def test_every_part_of_the_report_can_be_made(part: str) -> None:
    sweep = ratios(True)
    made = getattr(report_type_of(sweep.plan), part)(sweep)
    assert made
    if part == "plots":
        for plot in made:
            assert plot.draw(sweep).axes


def test_a_fraction_of_the_data_has_it_as_a_row() -> None:
    key = "data.fraction"
    axes = [{"key": key, "label": "fraction", "values": [0.1, 1.0]}]
    cells: list[dict[str, Any]] = [{key: 0.1}, {key: 1.0}, {key: NULL}]
    changes = {"ablation": "data_fraction", "published_optimum": None, "controls": [NULL]}
    sweep = sweep_results(
        plan(axes=axes, cells=cells, seeds=SEEDS, **changes),
        lambda cell, seed: (1.0 if cell[key] == NULL else 5 + cell[key]) + 0.1 * seed,
    )
    (table,) = report_type_of(sweep.plan).tables(sweep)
    assert [row[0].text for row in table.rows] == [NULL, "10 %", "100 %"]
