"""A metric along one axis, a line for each value of the other. A cell that is missing leaves a gap:
no line is drawn over it.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, NullLocator

from reports.figures.style import (
    INK,
    MARKERS,
    WIDTH,
    Plot,
    baseline_lines,
    palette,
    spread_words,
    text_width,
    turn,
)
from reports.output.metric_formats import Metric, metric_of
from reports.output.tables import baselines_text, chance_text
from reports.statistics.seed_statistics import Summary
from reports.study.collect import Study
from reports.study.report_plan import Axis

# Chance is left off the axis of curves where all figures are so many times better, and further away
# than so many times their range
_CLEAR, _FAR = 10.0, 2.5
# of an axis without chance (points, ranks), so that a tenth of a point does not fill the page
_LEAST_SPAN = 2.0
_FALLBACK_SPAN = 1.0


@dataclass(frozen=True)
class Line:
    """One line of a curve: a summary, or None where a planned cell has no figure, for each planned
    place.
    """

    label: str
    places: tuple[float, ...]
    summaries: tuple[Summary | None, ...]

    @property
    def means(self) -> list[float]:
        """NaN for a missing cell, where matplotlib interrupts the line."""
        return [summary.mean if summary else np.nan for summary in self.summaries]


def curve_plots(study: Study) -> list[Plot]:
    """A curve along each axis where two or more values were measured; for one axis or two."""
    plan = study.plan
    plots = []
    for number, along in enumerate(plan.axes if len(plan.axes) <= 2 else ()):
        lines = plan.axes[1 - number] if len(plan.axes) == 2 else None
        measured = {cell[number] for cell in plan.cells if study.values(cell, *plan.column)}
        plots += [_curve_plot(study, along, lines)] if len(measured) > 1 else []
    return plots


def _curve_plot(study: Study, along: Axis, lines: Axis | None) -> Plot:
    each = f", a line for each {lines.label}" if lines else ""
    title = f"{study.plan.metric_label} over {along.label}{each}{spread_words(study)}."
    chance = (
        f"Dashed: chance ({chance_text(study)}); the legend says if it lies outside the axis."
        if chance_text(study)
        else ""
    )
    others = f"Dash-dotted: {'; '.join(baselines_text(study))}." if baselines_text(study) else ""
    optimum = _optimum_on(study, along)
    dotted = (
        f"Dotted: {along.label} of the published optimum ({along.text(optimum)})."
        if optimum in along.values
        else ""
    )
    missing = any(None in line.summaries for line in lines_of(study, along, lines))
    log = "Logarithmic axis." if along.logarithmic else ""
    gap = (
        "A line is interrupted where a planned cell has no figure."
        if missing and along.numeric
        else ""
    )
    return Plot(
        f"curve_{along.short}",
        title,
        tuple(filter(None, (log, gap, chance, others, dotted))),
        partial(curve, along=along, lines=lines),
    )


def curve(study: Study, along: Axis, lines: Axis | None) -> Figure:
    """The plan's metric along one axis, a line for each value of the other; bars are one standard
    deviation, chance is dashed.
    """
    made = [line for line in lines_of(study, along, lines) if any(line.summaries)]
    figure = Figure(
        figsize=(WIDTH, _height(along, len(made), len(study.baselines(*study.plan.column)))),
        layout="constrained",
    )
    axes = figure.subplots()
    style = "-" if along.numeric else "none"
    if along.logarithmic:
        axes.set_xscale("log")
    handles = [
        _draw(axes, *drawn, style)
        for drawn in zip(made, palette(len(made)), itertools.cycle(MARKERS), strict=False)
    ]
    axes.set(xlabel=along.label, ylabel=study.plan.metric_label)
    _ticks(axes, along, sorted({place for line in made for place in line.places}))
    handles = handles if lines is not None else []
    handles += _optimum_line(study, axes, along)
    handles += _guess_lines(study, axes, _all_values(study))
    if handles:  # beside the axes, where it covers nothing
        title = lines.label if lines is not None else None
        figure.legend(
            handles=handles, title=title, loc="outside right upper", frameon=False, alignment="left"
        )
    axes.grid(axis="y", color="#e6e6e6", linewidth=0.6)
    axes.set_axisbelow(True)
    sns.despine(ax=axes)
    return figure


def lines_of(study: Study, along: Axis, lines: Axis | None) -> list[Line]:
    """What is drawn, by line; cells that were not planned are no gap."""
    keys = [axis.key for axis in study.plan.axes]
    cells = {cell: dict(zip(keys, cell, strict=True)) for cell in study.plan.cells}
    made = []
    for value in lines.values if lines else (None,):
        own = {
            named[along.key]: cell
            for cell, named in cells.items()
            if lines is None or named[lines.key] == value
        }
        used = [x for x in along.values if x in own]
        summaries = tuple(study.summary(own[x], *study.plan.column) for x in used)
        made.append(
            Line(
                lines.text(value) if lines else "", tuple(_place(along, x) for x in used), summaries
            )
        )
    return made


def _place(along: Axis, value: Any) -> float:
    return float(value) if along.numeric else float(along.values.index(value))


def _draw(axes: Axes, line: Line, color: Any, marker: str, linestyle: str) -> Line2D:
    """Draws a line with its error bars; returns its entry for the legend."""
    style = {
        "color": color, "marker": marker, "markeredgecolor": "white", "markeredgewidth": 0.6, "linewidth": 1.4, "linestyle": linestyle
    }  # fmt: skip
    axes.plot(line.places, line.means, markersize=6, **style)
    spread = [
        (x, s.mean, s.std)
        for x, s in zip(line.places, line.summaries, strict=True)
        if s is not None and s.std is not None
    ]
    if spread:
        x, y, deviation = zip(*spread, strict=True)
        axes.errorbar(x, y, yerr=deviation, fmt="none", ecolor=color, elinewidth=1.0, capsize=2.5)
    return Line2D([], [], label=line.label, markersize=5.5, **style)


def _all_values(study: Study) -> list[float]:
    return [
        value
        for cell in study.plan.cells
        for value in study.values(cell, *study.plan.column).values()
    ]


def _height(along: Axis, lines: int, baselines: int) -> float:
    """Inches: more where the legend has many entries or the names below the axis are long, so that
    the axes keep their height.
    """
    longest = max(len(along.text(value)) for value in along.values)
    below = 0.0 if along.numeric else 0.7 * text_width(longest)  # turned by 45 degrees
    return max(2.9, 1.4 + 0.175 * lines + 0.35 * baselines, 2.3 + below)


def _optimum_on(study: Study, along: Axis) -> Any:
    """The published optimum's value on this axis; None if the paper names none."""
    return dict(
        zip(
            (axis.key for axis in study.plan.axes), study.plan.published_optimum or (), strict=False
        )
    ).get(along.key)


def _optimum_line(study: Study, axes: Axes, along: Axis) -> list[Line2D]:
    """A dotted line where the paper found the optimum, if that lies on the axis."""
    optimum = _optimum_on(study, along)
    if optimum not in along.values:
        return []
    style: dict[str, Any] = {"linestyle": ":", "color": INK, "linewidth": 1.0}
    axes.axvline(_place(along, optimum), zorder=0, **style)
    return [Line2D([], [], **style, label="published\noptimum")]


def _guess_lines(study: Study, axes: Axes, values: list[float]) -> list[Line2D]:
    """What guessing gives, as a dashed line, and what each baseline gives."""
    key, name = study.plan.column
    metric = metric_of(name)
    axes.margins(y=0.1)
    result = study.example(key)
    chance = result.chance.get(name) if result else None
    # before chance, which may move the axis: the baselines are to lie on it
    beside = baseline_lines(study, axes.axhline, axes.axhspan)
    if chance is None:
        return beside
    return [
        *_chance_line(study, axes, metric, chance, [*values, *_baseline_values(study)]),
        *beside,
    ]


def _baseline_values(study: Study) -> list[float]:
    return [
        value for cells in study.baselines(*study.plan.column).values() for value in cells.values()
    ]


def _chance_line(
    study: Study, axes: Axes, metric: Metric, chance: float, values: list[float]
) -> list[Line2D]:
    """What guessing gives, as a dashed line. Far from it, the axis shows where the figures differ,
    and the legend says so.
    """
    low, high = min(values), max(values)
    # only what is clearly no guessing may be enlarged, or differences within noise of chance would
    # look large
    far = low > _CLEAR * chance if metric.higher_is_better else high < chance / _CLEAR
    far = far and abs((low if low > chance else high) - chance) > _FAR * max(
        high - low, _LEAST_SPAN
    )
    label = f"chance\n({chance_text(study)})"
    style: dict[str, Any] = {"linestyle": (0, (4, 3)), "color": "#777777", "linewidth": 1.0}
    if far:
        bottom, top = axes.get_ylim()
        missing = max(0.0, _LEAST_SPAN - (top - bottom)) / 2
        axes.set_ylim(bottom - missing, top + missing)
        side = "below" if chance < low else "above"
        return [Line2D([], [], **style, label=f"{label}\n{side} the axis")]
    axes.axhline(chance, zorder=0, **style)
    if metric.higher_is_better:
        axes.set_ylim(bottom=min(0.0, chance))
    return [Line2D([], [], **style, label=label)]


def _ticks(axes: Axes, along: Axis, places: list[float]) -> None:
    """Ticks where something was planned; labels that would touch are turned."""
    labels = [along.text(x if along.numeric else along.values[int(x)]) for x in places]
    seen = [float(np.log10(x)) for x in places] if along.logarithmic else places
    wide = WIDTH - 2.2  # inches, beside the legend
    span = (seen[-1] - seen[0]) or _FALLBACK_SPAN
    closest = min((b - a for a, b in itertools.pairwise(seen)), default=span)
    axes.xaxis.set_major_locator(FixedLocator(places))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks(
        places,
        labels,
        **turn(labels, wide * closest / span if along.numeric else wide / len(places)),
    )
    axes.margins(x=0.06 if along.numeric else 0.15)
