"""Draws the score of each cell over the compute of its pre-training, with every seed."""

from __future__ import annotations

from statistics import fmean

import seaborn as sns
from matplotlib.artist import Artist
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from reports.analysis.across.crossings import (
    Curve,
    LearningCurves,
    crossings,
    learning_curves,
    score_at,
)
from reports.figures.style import (
    MARKERS,
    Plot,
    add_legend,
    is_narrow,
    legend_height,
    line_width,
    palette,
)
from reports.output.metric_formats import metric_of
from reports.study.sweep_results import SweepResults

LONG_LABEL = 20  # letters; the legend of longer names is drawn below the axes


def learning_plots(sweep: SweepResults) -> list[Plot]:
    """Returns the learning curves; none if no run was scored on its way."""
    curves = learning_curves(sweep)
    if curves is None:
        return []
    metric = metric_of(curves.metric)
    title = f"{metric.label} over the compute of the pre-training, each cell."
    reading = (
        "Thin lines: single runs; thick lines: means over the seeds, over the compute that all "
        "runs of the cell share. Zero-shot, validation split, while training.",
        "Dotted: the compute at which a cell overtakes the baseline, or is overtaken.",
    )
    return [Plot("learning_curves", title, reading, draw)]


def mean_curve_of(runs: list[Curve]) -> Curve:
    """Returns the mean of several runs, over the compute that all of them share."""
    start, end = max(run[0][0] for run in runs), min(run[-1][0] for run in runs)
    places = sorted({place for run in runs for place, _ in run if start <= place <= end})

    def mean_at(place: float) -> float:
        return fmean(score_at(run, place) for run in runs)

    return tuple((place, mean_at(place)) for place in places)


def draw(sweep: SweepResults) -> Figure:
    """Draws a thin line for each run and a thick one for each cell."""
    curves = learning_curves(sweep)
    assert curves is not None, "called for a sweep with curves"
    cells = list(curves.runs)
    labels = [", ".join(filter(None, sweep.plan.labels(cell))) for cell in cells]
    below = is_narrow() or any(len(label) > LONG_LABEL for label in labels)
    figure = Figure(layout="constrained")
    axes = figure.subplots()
    colors = dict(zip(cells, palette(len(cells)), strict=True))
    handles: list[Artist] = []
    for number, (cell, label) in enumerate(zip(cells, labels, strict=True)):
        runs, color = list(curves.runs[cell].values()), colors[cell]
        if len(runs) > 1:
            for run in runs:
                axes.plot(*zip(*run, strict=True), color=color, linewidth=0.6, alpha=0.55)
        marker = MARKERS[number % len(MARKERS)]
        mean = mean_curve_of(runs)
        if mean:
            axes.plot(*zip(*mean, strict=True), color=color, linewidth=1.8, marker=marker, ms=4)
        handles.append(Line2D([], [], color=color, linewidth=1.8, marker=marker, label=label))
    for one in crossings(sweep):
        if one.at is not None:
            axes.axvline(one.at, color=colors[one.cell], linestyle=":", linewidth=0.9, zorder=0)
    _finish(figure, curves)
    title = ", ".join(axis.label for axis in sweep.plan.axes)
    add_legend(figure, handles, title, below)
    figure.set_size_inches(line_width(), 2.2 + legend_height(labels, title) if below else 2.8)
    return figure


def _finish(figure: Figure, curves: LearningCurves) -> None:
    """Labels the axes."""
    (axes,) = figure.axes
    metric = metric_of(curves.metric)
    unit = f" ({metric.unit})" if metric.unit else ""
    axes.set(xlabel=str(curves.unit), ylabel=f"zero-shot {metric.label}{unit}")
    axes.grid(color="#e6e6e6", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.xaxis.set_major_locator(MaxNLocator(4))
    sns.despine(ax=axes)
