"""The heat map of a grid with two axes."""

from __future__ import annotations

import matplotlib.patheffects
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle

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
from reports.output.tables import figures
from reports.study.collect import Study
from reports.study.report_plan import Values


def heat_plot(study: Study) -> Plot:
    plan = study.plan
    first, second = plan.axes
    made = figures(study, plan.cells, *plan.column)
    reading = []
    if any(cell.place == 1 for cell in made):
        reading.append("Outlined: best, ranked on the rounded means.")
    if plan.published_optimum in plan.cells:
        reading.append(
            f"{DAGGER}: the published optimum ({plan.describe(plan.published_optimum)})."
        )
    if any(cell.text == MISSING for cell in made):
        reading.append(f"Hatched ({MISSING}): planned, no figure from a finished run.")
    title = f"{plan.metric_label} over {first.label} and {second.label}{spread_words(study)}."
    return Plot("heatmap", title, tuple(reading), heat_map)


def heat_map(study: Study) -> Figure:
    """First axis down, second across; the best cell is framed, planned cells without a figure are
    hatched.
    """
    plan = study.plan
    down, across = plan.axes
    frame = [
        (row, column) for row in reversed(down.values) for column in across.values
    ]  # the larger ratio on top
    shape = (len(down.values), len(across.values))
    summaries = [study.summary(cell, *plan.column) for cell in frame]
    means = np.array([summary.mean if summary else np.nan for summary in summaries]).reshape(shape)
    words = np.array(
        [_annotation(cell) for cell in figures(study, frame, *plan.column)], dtype=object
    ).reshape(shape)
    spread = any("\n" in text for text in words.flat)
    tall = max(
        1.65, (0.44 if spread else 0.34) * shape[0]
    )  # at least the length of the colour bar's label
    room = (WIDTH - 1.2) / shape[1]  # inches, of a column
    figure = Figure(figsize=(WIDTH, 0.95 + tall), layout="constrained")
    axes = figure.subplots()
    sns.heatmap(
        pd.DataFrame(means), annot=words, fmt="", cmap=sns.color_palette("crest", as_cmap=True), linewidths=1.0, linecolor="white", ax=axes,
        annot_kws={"fontsize": _annotation_size(words, room, shape[1]), "linespacing": 1.15}, cbar=bool(np.isfinite(means).any()),
        cbar_kws={"label": plan.metric_label, "pad": 0.02}, **_color_range(means),
    )  # fmt: skip
    _ink_by_contrast(axes, means)
    labels = [across.text(value) for value in across.values]
    axes.set_xticklabels(labels, **turn(labels, room))
    axes.set_yticklabels([down.text(value) for value in reversed(down.values)], rotation=0)
    axes.set(xlabel=across.label, ylabel=down.label)
    axes.tick_params(length=0)
    for bar in figure.axes[1:]:
        bar.tick_params(length=2)
        bar.set_frame_on(False)
    handles = _mark_cells(study, axes, frame, shape)
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
    return figure


def _color_range(means: np.ndarray) -> dict[str, float]:
    """All cells equal (or a single one): some range, so that the colour bar has one. Nothing
    measured: any range.
    """
    if not np.isfinite(means).any():
        return {"vmin": 0.0, "vmax": 1.0}
    low, high = float(np.nanmin(means)), float(np.nanmax(means))
    return {"vmin": low, "vmax": high} if high > low else {"vmin": low - 1, "vmax": high + 1}


def _ink_by_contrast(axes: Axes, means: np.ndarray) -> None:
    """Dark or white numbers, whichever stands out more from the cell; seaborn changes to dark only
    on the very light ones.
    """
    mesh = axes.collections[0]
    for text in axes.texts:  # seaborn writes one for each measured cell, at its middle
        x, y = text.get_position()
        background = relative_luminance(mesh.to_rgba(means[int(y), int(x)]))
        text.set_color(
            max(
                (INK, "white"),
                key=lambda ink: contrast(relative_luminance(to_rgb(ink)), background),
            )
        )


def _annotation(cell: Cell) -> str:
    """The mean, below it the standard deviation and, where seeds are missing, their number."""
    counts = [f"n = {mark.strip('()')}" for mark in cell.marks if mark.startswith("(")]
    daggers = "".join(mark for mark in cell.marks if not mark.startswith("("))
    return "\n".join(
        [f"{cell.text}{daggers}", *([f"± {cell.spread}"] if cell.spread else []), *counts]
    )


def _annotation_size(words: np.ndarray, room: float, columns: int) -> float:
    """Points: the house's size, or less where columns are narrow, so that no number leaves its
    cell.
    """
    longest = max((len(line) for text in words.flat for line in text.split("\n")), default=0)
    return min(8.0 if columns <= 6 else 7.0, 72 * (room - 0.05) / (LETTER * max(longest, 1)))


def _mark_cells(
    study: Study, axes: Axes, frame: list[Values], shape: tuple[int, int]
) -> list[Patch]:
    """Frames the best cells and hatches the missing ones; returns what the legend needs."""
    made = figures(study, frame, *study.plan.column)
    handles: dict[str, Patch | Line2D] = {}
    for number, (cell, place) in enumerate(zip(made, np.ndindex(shape), strict=True)):
        y, x = place
        if cell.text == MISSING:
            style = {
                "facecolor": "#f2f2f2",
                "edgecolor": "#b5b5b5",
                "hatch": "////",
                "linewidth": 0,
            }
            axes.add_patch(Rectangle((x + 0.03, y + 0.03), 0.94, 0.94, **style))
            words = axes.text(
                x + 0.5, y + 0.5, _annotation(cell), ha="center", va="center", color=INK, fontsize=9
            )
            words.set_path_effects(
                [matplotlib.patheffects.withStroke(linewidth=3, foreground="#f2f2f2")]
            )
            handles["missing"] = Patch(**style, label="planned, no figure")
        if cell.place == 1:
            axes.add_patch(
                Rectangle(
                    (x + 0.03, y + 0.03),
                    0.94,
                    0.94,
                    fill=False,
                    edgecolor="#d55e00",
                    linewidth=2.0,
                    zorder=5,
                )
            )
            handles["best"] = Patch(
                facecolor="none", edgecolor="#d55e00", linewidth=2.0, label="best (rounded mean)"
            )
        if frame[number] == study.plan.published_optimum and cell.marks:
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
