"""Analyses a sweep by its design: effects of a grid, trends over numbers, rungs of a ladder.

A grid of several axes: F tests of main effects and two-way interactions, and each value of an axis
against the first, averaged over the other axes. An axis of numbers: the linear trend. A ladder:
each rung against the one below. All are contrasts of the one model of the sweep (`cell_model`).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from reports.analysis.cell_model import CellModel, Floats, f_test, simultaneous
from reports.analysis.comparisons import interval_text, method_note, p_text, signed
from reports.analysis.seed_statistics import Difference
from reports.analysis.sweep_model import grid_model
from reports.output.layout import MISSING, Cell, Column, Table
from reports.output.metric_formats import metric_of
from reports.study.report_plan import SEARCH, CellValues, PlannedAxis
from reports.study.sweep_results import SweepResults

LADDER = "fidelity"  # the ablation whose cells are a ladder
MIN_TREND = 3  # values of an axis


@dataclass(frozen=True)
class Effect:
    """One line of the analysis.

    Attributes:
        group: contrasts of one group have simultaneous intervals.
        name: the effect in words.
        difference: the contrast with its interval; None for an F test.
        test: of an F test `F(2, 12) = 4.44`; else empty.
        p_value: adjusted within the group; None if there is no test.
    """

    group: str
    name: str
    difference: Difference | None
    test: str
    p_value: float | None


def effects(sweep: SweepResults) -> tuple[Effect, ...]:
    """Returns the analysis of the plan's metric; nothing without a model or for a search."""
    if sweep.plan.kind == SEARCH:
        return ()
    fitted = grid_model(sweep)
    model = fitted.model
    if model is None or not model.equal_variances:
        return ()
    if sweep.plan.ablation == LADDER:
        return _rungs(sweep, model, fitted.cells)
    used = _used_values(sweep, fitted.cells)
    if math.prod(map(len, used)) != len(fitted.cells):
        return ()  # no full grid: effects would mix the axes
    order = [fitted.index(cell) for cell in itertools.product(*used)]
    found: list[Effect] = []
    if sum(len(values) > 1 for values in used) > 1:
        found += _f_tests(sweep, model, used, order)
        for number in range(len(used)):
            found += _levels(sweep, model, used, order, number)
    for number, axis in enumerate(sweep.plan.axes):
        if axis.numeric and len(used[number]) >= MIN_TREND:
            found.append(_trend(axis, model, used, order, number))
    return tuple(found)


def _used_values(sweep: SweepResults, cells: Sequence[CellValues]) -> list[CellValues]:
    """Returns the measured values of each axis, in the order of the axis."""
    used = []
    for number, axis in enumerate(sweep.plan.axes):
        measured = {cell[number] for cell in cells}
        used.append(tuple(value for value in axis.values if value in measured))
    return used


def _placed(weights: Floats, order: Sequence[int]) -> Floats:
    """Returns weights [contrasts, cells of the product] in the order of the model's cells."""
    placed = np.zeros_like(weights)
    placed[:, list(order)] = weights
    return placed


def _product(parts: Sequence[Floats], order: Sequence[int]) -> Floats:
    """Returns the contrasts of a grid from those of its axes."""
    weights = parts[0]
    for part in parts[1:]:
        weights = np.asarray(np.kron(weights, part), dtype=np.float64)
    return _placed(weights, order)


def _mean(count: int) -> Floats:
    return np.full((1, count), 1 / count)


def _against_first(count: int) -> Floats:
    return np.hstack([-np.ones((count - 1, 1)), np.eye(count - 1)])


def _f_tests(
    sweep: SweepResults, model: CellModel, used: Sequence[CellValues], order: Sequence[int]
) -> list[Effect]:
    """Tests main effects and two-way interactions."""
    axes = sweep.plan.axes
    varied = [number for number, values in enumerate(used) if len(values) > 1]
    subsets = [(n,) for n in varied] + list(itertools.combinations(varied, 2))
    found = []
    for subset in subsets:
        parts = [
            _against_first(len(values)) if number in subset else _mean(len(values))
            for number, values in enumerate(used)
        ]
        test = f_test(model, _product(parts, order))
        name = " × ".join(axes[number].label for number in subset)
        text = f"F({test.df}, {test.df_error:g}) = {test.statistic:.2f}"
        kind = "interaction" if len(subset) > 1 else "main effect"
        found.append(Effect("F tests", f"{kind}: {name}", None, text, test.p_value))
    return found


def _levels(
    sweep: SweepResults,
    model: CellModel,
    used: Sequence[CellValues],
    order: Sequence[int],
    number: int,
) -> list[Effect]:
    """Compares each value of an axis with the first, averaged over the other axes."""
    axis, values = sweep.plan.axes[number], used[number]
    if len(values) < 2:
        return []
    parts = [
        _against_first(len(others)) if n == number else _mean(len(others))
        for n, others in enumerate(used)
    ]
    found = simultaneous(model, _product(parts, order))
    return [
        Effect(
            axis.label,
            f"{axis.label} {axis.text(value)} against {axis.text(values[0])}",
            one,
            "",
            one.p_value,
        )
        for value, one in zip(values[1:], found, strict=True)
    ]


def _trend(
    axis: PlannedAxis,
    model: CellModel,
    used: Sequence[CellValues],
    order: Sequence[int],
    number: int,
) -> Effect:
    """Returns the change along a straight line from the lowest to the highest value."""
    values = [float(value) for value in used[number]]
    x = np.log(values) if axis.logarithmic else np.array(values)
    centred = x - x.mean()
    slope = centred / (centred**2).sum() * (x.max() - x.min())
    parts = [slope[None] if n == number else _mean(len(others)) for n, others in enumerate(used)]
    (found,) = simultaneous(model, _product(parts, order))
    scale = "logarithmic" if axis.logarithmic else "linear"
    ends = f"{axis.text(used[number][0])} to {axis.text(used[number][-1])}"
    name = f"{scale} trend of {axis.label}, {ends}"
    return Effect(f"trend of {axis.label}", name, found, "", found.p_value)


def _rungs(
    sweep: SweepResults, model: CellModel, cells: Sequence[CellValues]
) -> tuple[Effect, ...]:
    """Compares each rung of a ladder with the one below."""
    axis = sweep.plan.axes[0]
    rungs = [number for number, cell in enumerate(cells) if not str(cell[0]).startswith("only ")]
    if len(rungs) < 2:
        return ()
    weights = np.zeros((len(rungs) - 1, len(cells)))
    for row, (below, above) in enumerate(itertools.pairwise(rungs)):
        weights[row, below], weights[row, above] = -1.0, 1.0
    found = simultaneous(model, weights)
    return tuple(
        Effect(
            "rungs",
            f"{axis.text(cells[above][0])} against {axis.text(cells[below][0])}",
            one,
            "",
            one.p_value,
        )
        for (below, above), one in zip(itertools.pairwise(rungs), found, strict=True)
    )


# ---- table ---------------------------------------------------------------------------------------


def effect_tables(sweep: SweepResults) -> tuple[Table, ...]:
    """Lays out a row for each effect."""
    found = effects(sweep)
    if not found:
        return ()
    plan, metric = sweep.plan, metric_of(sweep.plan.column[1])
    columns = (
        Column("effect", is_label=True),
        Column("difference"),
        Column("95 % CI"),
        Column("test"),
        Column("p"),
    )
    rows = []
    for one in found:
        gap = one.difference
        rows.append(
            (
                Cell(one.name),
                Cell(signed(metric, gap.mean) if gap else ""),
                Cell(interval_text(metric, gap.interval) if gap else ""),
                Cell(one.test),
                Cell(MISSING if one.p_value is None else p_text(one.p_value)),
            )
        )
    notes = [
        f"Differences in {metric.label}. Intervals and p-values hold simultaneously for the "
        "contrasts of one group: the values of one axis, or the rungs of a ladder.",
        method_note(grid_model(sweep).model),
    ]
    rule = plan.until_decided
    if rule is not None:
        notes.append(f"Of the first {rule.looks[0]} seeds, which all cells have.")
    if any(one.test for one in found):
        notes.append("F tests: one for each effect, not corrected for their number.")
    caption = f"{plan.title}: {plan.metric_label}, effects by the design of the sweep."
    return (Table(f"{plan.ablation}_effects", caption, columns, tuple(rows), tuple(notes)),)


def effects_frame(sweep: SweepResults) -> pd.DataFrame:
    """Returns the effects in full precision."""
    rows = []
    for one in effects(sweep):
        low, high = one.difference.interval or (None, None) if one.difference else (None, None)
        rows.append(
            {
                "group": one.group,
                "effect": one.name,
                "difference": one.difference.mean if one.difference else None,
                "low": low,
                "high": high,
                "test": one.test,
                "p": one.p_value,
            }
        )
    return pd.DataFrame(rows)
