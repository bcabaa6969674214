"""Lays out the cost of each cell, and draws the score against it.

Costs are hours over all restarts, samples seen, size and operations of the model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import pandas as pd
import seaborn as sns
from matplotlib.artist import Artist
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from reports.analysis.across.crossings import PASSES
from reports.figures.style import (
    MARKERS,
    Plot,
    add_legend,
    is_narrow,
    legend_height,
    letters,
    line_width,
    palette,
    spread_words,
)
from reports.output.layout import MISSING, Cell, Column, Table
from reports.output.metric_formats import metric_of
from reports.study.report_plan import SEARCH, CellValues
from reports.study.sweep_results import MeasuredRun, SweepResults

LONG_LABEL = 20  # letters; the legend of longer names is drawn below the axes


def hours(run: MeasuredRun) -> float:
    """Returns GPU-hours of a run that had a GPU, otherwise CPU-hours."""
    return run.gpu_hours or run.cpu_hours


def hours_unit(sweep: SweepResults) -> str:
    """Returns the hours that are reported: of GPUs, if any run had one."""
    return "GPU-hours" if any(run.gpu_hours for run in sweep.runs) else "CPU-hours"


def pretraining_flops(run: MeasuredRun) -> float | None:
    """Returns the operations of the whole pre-training: three forward passes for each sample."""
    if run.forward_flops is None or "pretrain" not in run.samples:
        return None
    return float(PASSES * run.forward_flops * run.samples["pretrain"])


def forward_gmac(run: MeasuredRun) -> float | None:
    """Returns giga multiply-adds of one forward pass of pre-training per sample."""
    return None if run.forward_flops is None else run.forward_flops / 2e9


def counted(value: float) -> str:
    """Returns `640`, `12.8 k` or `86.2 M`: three digits and the unit."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g} {letter}"
    return f"{value:.0f}"


def three_digits(value: float) -> str:
    """Returns `0.123`, `12.3` or `1.23e+04`."""
    return f"{value:.3g}"


@dataclass(frozen=True)
class CostColumn:
    """A column of the table of costs: its head, the value of a run, and how it is written."""

    head: str
    value: Callable[[MeasuredRun], float | None]
    text: Callable[[float], str]


COST_COLUMNS = {
    "cpu_hours": CostColumn("CPU-hours", lambda run: run.cpu_hours, three_digits),
    "gpu_hours": CostColumn("GPU-hours", lambda run: run.gpu_hours, three_digits),
    "pretrain_samples": CostColumn(
        "pre-trained on", lambda run: run.samples.get("pretrain"), counted
    ),
    "finetune_samples": CostColumn(
        "fine-tuned on", lambda run: run.samples.get("finetune"), counted
    ),
    "parameters": CostColumn("parameters", lambda run: run.parameters, counted),
    "forward_gmac": CostColumn("GMAC", forward_gmac, three_digits),
    "pretraining_flops": CostColumn(
        "FLOPs of pre-training",
        pretraining_flops,
        lambda value: f"{value:.2e}".replace("e+", "e"),
    ),
}


def mean_costs(runs: Sequence[MeasuredRun]) -> dict[str, float | None]:
    """Returns the mean of each cost over these runs; None if one of them lacks it."""
    found: dict[str, float | None] = {}
    for name, column in COST_COLUMNS.items():
        values = [column.value(run) for run in runs]
        known = [value for value in values if value is not None]
        found[name] = fmean(known) if known and len(known) == len(values) else None
    return found


def cost_tables(sweep: SweepResults) -> tuple[Table, ...]:
    """Lays out a row for each planned cell, with means over its runs.

    A search has no such table: its tables have the hours of each trial.
    """
    plan = sweep.plan
    if plan.kind == SEARCH or not sweep.runs:
        return ()
    key, name = plan.column
    metric = metric_of(name)
    columns = [
        *(Column(axis.label, is_label=True) for axis in plan.axes),
        Column("n"),
        Column(metric.label),
        *(Column(column.head) for column in COST_COLUMNS.values()),
    ]
    rows = []
    for cell in plan.cells:
        summary = sweep.summary(cell, key, name)
        labels = [Cell(text) for text in plan.labels(cell)]
        score = Cell(metric.text(summary.mean) if summary else MISSING)
        count = Cell(str(len(sweep.by_cell[cell])))
        rows.append((*labels, count, score, *_cost_cells(sweep.by_cell[cell])))
    caption = f"{plan.title}: what the cells cost."
    notes = tuple(_notes(sweep, rows))
    return (Table(f"{plan.ablation}_costs", caption, tuple(columns), tuple(rows), notes),)


def _notes(sweep: SweepResults, rows: Sequence[Sequence[Cell]]) -> list[str]:
    notes = [
        "Means over the runs of a cell. Hours: of all ranks, all stages and all restarts, without "
        "what was lost between the last checkpoint and a kill. "
        "Samples: steps times the global batch, repeats counted.",
        "GMAC: multiply-adds of one forward pass of pre-training per sample, by count. "
        f"FLOPs: two for each of these, {PASSES} passes a step.",
    ]
    if any(cell.text == MISSING for row in rows for cell in row):
        notes.append(f"{MISSING}: no finished run, or the run did not record it.")
    machines = sorted({run.hardware for run in sweep.runs if run.hardware})
    if len(machines) > 1:
        notes.append(
            "The runs ran on different machines, so their hours are not comparable: "
            f"{'; '.join(machines)}."
        )
    return notes


def _cost_cells(runs: Sequence[MeasuredRun]) -> list[Cell]:
    means = mean_costs(runs)
    cells = []
    for name, column in COST_COLUMNS.items():
        mean = means[name]
        cells.append(Cell(MISSING if mean is None else column.text(mean)))
    return cells


def costs_frame(sweep: SweepResults) -> pd.DataFrame:
    """Returns a row for each cell in full precision."""
    return pd.DataFrame(
        [
            sweep.plan.settings(cell) | {"n": len(runs)} | mean_costs(runs)
            for cell, runs in sweep.by_cell.items()
        ]
    )


# ---- figure --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class CostPoint:
    """A cell with (hours, score) of each of its runs."""

    cell: CellValues
    runs: tuple[tuple[float, float], ...]

    @property
    def mean(self) -> tuple[float, float]:
        """Mean hours and mean score."""
        return fmean(hours for hours, _ in self.runs), fmean(score for _, score in self.runs)


def cost_plots(sweep: SweepResults) -> list[Plot]:
    """Returns the score of each cell over the hours of a run, if at least two cells have both."""
    if sweep.plan.kind == SEARCH or len(_cost_points(sweep)) < 2:
        return []
    unit = hours_unit(sweep)
    title = f"{sweep.plan.metric_label} against the cost of a run in {unit}{spread_words(sweep)}."
    better = "up" if metric_of(sweep.plan.column[1]).higher_is_better else "down"
    reading = (
        "Outlined marker: the mean; small point: a single run.",
        f"Hours over all stages and restarts; {better} and to the left is better.",
    )
    return [Plot("score_against_cost", title, reading, draw)]


def _cost_points(sweep: SweepResults) -> list[CostPoint]:
    found = []
    for cell in sweep.plan.cells:
        scores = sweep.values(cell, *sweep.plan.column)
        runs = [(hours(run), run.point.seed) for run in sweep.by_cell[cell]]
        both = tuple((spent, scores[seed]) for spent, seed in runs if seed in scores)
        if any(spent > 0 for spent, _ in both):
            found.append(CostPoint(cell, both))
    return found


def draw(sweep: SweepResults) -> Figure:
    """Draws a marker for each cell and a small point for each run.

    Markers are outlines, so one that lies on another hides nothing.
    """
    plan, points = sweep.plan, _cost_points(sweep)
    named = len(points) <= len(MARKERS)
    labels = [", ".join(filter(None, plan.labels(point.cell))) for point in points]
    # A legend of long names at the side would leave the axes no room.
    below = is_narrow() or any(len(label) > LONG_LABEL for label in labels)
    figure = Figure(layout="constrained")
    axes = figure.subplots()
    handles: list[Artist] = []
    for number, (point, label, color) in enumerate(
        zip(points, labels, palette(len(points)), strict=True)
    ):
        style: dict[str, Any] = {"linestyle": "none", "color": color}
        if len(point.runs) > 1:
            axes.plot(*zip(*point.runs, strict=True), "o", markersize=2.4, alpha=0.7, **style)
        outline: dict[str, Any] = {
            "marker": MARKERS[number % len(MARKERS)],
            "markersize": 6.5,
            "markerfacecolor": "none",
            "markeredgewidth": 1.3,
        }
        spent, score = point.mean
        axes.plot([spent], [score], **style, **outline)
        handles.append(Line2D([], [], label=label, **style, **outline))
    axes.set(xlabel=f"{hours_unit(sweep)} of a run", ylabel=plan.metric_label)
    title = ", ".join(axis.label for axis in plan.axes)
    height = 2.4
    if named:
        add_legend(figure, handles, title, below)
        rows = 1.5 * letters(0.5) / 72 * (len(labels) + 1)
        height = 2.2 + legend_height(labels, title) if below else max(2.6, 1.0 + rows)
    axes.grid(color="#e6e6e6", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.xaxis.set_major_locator(MaxNLocator(5 if below else 3))
    axes.margins(0.1)
    sns.despine(ax=axes)
    figure.set_size_inches(line_width(), height)
    return figure
