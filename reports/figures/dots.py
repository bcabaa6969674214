"""Draws named cells one below the other, so that long names stay upright and readable."""

from __future__ import annotations

from typing import Any

import numpy as np
import seaborn as sns
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from reports.figures.marks import baseline_line, cell_marks, draw_cell, interval_words, lowest_end
from reports.figures.style import (
    Plot,
    add_legend,
    baseline_lines,
    legend_height,
    letters,
    line_width,
    spread_words,
)
from reports.output.layout import DAGGER
from reports.output.metric_formats import metric_of
from reports.output.tables import baselines_text, chance_text
from reports.study.report_plan import CellValues
from reports.study.sweep_results import SweepResults

ROW = 2.0  # height of a line of cells, of the size of the letters
LEAST_AXES = 0.45  # part of the figure that the axes keep next to long names


def dot_plot(sweep: SweepResults, name: str) -> list[Plot]:
    """Returns the figure of a sweep with one axis of names; nothing for fewer than two values."""
    plan = sweep.plan
    measured = sum(bool(sweep.values(cell, *plan.column)) for cell in plan.cells)
    if measured < 2:
        return []
    reading = interval_words(sweep)
    if chance_text(sweep):
        reading.append(f"Dashed: chance ({chance_text(sweep)}).")
    if baselines_text(sweep):
        reading.append(f"Dash-dotted: {'; '.join(baselines_text(sweep))}.")
    if plan.published_optimum in plan.cells:
        reading.append(f"{DAGGER}: the published optimum.")
    if measured < len(plan.cells):
        reading.append("A line without a marker: planned, no figure from a finished run.")
    title = f"{plan.metric_label} by {plan.axes[0].label}{spread_words(sweep)}."
    return [Plot(name, title, tuple(reading), dots)]


def dots(sweep: SweepResults) -> Figure:
    """Draws a line of marks for each cell, the first of the plan on top."""
    plan, marks = sweep.plan, cell_marks(sweep)
    names = [_name(sweep, cell) for cell in plan.cells]
    positions = np.arange(len(names))[::-1]
    figure = Figure(layout="constrained")
    axes = figure.subplots()
    style = {"color": sns.color_palette("colorblind")[0], "marker": "o"}
    for position, cell in zip(positions, plan.cells, strict=True):
        if cell in marks:
            draw_cell(axes, float(position), marks[cell], style, upright=False)
    axes.set_yticks(positions, [_broken(name) for name in names])
    axes.set(xlabel=plan.metric_label, ylim=(-0.6, len(names) - 0.4))
    axes.grid(axis="both", color="#e6e6e6", linewidth=0.6)
    axes.set_axisbelow(True)
    handles: list[Artist] = [*baseline_line(sweep, axes.axvline), *_level_lines(sweep, axes)]
    add_legend(figure, handles, below=True)
    axes.tick_params(axis="y", length=0)
    sns.despine(ax=axes, left=True)
    most = max(_broken(name).count("\n") + 1 for name in names)
    rows = max(ROW, 1.25 * most + 0.5) * len(names) * letters() / 72
    height = 0.6 + rows + legend_height([str(handle.get_label()) for handle in handles])
    figure.set_size_inches(line_width(), height)
    return figure


def _name(sweep: SweepResults, cell: CellValues) -> str:
    text = ", ".join(filter(None, sweep.plan.labels(cell)))
    return f"{text}{DAGGER if cell == sweep.plan.published_optimum else ''}"


def _broken(name: str) -> str:
    """Returns a name in lines that leave the axes their part of the figure."""
    most = int((1 - LEAST_AXES) * line_width() * 72 / (0.55 * letters(0.5)))
    lines = [""]
    for word in name.split(" "):
        joined = f"{lines[-1]} {word}".strip()
        if lines[-1] and len(joined) > most:
            lines.append(word)
        else:
            lines[-1] = joined
    return "\n".join(lines)


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
        axes.set_xlim(left=min(0.0, axes.get_xlim()[0] if lowest_end(sweep) < 0 else 0.0))
    return [Line2D([], [], **style, label=f"chance ({chance_text(sweep)})"), *handles]
