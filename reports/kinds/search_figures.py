"""Draws a search: the Pareto front, the best value so far, and quality over each parameter."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullLocator

from reports.figures.style import INK, PALE, Plot, is_narrow, letters, line_width
from reports.kinds.search_trials import (
    TrialResult,
    best_first,
    objectives_of,
    pareto_front,
    trials_of,
)
from reports.study.report_plan import PlannedAxis
from reports.study.sweep_results import SweepResults

ACCENT = "#d55e00"  # the best trial, as in the heat map
MAIN = sns.color_palette("colorblind")[0]
COLUMNS = 3  # panels in a row
LOG_FROM = 20.0  # ratio of the largest to the smallest cost from which the axis is logarithmic
GRID: dict[str, Any] = {"color": "#e6e6e6", "linewidth": 0.6}
POINTS: dict[str, Any] = {"color": PALE, "markersize": 4.5, "markeredgewidth": 0}
STATE_MARKERS = ("x", "+", "1", "2", "3", "4", "|", "_")


def search_plots(sweep: SweepResults) -> list[Plot]:
    """Returns the figures for which there are enough finished trials."""
    trials, objectives = trials_of(sweep), objectives_of(sweep)
    ranked = best_first(trials, objectives[0])
    if len(ranked) < 2:
        return []
    quality = objectives[0].label
    best = f"Orange: trial {ranked[0].number}, the best by {quality}."
    once = "Each trial ran once."
    plots = []
    if len(objectives) == 2:
        complete = sum(trial.complete for trial in trials)
        title = f"{quality} against {objectives[1].label} of {complete} finished trials."
        front = "Dark, joined by steps: the Pareto front; pale: trials that another beats in both."
        plots.append(Plot("pareto", title, (front, best, once), pareto))
    title = f"{quality} of each trial in the order in which they were proposed."
    reading = ["Line: the best so far.", best]
    if len(ranked) < len(trials):
        reading.append("Crosses at the foot: trials without a figure, by the reason.")
    plots.append(Plot("history", title, tuple(reading), history))
    panels = [axis.label for axis in varied(sweep, ranked)]
    if panels:
        title = f"{quality} over {_listed(panels)}."
        plots.append(Plot("slices", title, ("Darker: later trials.", best, once), slices))
    return plots


def pareto(sweep: SweepResults) -> Figure:
    """Draws quality over cost."""
    trials, objectives = trials_of(sweep), objectives_of(sweep)
    quality, cost = objectives
    complete = [trial for trial in trials if trial.complete]
    front = sorted(pareto_front(trials, objectives), key=lambda trial: (trial.cost, trial.quality))
    best = best_first(complete, quality)[0]
    figure = Figure(figsize=(line_width(), 3.1), layout="constrained")
    axes = figure.subplots()
    beaten = [trial for trial in complete if trial not in front]
    costs, qualities = [t.cost for t in beaten], [t.quality for t in beaten]
    axes.plot(costs, qualities, "o", alpha=0.55, **POINTS)
    axes.plot(
        [trial.cost for trial in front],
        [trial.quality for trial in front],
        "-o",
        color=MAIN,
        markersize=6,
        markeredgecolor="white",
        markeredgewidth=0.6,
        linewidth=1.2,
        drawstyle="steps-pre" if cost.maximise else "steps-post",
        zorder=3,
    )
    _star(axes, best.cost, best.quality)
    axes.set(xlabel=cost.label, ylabel=quality.label)
    costs = [trial.cost for trial in complete]
    if min(costs) > 0 and max(costs) / min(costs) > LOG_FROM:
        _log_axis(axes)
    axes.margins(x=0.08, y=0.12)
    entries = [
        _dot(PALE, f"beaten ({len(beaten)})"),
        _dot(MAIN, f"Pareto front ({len(front)})", joined=True),
        _best_handle(best),
    ]
    _below(figure, entries if beaten else entries[1:])
    _finish(axes)
    return figure


def history(sweep: SweepResults) -> Figure:
    """Draws quality over the number of the trial."""
    trials, quality = trials_of(sweep), objectives_of(sweep)[0]
    measured = [trial for trial in trials if trial.values[0] is not None]
    best = best_first(trials, quality)[0]
    better = max if quality.maximise else min
    so_far: list[float] = []
    for trial in measured:
        so_far.append(better([*so_far[-1:], trial.quality]))
    figure = Figure(figsize=(line_width(), 2.9), layout="constrained")
    axes = figure.subplots()
    numbers = [trial.number for trial in measured]
    axes.plot(numbers, [trial.quality for trial in measured], "o", **POINTS)
    axes.step(
        [*numbers, len(trials) - 1],
        [*so_far, so_far[-1]],
        where="post",
        color=MAIN,
        linewidth=1.4,
    )
    _star(axes, best.number, best.quality)
    axes.set(xlabel="trial", ylabel=quality.label)
    axes.margins(x=0.03, y=0.12)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    entries = [
        _dot(PALE, "trial"),
        Line2D([], [], color=MAIN, linewidth=1.4, label="best so far"),
        _best_handle(best),
        *_unmeasured(axes, trials),
    ]
    _below(figure, entries)
    _finish(axes)
    return figure


def _unmeasured(axes: Axes, trials: Sequence[TrialResult]) -> list[Line2D]:
    """Marks trials without a value at the foot, by state; returns the entries of the legend."""
    by_state: dict[str, list[int]] = {}
    for trial in trials:
        if trial.values[0] is None:
            by_state.setdefault(trial.state, []).append(trial.number)
    entries = []
    for (state, numbers), marker in zip(sorted(by_state.items()), STATE_MARKERS, strict=False):
        style: dict[str, Any] = {
            "linestyle": "none",
            "marker": marker,
            "color": INK,
            "markersize": 4.5,
            "markeredgewidth": 0.9,
        }
        foot = [0.025] * len(numbers)
        axes.plot(numbers, foot, transform=axes.get_xaxis_transform(), clip_on=False, **style)
        entries.append(Line2D([], [], **style, label=f"{state} ({len(numbers)})"))
    return entries


def varied(sweep: SweepResults, trials: Sequence[TrialResult]) -> list[PlannedAxis]:
    """Returns the parameters of which these trials have more than one value."""
    return [
        axis
        for number, axis in enumerate(sweep.plan.axes)
        if len({trial.cell[number] for trial in trials} - {None}) > 1
    ]


def slices(sweep: SweepResults) -> Figure:
    """Draws a panel for each parameter that was varied, with quality over its values."""
    objective = objectives_of(sweep)[0]
    ranked = best_first(trials_of(sweep), objective)
    shown = varied(sweep, ranked)
    columns = 2 if len(shown) == 4 or is_narrow() else min(COLUMNS, len(shown))
    columns = min(columns, len(shown))
    rows = math.ceil(len(shown) / columns)
    figure = Figure(figsize=(line_width(), 0.35 + 1.75 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, sharey=True, squeeze=False)
    for panel, axis in zip(grid.flat, shown, strict=False):
        _slice(panel, sweep, axis, ranked)
    for panel in list(grid.flat)[len(shown) :]:
        panel.set_visible(False)
    figure.supylabel(objective.label, fontsize=letters())
    return figure


def _slice(
    axes: Axes, sweep: SweepResults, axis: PlannedAxis, ranked: Sequence[TrialResult]
) -> None:
    number = sweep.plan.axes.index(axis)
    held = sorted(
        (trial for trial in ranked if trial.cell[number] is not None),
        key=lambda trial: trial.number,
    )
    positions = [_position(axis, trial.cell[number]) for trial in held]
    shades = sns.color_palette("crest", as_cmap=True)
    last = max(trial.number for trial in held) or 1
    axes.scatter(
        positions,
        [trial.quality for trial in held],
        c=[shades(t.number / last) for t in held],
        s=15,
        linewidths=0.3,
        edgecolors="white",
        zorder=2,
    )
    if ranked[0].cell[number] is not None:
        _star(axes, _position(axis, ranked[0].cell[number]), ranked[0].quality, size=10)
    if axis.logarithmic:
        _log_axis(axes)
    elif axis.numeric:
        axes.xaxis.set_major_locator(
            MaxNLocator(4, integer=all(isinstance(v, int) for v in axis.values))
        )
    else:
        axes.xaxis.set_major_locator(FixedLocator(range(len(axis.values))))
        axes.set_xticks(
            range(len(axis.values)),
            [axis.text(value) for value in axis.values],
            rotation=30,
            ha="right",
            rotation_mode="anchor",
        )
        axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel(axis.label, fontsize=letters(1.0), labelpad=2)
    axes.tick_params(labelsize=letters(1.5))
    axes.margins(x=0.1, y=0.12)
    _finish(axes)


def _log_axis(axes: Axes) -> None:
    """Sets few plain numbers (0.2, 0.5, 1): the default labels of a short range overlap."""
    axes.set_xscale("log")
    low, high = axes.dataLim.intervalx
    decades = math.log10(high / low) if low > 0 else 0.0
    axes.xaxis.set_major_locator(
        LogLocator(subs=(1.0, 2.0, 5.0) if decades <= 1 else (1.0, 3.0) if decades <= 2 else (1.0,))
    )
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(NullLocator())


def _position(axis: PlannedAxis, value: Any) -> float:
    return float(value) if axis.numeric else float(axis.values.index(value))


def _star(axes: Axes, x: float, y: float, size: float = 12) -> None:
    axes.plot(
        [x],
        [y],
        "*",
        color=ACCENT,
        markersize=size,
        markeredgecolor="white",
        markeredgewidth=0.6,
        zorder=5,
    )


def _best_handle(best: TrialResult) -> Line2D:
    label = f"best (trial {best.number})"
    return Line2D(
        [],
        [],
        linestyle="none",
        marker="*",
        color=ACCENT,
        markersize=10,
        markeredgecolor="white",
        markeredgewidth=0.6,
        label=label,
    )


def _dot(color: Any, label: str, joined: bool = False) -> Line2D:
    return Line2D(
        [],
        [],
        linestyle="-" if joined else "none",
        marker="o",
        color=color,
        markersize=5,
        markeredgewidth=0,
        linewidth=1.2,
        label=label,
    )


def _below(figure: Figure, entries: list[Line2D]) -> None:
    columns = len(entries) if len(entries) <= 3 else math.ceil(len(entries) / 2)
    columns = min(columns, 2) if is_narrow() else columns
    figure.legend(
        handles=entries,
        loc="outside lower center",
        ncols=columns,
        frameon=False,
        handletextpad=0.5,
        columnspacing=1.4,
    )


def _finish(axes: Axes) -> None:
    axes.grid(**GRID)
    axes.set_axisbelow(True)
    sns.despine(ax=axes)


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
