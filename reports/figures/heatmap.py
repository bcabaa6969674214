"""Draws the heat map of a grid with two axes."""

from __future__ import annotations

from typing import Any

import matplotlib.patheffects
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from numpy.typing import NDArray

from reports.figures.style import (
    INK,
    LETTER,
    WIDTH,
    Plot,
    contrast,
    relative_luminance,
    spread_words,
    turn,
)
from reports.output.layout import DAGGER, MISSING, Cell
from reports.output.tables import value_cells
from reports.study.report_plan import CellValues
from reports.study.sweep_results import SweepResults

ACCENT = "#d55e00"  # frame of the best cell
EMPTY = "#f2f2f2"  # ground of a cell without a value


def heat_plot(sweep: SweepResults) -> Plot:
    """Returns the heat map with its caption."""
    plan = sweep.plan
    first, second = plan.axes
    made = value_cells(sweep, plan.cells, *plan.column)
    reading = []
    if any(cell.rank == 1 for cell in made):
        reading.append("Outlined: best, ranked on the rounded means.")
    optimum = plan.published_optimum
    if optimum is not None and optimum in plan.cells:
        reading.append(f"{DAGGER}: the published optimum ({plan.describe(optimum)}).")
    if any(cell.text == MISSING for cell in made):
        reading.append(f"Hatched ({MISSING}): planned, no figure from a finished run.")
    title = f"{plan.metric_label} over {first.label} and {second.label}{spread_words(sweep)}."
    return Plot("heatmap", title, tuple(reading), heat_map)


def heat_map(sweep: SweepResults) -> Figure:
    """Draws the first axis down and the second across.

    The best cell is framed; planned cells without a value are hatched.
    """
    plan = sweep.plan
    down, across = plan.axes
    frame = [(row, column) for row in reversed(down.values) for column in across.values]
    shape = (len(down.values), len(across.values))
    cells = value_cells(sweep, frame, *plan.column)
    summaries = [sweep.summary(cell, *plan.column) for cell in frame]
    means = np.array([summary.mean if summary else np.nan for summary in summaries]).reshape(shape)
    words = np.array([_annotation(cell) for cell in cells], dtype=object).reshape(shape)
    spread = any("\n" in text for text in words.flat)
    # At least the length of the colour bar's label.
    tall = max(1.65, (0.44 if spread else 0.34) * shape[0])
    room = (WIDTH - 1.2) / shape[1]  # inches of a column
    figure = Figure(figsize=(WIDTH, 0.95 + tall), layout="constrained")
    axes = figure.subplots()
    annotations = {"fontsize": _annotation_size(words, room, shape[1]), "linespacing": 1.15}
    sns.heatmap(
        pd.DataFrame(means),
        annot=words,
        fmt="",
        cmap=sns.color_palette("crest", as_cmap=True),
        linewidths=1.0,
        linecolor="white",
        ax=axes,
        annot_kws=annotations,
        cbar=bool(np.isfinite(means).any()),
        cbar_kws={"label": plan.metric_label, "pad": 0.02},
        **_color_range(means),
    )
    _ink_by_contrast(axes, means)
    labels = [across.text(value) for value in across.values]
    axes.set_xticklabels(labels, **turn(labels, room))
    axes.set_yticklabels([down.text(value) for value in reversed(down.values)], rotation=0)
    axes.set(xlabel=across.label, ylabel=down.label)
    axes.tick_params(length=0)
    for bar in figure.axes[1:]:
        bar.tick_params(length=2)
        bar.set_frame_on(False)
    _legend(figure, _mark_cells(sweep, axes, frame, cells, shape))
    return figure


def _legend(figure: Figure, handles: list[Artist]) -> None:
    if handles:
        figure.legend(
            handles=handles,
            loc="outside lower center",
            ncols=len(handles),
            frameon=False,
            handlelength=1.4,
            columnspacing=1.2,
            handletextpad=0.6,
        )


def _color_range(means: NDArray[np.float64]) -> dict[str, float]:
    """Returns the range of the colour bar, which is never empty."""
    if not np.isfinite(means).any():
        return {"vmin": 0.0, "vmax": 1.0}
    low, high = float(np.nanmin(means)), float(np.nanmax(means))
    return {"vmin": low, "vmax": high} if high > low else {"vmin": low - 1, "vmax": high + 1}


def _ink_by_contrast(axes: Axes, means: NDArray[np.float64]) -> None:
    """Sets each number dark or white, whichever has more contrast with its cell.

    Seaborn uses dark numbers on very light cells only.
    """
    mesh = axes.collections[0]
    for text in axes.texts:  # seaborn writes one at the middle of each measured cell
        x, y = text.get_position()
        background = relative_luminance(tuple(mesh.to_rgba(means[int(y), int(x)])))
        dark, light = (contrast(relative_luminance(to_rgb(c)), background) for c in (INK, "white"))
        text.set_color(INK if dark >= light else "white")


def _annotation(cell: Cell) -> str:
    """Returns the mean, below it the standard deviation and, if seeds are missing, their number."""
    counts = [f"n = {mark.strip('()')}" for mark in cell.marks if mark.startswith("(")]
    daggers = "".join(mark for mark in cell.marks if not mark.startswith("("))
    spread = [f"± {cell.spread}"] if cell.spread else []
    return "\n".join([f"{cell.text}{daggers}", *spread, *counts])


def _annotation_size(words: NDArray[Any], room: float, columns: int) -> float:
    """Returns the font size in points: smaller in narrow columns, so that numbers fit."""
    longest = max((len(line) for text in words.flat for line in text.split("\n")), default=0)
    return min(8.0 if columns <= 6 else 7.0, 72 * (room - 0.05) / (LETTER * max(longest, 1)))


def _mark_cells(
    sweep: SweepResults,
    axes: Axes,
    frame: list[CellValues],
    cells: list[Cell],
    shape: tuple[int, int],
) -> list[Artist]:
    """Frames the best cells and hatches the missing ones; returns the entries of the legend."""
    handles: dict[str, Artist] = {}
    for cell, values, (y, x) in zip(cells, frame, np.ndindex(shape), strict=True):
        if cell.text == MISSING:
            handles["missing"] = _hatch(axes, x, y, _annotation(cell))
        if cell.rank == 1:
            best: dict[str, Any] = {"edgecolor": ACCENT, "linewidth": 2.0}
            axes.add_patch(
                Rectangle((x + 0.03, y + 0.03), 0.94, 0.94, fill=False, zorder=5, **best)
            )
            handles["best"] = Patch(facecolor="none", label="best (rounded mean)", **best)
        if values == sweep.plan.published_optimum and cell.marks:
            handles["optimum"] = Line2D(
                [],
                [],
                linestyle="none",
                marker=r"$\dagger$",
                color=INK,
                markersize=6,
                label="published optimum",
            )
    return [handles[key] for key in ("best", "optimum", "missing") if key in handles]


def _hatch(axes: Axes, x: int, y: int, words: str) -> Patch:
    """Draws a cell without a value; returns its entry of the legend."""
    style: dict[str, Any] = {
        "facecolor": EMPTY,
        "edgecolor": "#b5b5b5",
        "hatch": "////",
        "linewidth": 0,
    }
    axes.add_patch(Rectangle((x + 0.03, y + 0.03), 0.94, 0.94, **style))
    text = axes.text(x + 0.5, y + 0.5, words, ha="center", va="center", color=INK, fontsize=9)
    text.set_path_effects([matplotlib.patheffects.withStroke(linewidth=3, foreground=EMPTY)])
    return Patch(**style, label="planned, no figure")
