"""Draws a cell: its mean, every run behind it, and the interval of its difference to the baseline.

The interval is drawn from the mean of the baseline, so a bar that does not reach the line of the
baseline is a difference: the figure says what the table of comparisons says.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from reports.analysis.comparisons import compare
from reports.analysis.sweep_model import baseline_of, sweep_model
from reports.output.metric_formats import metric_of
from reports.study.report_plan import SEARCH, CellValues
from reports.study.sweep_results import SweepResults

RUN_SIZE = 2.6  # points, of the marker of a single run
MEAN_SIZE = 6.0
MOST_DODGE = 5 / 72  # inches between lines at the same position
BASELINE_STYLE: dict[str, Any] = {"color": "#b0b0b0", "linestyle": "-", "linewidth": 1.0}


@dataclass(frozen=True)
class CellMark:
    """A measured cell as it is drawn.

    Attributes:
        mean: over the seeds.
        runs: the value of each run, by seed.
        interval: simultaneous interval of the difference to the baseline plus the baseline's mean;
            None for the baseline and without a test.
    """

    mean: float
    runs: tuple[float, ...]
    interval: tuple[float, float] | None


def cell_marks(sweep: SweepResults) -> dict[CellValues, CellMark]:
    """Returns the plan's metric of each measured cell."""
    intervals = {}
    for one in compare(sweep):
        if one.seeds.interval is not None:
            low, high = one.seeds.interval
            intervals[one.cell] = (one.other.mean + low, one.other.mean + high)
    found = {}
    for cell in sweep.plan.cells:
        summary = sweep.summary(cell, *sweep.plan.column)
        if summary is not None:
            runs = tuple(sweep.values(cell, *sweep.plan.column).values())
            found[cell] = CellMark(summary.mean, runs, intervals.get(cell))
    return found


def interval_words(sweep: SweepResults) -> list[str]:
    """Returns the sentences that say how runs and bars are read; nothing for single runs."""
    found = cell_marks(sweep)
    if sweep.plan.kind == SEARCH or max((len(m.runs) for m in found.values()), default=0) < 2:
        return []
    words = ["Large marker: the mean; small points: single runs."]
    baseline = baseline_of(sweep)
    if baseline is None or not any(mark.interval for mark in found.values()):
        return words
    model = sweep_model(sweep).model
    how = "" if model is None or model.equal_variances else " (Welch, Bonferroni)"
    if sweep.plan.until_decided is not None:
        how = " (those of the stopping rule)"
    return [
        *words,
        f"Bars: simultaneous 95 % intervals{how} of the difference to the baseline "
        f"({sweep.plan.describe(baseline)}), drawn from its mean, the grey line: a bar that misses "
        "the line is a difference.",
    ]


def lowest_end(sweep: SweepResults) -> float:
    """Returns the lowest end of the bars; symmetric intervals may reach below 0."""
    return min((m.interval[0] for m in cell_marks(sweep).values() if m.interval), default=0.0)


def draw_cell(
    axes: Axes,
    position: float,
    mark: CellMark,
    style: dict[str, Any],
    *,
    upright: bool = True,
) -> None:
    """Draws one cell at a position on the axis of the cells.

    Args:
        axes: where.
        position: on the x-axis if `upright`, else on the y-axis.
        mark: what.
        style: colour and marker.
        upright: values run upwards; otherwise to the right.
    """

    def place(values: Sequence[float]) -> tuple[Sequence[float], Sequence[float]]:
        positions = [position] * len(values)
        return (positions, values) if upright else (values, positions)

    color = style["color"]
    if mark.interval is not None:
        axes.plot(*place(mark.interval), color=color, linewidth=1.1, zorder=2.5)
        tick = "_" if upright else "|"
        axes.plot(*place(mark.interval), tick, color=color, markersize=5, zorder=2.5)
    axes.plot(
        *place([mark.mean]),
        marker=style["marker"],
        color=color,
        markersize=MEAN_SIZE,
        markeredgecolor="white",
        markeredgewidth=0.6,
        linestyle="none",
        zorder=3,
    )
    if len(mark.runs) > 1:
        axes.plot(
            *place(mark.runs),
            marker="o",
            color="white",
            markeredgecolor=color,
            markeredgewidth=0.6,
            markersize=RUN_SIZE,
            linestyle="none",
            zorder=3.5,
        )


@dataclass(frozen=True)
class Dodge:
    """Moves lines that share positions on an axis a little apart.

    Attributes:
        count: number of lines.
        room: inches between the closest two positions.
        unit: length of an inch on the axis; of a logarithmic axis in powers of ten.
        logarithmic: True for a logarithmic axis.
    """

    count: int
    room: float
    unit: float
    logarithmic: bool = False

    def place(self, position: float, number: int) -> float:
        """Returns the position at which line `number`, from 0, is drawn."""
        step = min(MOST_DODGE, 0.6 * self.room / max(self.count, 1))
        shift = (number - (self.count - 1) / 2) * step * self.unit
        return position * 10**shift if self.logarithmic else position + shift


def baseline_line(sweep: SweepResults, line: Any) -> list[Line2D]:
    """Draws the mean of the baseline where cells have intervals; returns the legend's entry.

    Args:
        sweep: the results.
        line: `axhline` or `axvline` of the axes.
    """
    found, baseline = cell_marks(sweep), baseline_of(sweep)
    if baseline is None or not any(mark.interval for mark in found.values()):
        return []
    line(found[baseline].mean, zorder=0.5, **BASELINE_STYLE)
    metric = metric_of(sweep.plan.column[1])
    label = f"baseline\n({metric.label} {metric.text(found[baseline].mean)})"
    return [Line2D([], [], **BASELINE_STYLE, label=label)]
