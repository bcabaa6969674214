"""Draws a metric along one axis, with a line for each value of the other.

A missing cell leaves a gap: no line is drawn over it.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import seaborn as sns
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, NullLocator

from reports.figures.dots import dot_plot
from reports.figures.marks import (
    CellMark,
    Dodge,
    baseline_line,
    cell_marks,
    draw_cell,
    interval_words,
    lowest_end,
)
from reports.figures.style import (
    INK,
    MARKERS,
    Plot,
    add_legend,
    baseline_lines,
    is_narrow,
    legend_height,
    letters,
    line_width,
    palette,
    spread_words,
    text_width,
    turn,
)
from reports.output.escaping import file_stem
from reports.output.metric_formats import Metric, metric_of
from reports.output.tables import chance_text, levels_text
from reports.study.report_plan import PlannedAxis
from reports.study.sweep_results import SweepResults

# Chance is left off the axis if all values are CLEAR times better and chance is further away than
# FAR times their range.
CLEAR, FAR = 10.0, 2.5
# Least span of an axis without chance (points, ranks): a tenth of a point must not fill the page.
LEAST_SPAN = 2.0
FALLBACK_SPAN = 1.0


@dataclass(frozen=True)
class CurveLine:
    """One line of a curve.

    Attributes:
        positions: of the planned cells on the axis.
        marks: of each position; None if a planned cell has no value.
    """

    label: str
    positions: tuple[float, ...]
    marks: tuple[CellMark | None, ...]

    @property
    def means(self) -> list[float]:
        """The means; NaN for a missing cell, where matplotlib interrupts the line."""
        return [mark.mean if mark else np.nan for mark in self.marks]


def curve_plots(sweep: SweepResults) -> list[Plot]:
    """Returns a curve along each axis with two or more measured values, for up to two axes.

    Of a single axis of names the cells are drawn one below the other.
    """
    plan = sweep.plan
    if len(plan.axes) == 1 and not plan.axes[0].numeric:
        return dot_plot(sweep, f"curve_{file_stem(plan.axes[0].short)}")
    plots = []
    for number, along in enumerate(plan.axes if len(plan.axes) <= 2 else ()):
        lines = plan.axes[1 - number] if len(plan.axes) == 2 else None
        gridded = (cell for cell in plan.cells if not plan.is_control(cell))
        measured = {cell[number] for cell in gridded if sweep.values(cell, *plan.column)}
        plots += [_curve_plot(sweep, along, lines)] if len(measured) > 1 else []
    return plots


def _curve_plot(sweep: SweepResults, along: PlannedAxis, lines: PlannedAxis | None) -> Plot:
    each = f", a line for each {lines.label}" if lines else ""
    title = f"{sweep.plan.metric_label} over {along.label}{each}{spread_words(sweep)}."
    chance = chance_text(sweep)
    if chance:
        chance = f"Dashed: chance ({chance}); the legend says if it lies outside the axis."
    others = f"Dash-dotted: {'; '.join(levels_text(sweep))}." if levels_text(sweep) else ""
    optimum = _optimum_on(sweep, along)
    dotted = (
        f"Dotted: {along.label} of the published optimum ({along.text(optimum)})."
        if optimum in along.values
        else ""
    )
    missing = any(None in line.marks for line in lines_of(sweep, along, lines))
    log = "Logarithmic axis." if along.logarithmic else ""
    gap = (
        "A line is interrupted where a planned cell has no figure."
        if missing and along.numeric
        else ""
    )
    return Plot(
        f"curve_{file_stem(along.short)}",
        title,
        tuple(filter(None, (log, gap, *interval_words(sweep), chance, others, dotted))),
        partial(curve, along=along, lines=lines),
    )


def curve(sweep: SweepResults, along: PlannedAxis, lines: PlannedAxis | None) -> Figure:
    """Draws the plan's metric along one axis, with a line for each value of the other.

    Lines are moved apart a little where they share positions; chance is dashed.
    """
    made = [line for line in lines_of(sweep, along, lines) if any(line.marks)]
    figure = Figure(layout="constrained")
    axes = figure.subplots()
    style = "-" if along.numeric else "none"
    if along.logarithmic:
        axes.set_xscale("log")
    positions = sorted({position for line in made for position in line.positions})
    dodge = _ticks(axes, along, positions, len(made))
    handles: list[Artist] = []
    for number, (line, color) in enumerate(zip(made, palette(len(made)), strict=True)):
        places = [dodge.place(position, number) for position in line.positions]
        marker = MARKERS[number % len(MARKERS)]
        handles.append(_draw(axes, line, places, color, marker, style))
    axes.set(xlabel=along.label, ylabel=sweep.plan.metric_label)
    handles = handles if lines is not None else []
    handles += baseline_line(sweep, axes.axhline)
    handles += _optimum_line(sweep, axes, along)
    handles += _guess_lines(sweep, axes, _all_values(sweep))
    title = lines.label if lines is not None else None
    add_legend(figure, handles, title)
    axes.grid(axis="y", color="#e6e6e6", linewidth=0.6)
    axes.set_axisbelow(True)
    sns.despine(ax=axes)
    labels = [str(handle.get_label()) for handle in handles]
    figure.set_size_inches(line_width(), _height(along, labels, title))
    return figure


def lines_of(sweep: SweepResults, along: PlannedAxis, lines: PlannedAxis | None) -> list[CurveLine]:
    """Returns the lines of a curve; cells that were not planned leave no gap."""
    keys = [axis.key for axis in sweep.plan.axes]
    cells = {cell: dict(zip(keys, cell, strict=True)) for cell in sweep.plan.cells}
    found, made = cell_marks(sweep), []
    for value in lines.values if lines else (None,):
        own = {
            named[along.key]: cell
            for cell, named in cells.items()
            if lines is None or named[lines.key] == value
        }
        used = [x for x in along.values if x in own]
        made.append(
            CurveLine(
                lines.text(value) if lines else "",
                tuple(_position(along, x) for x in used),
                tuple(found.get(own[x]) for x in used),
            )
        )
    return made


def _position(along: PlannedAxis, value: Any) -> float:
    return float(value) if along.numeric else float(along.values.index(value))


def _draw(
    axes: Axes, line: CurveLine, places: list[float], color: Any, marker: str, linestyle: str
) -> Line2D:
    """Draws a line through its cells and returns its entry for the legend."""
    style: dict[str, Any] = {"color": color, "linewidth": 1.4, "linestyle": linestyle}
    axes.plot(places, line.means, **style)
    for place, mark in zip(places, line.marks, strict=True):
        if mark is not None:
            draw_cell(axes, place, mark, {"color": color, "marker": marker})
    edge: dict[str, Any] = {"markeredgecolor": "white", "markeredgewidth": 0.6, "markersize": 5.5}
    return Line2D([], [], label=line.label, marker=marker, **style, **edge)


def _all_values(sweep: SweepResults) -> list[float]:
    return [
        value
        for cell in sweep.plan.cells
        for value in sweep.values(cell, *sweep.plan.column).values()
    ]


def _height(along: PlannedAxis, labels: list[str], title: str | None) -> float:
    """Returns the height in inches.

    It grows with the entries of the legend and with long names below the axis, so that the axes
    keep their height.
    """
    longest = max(len(along.text(value)) for value in along.values)
    names = 0.0 if along.numeric else 0.7 * text_width(longest)  # turned by 45 degrees
    if is_narrow():
        return 2.1 + names + legend_height(labels, title)
    entries = sum(label.count("\n") + 1 for label in labels) + (title is not None)
    return max(2.9, 0.5 + 1.5 * entries * letters(0.5) / 72, 2.3 + names)


def _optimum_on(sweep: SweepResults, along: PlannedAxis) -> Any:
    """Returns the published optimum's value on this axis; None if the paper names none."""
    optimum = sweep.plan.published_optimum
    return sweep.plan.settings(optimum)[along.key] if optimum else None


def _optimum_line(sweep: SweepResults, axes: Axes, along: PlannedAxis) -> list[Line2D]:
    """Draws a dotted line at the published optimum, if that lies on the axis."""
    optimum = _optimum_on(sweep, along)
    if optimum not in along.values:
        return []
    style: dict[str, Any] = {"linestyle": ":", "color": INK, "linewidth": 1.0}
    axes.axvline(_position(along, optimum), zorder=0, **style)
    return [Line2D([], [], **style, label="published\noptimum")]


def _guess_lines(sweep: SweepResults, axes: Axes, values: list[float]) -> list[Line2D]:
    """Draws the level of chance, dashed, and that of each baseline."""
    _, name = sweep.plan.column
    metric = metric_of(name)
    axes.margins(y=0.1)
    result = sweep.headline
    chance = result.chance.get(name) if result else None
    # Drawn before chance, which may move the axis: the baselines must lie on it.
    baselines = baseline_lines(sweep, axes.axhline, axes.axhspan)
    if chance is None:
        return baselines
    values = [*values, *_baseline_values(sweep)]
    return [*_chance_line(sweep, axes, metric, chance, values), *baselines]


def _baseline_values(sweep: SweepResults) -> list[float]:
    return [
        value for cells in sweep.levels(*sweep.plan.column).values() for value in cells.values()
    ]


def _chance_line(
    sweep: SweepResults, axes: Axes, metric: Metric, chance: float, values: list[float]
) -> list[Line2D]:
    """Draws the level of chance as a dashed line.

    If the values are far from it, the axis shows where they differ, and the legend says so.
    """
    low, high = min(values), max(values)
    # Only values that are clearly better than guessing are enlarged; otherwise differences within
    # the noise of chance would look large.
    far = low > CLEAR * chance if metric.higher_is_better else high < chance / CLEAR
    far = far and abs((low if low > chance else high) - chance) > FAR * max(high - low, LEAST_SPAN)
    label = f"chance\n({chance_text(sweep)})"
    style: dict[str, Any] = {"linestyle": (0, (4, 3)), "color": "#777777", "linewidth": 1.0}
    if far:
        bottom, top = axes.get_ylim()
        missing = max(0.0, LEAST_SPAN - (top - bottom)) / 2
        axes.set_ylim(bottom - missing, top + missing)
        side = "below" if chance < low else "above"
        return [Line2D([], [], **style, label=f"{label}\n{side} the axis")]
    axes.axhline(chance, zorder=0, **style)
    if metric.higher_is_better:
        axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0] if lowest_end(sweep) < 0 else 0.0))
    return [Line2D([], [], **style, label=label)]


def _ticks(axes: Axes, along: PlannedAxis, positions: list[float], lines: int) -> Dodge:
    """Sets ticks where cells were planned; labels that would touch are turned.

    Returns:
        How so many lines are moved apart at these positions.
    """
    labels = [along.text(x if along.numeric else along.values[int(x)]) for x in positions]
    seen = [float(np.log10(x)) for x in positions] if along.logarithmic else positions
    wide = line_width() - (0.9 if is_narrow() else 2.2)  # inches that ticks and legend leave
    span = (seen[-1] - seen[0]) or FALLBACK_SPAN
    closest = min((b - a for a, b in itertools.pairwise(seen)), default=span)
    room = wide * closest / span if along.numeric else wide / len(positions)
    axes.xaxis.set_major_locator(FixedLocator(positions))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks(positions, labels, **turn(labels, room))
    axes.margins(x=0.06 if along.numeric else 0.15)
    return Dodge(lines, room, span / wide, along.logarithmic)
