"""Report on sets of losses: a tick for each loss that is on, and the scores in one column."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from reports.figures.style import WIDTH, Plot, baseline_lines, spread_words
from reports.kinds.report_type import ReportType, grid_plots
from reports.output.layout import DAGGER, TICK, Cell, Column, Table
from reports.output.metric_formats import metric_of
from reports.output.tables import (
    baselines_text,
    chance_text,
    headline,
    headline_table,
    seed_count,
    value_cells,
)
from reports.study.report_plan import CellValues
from reports.study.sweep_results import SweepResults

# One part of a name: `MVM`, or with a weight `0.5 VTC`, `VTC×0.5`, `VTC=0.5`.
PART = re.compile(
    r"(?:(?P<before>[\d.]+)\s*[×x*]?\s*)?(?P<loss>[A-Za-z]+)(?:\s*[×x*=:]\s*(?P<after>[\d.]+))?"
)


# Rows without a set of losses, or with more than the set.
CONTROLS = ("none", "text only", "shuffled pairs")


def parts(name: str) -> dict[str, str] | None:
    """Returns {loss: tick or weight} of `MVM+MLM+0.5 VTC`; None for a name of another form."""
    if name in CONTROLS:
        return {}
    found: dict[str, str] = {}
    for part in name.split("+"):
        match = PART.fullmatch(part.strip())
        if match is None:
            return None
        found[match["loss"].upper()] = match["before"] or match["after"] or TICK
    return found


def tables(sweep: SweepResults) -> tuple[Table, ...]:
    """Lays out a column for each loss; other names, or several axes, get the table of a grid."""
    plan = sweep.plan
    weights = {cell: parts(_name(sweep, cell)) for cell in plan.cells}
    if len(plan.axes) != 1 or None in weights.values() or not any(weights.values()):
        return headline(sweep)
    names = list(dict.fromkeys(loss for on in weights.values() for loss in on or ()))
    controls = [cell for cell in plan.cells if not weights[cell]]
    columns = [
        *([Column("control", is_label=True)] if controls else []),
        *(Column(name, is_label=True) for name in names),
        Column(plan.metric_label),
        Column("n"),
    ]
    made = value_cells(sweep, plan.cells, *plan.column)
    rows = []
    for cell, value in zip(plan.cells, made, strict=True):
        ticks = [Cell((weights[cell] or {}).get(name, "")) for name in names]
        if controls:
            ticks.insert(0, Cell(_name(sweep, cell) if cell in controls else ""))
        count = seed_count(sweep, cell, len(sweep.values(cell, *plan.column)))
        rows.append((*ticks, value, count))
    return (headline_table(sweep, columns, rows),)


def plots(sweep: SweepResults) -> list[Plot]:
    """Returns a figure with a line for each set: their names are too long for ticks below."""
    plan = sweep.plan
    if len(plan.axes) != 1:
        return grid_plots(sweep)
    measured = sum(bool(sweep.values(cell, *plan.column)) for cell in plan.cells)
    if measured < 2:
        return []
    reading = []
    if chance_text(sweep):
        reading.append(f"Dashed: chance ({chance_text(sweep)}).")
    if baselines_text(sweep):
        reading.append(f"Dash-dotted: {'; '.join(baselines_text(sweep))}.")
    if plan.published_optimum in plan.cells:
        reading.append(f"{DAGGER}: the published optimum.")
    if measured < len(plan.cells):
        reading.append("A line without a dot: planned, no figure from a finished run.")
    title = f"{plan.metric_label} of each set of losses{spread_words(sweep)}."
    return [Plot("losses", title, tuple(reading), dots)]


def dots(sweep: SweepResults) -> Figure:
    """Draws a dot with one standard deviation for each set, the first of the plan on top."""
    plan = sweep.plan
    key, name = plan.column
    summaries = [sweep.summary(cell, key, name) for cell in plan.cells]
    positions = np.arange(len(summaries))[::-1]
    color = sns.color_palette("colorblind")[0]
    in_legend = math.ceil(len(sweep.baselines(key, name)) / 2)
    height = 0.9 + 0.24 * len(summaries) + 0.22 * in_legend
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    axes = figure.subplots()
    for position, summary in zip(positions, summaries, strict=True):
        if summary is not None:
            axes.errorbar(
                summary.mean,
                position,
                xerr=summary.std,
                fmt="o",
                color=color,
                markersize=6,
                markeredgecolor="white",
                elinewidth=1.0,
                capsize=2.5,
            )
    names = [
        f"{_name(sweep, cell)}{DAGGER if cell == plan.published_optimum else ''}"
        for cell in plan.cells
    ]
    axes.set_yticks(positions, names)
    axes.set(xlabel=plan.metric_label, ylim=(-0.6, len(summaries) - 0.4))
    axes.grid(axis="both", color="#e6e6e6", linewidth=0.6)
    axes.set_axisbelow(True)
    handles = _level_lines(sweep, axes)
    if handles:
        columns = min(2, len(handles))
        figure.legend(handles=handles, loc="outside lower right", ncols=columns, frameon=False)
    axes.tick_params(axis="y", length=0)
    sns.despine(ax=axes, left=True)
    return figure


def _level_lines(sweep: SweepResults, axes: Axes) -> list[Line2D]:
    """Draws the levels of chance and of baselines; returns the entries of the legend."""
    _, name = sweep.plan.column
    handles = baseline_lines(sweep, axes.axvline, axes.axvspan, between=" ")
    chance = sweep.headline.chance.get(name) if sweep.headline else None
    if chance is None:
        return handles
    style: dict[str, Any] = {"linestyle": (0, (4, 3)), "color": "#777777", "linewidth": 1.0}
    axes.axvline(chance, zorder=0, **style)
    if metric_of(name).higher_is_better:
        axes.set_xlim(left=min(0.0, chance))
    return [Line2D([], [], **style, label=f"chance ({chance_text(sweep)})"), *handles]


def _name(sweep: SweepResults, cell: CellValues) -> str:
    return sweep.plan.axes[0].text(cell[0])


REPORT_TYPE = ReportType(tables=tables, plots=plots)
