"""Draws how the use of the other modality grows while the models are pre-trained."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from matplotlib.figure import Figure

from reports.figures.marks import Dodge
from reports.figures.style import MARKERS, Plot, is_narrow, letters, line_width, palette
from reports.output.use_tables import FLAT, OTHER_TRIVIAL, UseValue, mask_words, mean_curve
from reports.study.report_plan import SEARCH, CellValues
from reports.study.sweep_results import SweepResults
from simvtp.runs.results import USE
from simvtp.runs.scores import read_curve

MASK = "text0.75_video0.5"  # half of the video is seen, and most words must be read off it
PANELS = {  # metric -> label of its axis
    "mlm_gain_other": "gain of words (nat)",
    "mvm_gain_mean_colour": "tubes, loss below\nthe mean colour",
    "mvm_gain_constant": "tubes, loss below\na constant",
    "mvm_gain_flat": "tubes, loss below flat",
}
MOST_CELLS = 12

Curve = list[tuple[int, UseValue]]


def use_plots(sweep: SweepResults) -> list[Plot]:
    """Returns the figure of the gains over the steps; none where no run measured any.

    Values are those on the validation split, read from the journals in the run directories.
    """
    if sweep.plan.kind == SEARCH:
        return []
    found = {metric: _curves(sweep, metric) for metric in PANELS}
    trivial = {cell for metric in OTHER_TRIVIAL for cell in found[metric]}
    found[FLAT] = {cell: curve for cell, curve in found[FLAT].items() if cell not in trivial}
    drawn = {metric: curves for metric, curves in found.items() if curves}
    if not drawn:
        return []
    reading = (
        "Gain of words: loss of the masked words with another clip minus that with the own one.",
        "Means over the seeds; bars are 95 % intervals over the seeds.",
        "0: the model makes no use of the clip, or its tubes are no better than the trivial "
        "answer: the mean of each tube where the target is normalised, the mean colour of the "
        "visible tubes where it is raw, one answer for all tubes elsewhere.",
        f"Validation split, {mask_words(MASK)}.",
    )
    title = "Use of the other modality over the steps of the pre-training."
    return [Plot("use_over_training", title, reading, partial(_draw, curves=drawn))]


def _curves(sweep: SweepResults, metric: str) -> dict[CellValues, Curve]:
    """Returns the curve of each cell that has one, of the first cells."""
    name = f"{USE}/{MASK}/{metric}"
    found: dict[CellValues, Curve] = {}
    for cell in sweep.plan.cells:
        runs = [run for run in sweep.by_cell[cell] if run.run_dir]
        curves = [curve for run in runs if (curve := read_curve(Path(run.run_dir), name))]
        if curves and len(found) < MOST_CELLS:
            found[cell] = mean_curve(curves)
    return found


def _draw(sweep: SweepResults, curves: dict[str, dict[CellValues, Curve]]) -> Figure:
    """Draws a panel for each metric, with a line for each cell."""
    cells = list(dict.fromkeys(cell for each in curves.values() for cell in each))
    colors = dict(zip(cells, palette(len(cells)), strict=True))
    figure = Figure(layout="constrained")
    shape = (len(curves), 1) if is_narrow() else (1, len(curves))
    panels = figure.subplots(*shape, squeeze=False).flat
    handles = {}
    room = line_width() / shape[1] - 0.6  # inches of the axes
    for axes, (metric, each) in zip(panels, curves.items(), strict=True):
        for number, cell in enumerate(cells):
            if cell not in each:
                continue
            steps = [step for step, _ in each[cell]]
            means = [value.mean for _, value in each[cell]]
            ends = [value.interval or (value.mean, value.mean) for _, value in each[cell]]
            bars = [
                [mean - low for mean, (low, _) in zip(means, ends, strict=True)],
                [high - mean for mean, (_, high) in zip(means, ends, strict=True)],
            ]
            last = max(steps[-1], 1)
            dodge = Dodge(len(cells), room / len(steps), last / room)
            handles[cell] = axes.errorbar(
                [dodge.place(step, number) for step in steps],
                means,
                yerr=bars,
                color=colors[cell],
                marker=MARKERS[number % len(MARKERS)],
                markersize=4,
                linewidth=1.2,
                capsize=2,
            )
        axes.axhline(0, color="#777777", linewidth=0.8, zorder=0)
        axes.set(xlabel="step of the pre-training", ylabel=PANELS[metric])
    names = [sweep.plan.describe(cell) for cell in handles]
    figure.legend(handles.values(), names, loc="outside lower left", frameon=False)
    rows = 1.5 * letters(0.5) / 72 * len(names)
    figure.set_size_inches(line_width(), 0.2 + 2.2 * shape[0] + rows)
    return figure
