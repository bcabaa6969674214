"""Draws the heat map of a grid with two axes."""

from __future__ import annotations

import math
from statistics import fmean
from typing import Any

import matplotlib.patheffects
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.path import Path
from matplotlib.textpath import TextPath
from matplotlib.transforms import Affine2D
from numpy.typing import NDArray

from reports.analysis.best_cells import rank_cells
from reports.analysis.cell_model import least_difference
from reports.analysis.sweep_model import sweep_model
from reports.figures.marks import cell_marks
from reports.figures.style import (
    INK,
    LETTER,
    Plot,
    add_legend,
    contrast,
    legend_height,
    letters,
    line_width,
    relative_luminance,
    spread_words,
    turn,
)
from reports.figures.venue import LEAST
from reports.output.layout import DAGGER, MISSING, Cell
from reports.output.metric_formats import metric_of
from reports.output.tables import value_cells
from reports.study.report_plan import CellValues, StudyPlan
from reports.study.sweep_results import SweepResults

PALETTE = 3.0  # least span of the colours, of the difference that exceeds noise
ACCENT = "#d55e00"  # frame of the best cell
EMPTY = "#f2f2f2"  # ground of a cell without a value


def heat_plot(sweep: SweepResults) -> Plot:
    """Returns the heat map with its caption."""
    plan = sweep.plan
    first, second = plan.axes
    made = value_cells(sweep, _frame(plan), *plan.column)
    reading = [_marked_words(sweep)] if any(cell.rank == 1 for cell in made) else []
    reading.append(_noise_words(sweep))
    if not _numbers(sweep, made).any():
        reading.append("The cells are too narrow for numbers, which are in the table.")
    optimum = plan.published_optimum
    if optimum is not None and optimum in plan.cells:
        reading.append(f"{DAGGER}: the published optimum ({plan.describe(optimum)}).")
    if any(cell.text == MISSING for cell in made):
        reading.append(f"Hatched ({MISSING}): planned, no figure from a finished run.")
    title = f"{plan.metric_label} over {first.label} and {second.label}{spread_words(sweep)}."
    return Plot("heatmap", title, tuple(filter(None, reading)), heat_map)


def _frame(plan: StudyPlan) -> list[CellValues]:
    """Returns the cells of the map, from the upper left."""
    down, across = plan.axes
    return [(row, column) for row in reversed(down.values) for column in across.values]


def _marked_words(sweep: SweepResults) -> str:
    if rank_cells(sweep, _frame(sweep.plan), *sweep.plan.column).tested:
        which = "best mean"
        if sweep.plan.until_decided is not None:
            which += " of the first look, whose seeds all cells have"
        return (
            f"Outlined: the {which}; dashed: not different from it over the seeds (Tukey's 95 % "
            "intervals)."
        )
    return "Outlined: best, ranked on the rounded means."


def _noise_words(sweep: SweepResults) -> str:
    size = noise_size(sweep)
    if size is None:
        return ""
    metric = metric_of(sweep.plan.column[1])
    what = "over the seeds" if sweep_model(sweep).model else "over the test items alone"
    return (
        f"The colours span at least {metric.text(PALETTE * size)} {metric.label}, "
        f"{PALETTE:g} times the least difference that exceeds the noise {what} "
        f"({metric.text(size)}): noise does not fill the scale."
    )


def noise_size(sweep: SweepResults) -> float | None:
    """Returns the least difference of two cells that exceeds the noise.

    Over the seeds it is that of Tukey's intervals. With one seed, for a fraction of test queries,
    it is that of two independent samples of queries; else there is none.
    """
    model = sweep_model(sweep).model
    if model is not None:
        return least_difference(model)
    result, metric = sweep.headline, metric_of(sweep.plan.column[1])
    values = [mark.mean for mark in cell_marks(sweep).values()]
    if result is None or not metric.is_fraction or not values:
        return None
    share = min(max(fmean(values) / 100, 0.0), 1.0)
    return 100 * 1.96 * math.sqrt(2 * share * (1 - share) / result.queries)


def heat_map(sweep: SweepResults) -> Figure:
    """Draws the first axis down and the second across.

    The best cells are framed; planned cells without a value are hatched.
    """
    plan = sweep.plan
    down, across = plan.axes
    frame = _frame(plan)
    shape = (len(down.values), len(across.values))
    cells = value_cells(sweep, frame, *plan.column)
    summaries = [sweep.summary(cell, *plan.column) for cell in frame]
    means = np.array([summary.mean if summary else np.nan for summary in summaries]).reshape(shape)
    words = _numbers(sweep, cells).reshape(shape)
    spread = any("\n" in text for text in words.flat)
    # At least the length of the colour bar's label.
    tall = max(1.65, (4.2 if spread else 3.2) * letters(1.0) / 72 * shape[0])
    room = _room(shape[1])
    figure = Figure(layout="constrained")
    axes = figure.subplots()
    annotations = {"fontsize": _annotation_size(words, room), "linespacing": 1.15}
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
        **_color_range(means, noise_size(sweep)),
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
    handles = _mark_cells(sweep, axes, frame, cells, shape)
    add_legend(figure, handles, below=True)
    height = 0.65 + tall + legend_height([str(handle.get_label()) for handle in handles])
    figure.set_size_inches(line_width(), height)
    return figure


def _room(columns: int) -> float:
    """Returns the inches of a column, next to the labels at the left and the colour bar."""
    return (line_width() - 1.2) / columns


def _color_range(means: NDArray[np.float64], noise: float | None) -> dict[str, float]:
    """Returns the range of the colour bar: never empty, and wider than the noise.

    Args:
        means: of the cells; NaN where there is none.
        noise: see `noise_size`.
    """
    if not np.isfinite(means).any():
        return {"vmin": 0.0, "vmax": 1.0}
    low, high = float(np.nanmin(means)), float(np.nanmax(means))
    least = 2.0 if noise is None and high == low else PALETTE * (noise or 0.0)
    missing = max(0.0, least - (high - low)) / 2
    return {"vmin": low - missing, "vmax": high + missing}


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


def _numbers(sweep: SweepResults, cells: list[Cell]) -> NDArray[Any]:
    """Returns the text of each cell of the map: as much as fits in legible letters.

    That is the mean with its spread, else the mean alone, else nothing; cells without a value keep
    their dash.
    """
    columns = len(sweep.plan.axes[1].values)
    full = [_annotation(cell) for cell in cells]
    short = [text.partition("\n")[0] for text in full]
    none = [cell.text if cell.text == MISSING else "" for cell in cells]
    for texts in (full, short):
        words = np.array(texts, dtype=object)
        if _fitting_size(words, _room(columns)) >= LEAST:
            return words
    return np.array(none, dtype=object)


def _annotation(cell: Cell) -> str:
    """Returns the mean, below it the standard deviation and, if seeds are missing, their number."""
    counts = [f"n = {mark.strip('()')}" for mark in cell.marks if mark.startswith("(")]
    daggers = "".join(mark for mark in cell.marks if not mark.startswith("("))
    spread = [f"± {cell.spread}"] if cell.spread else []
    return "\n".join([f"{cell.text}{daggers}", *spread, *counts])


def _fitting_size(words: NDArray[Any], room: float) -> float:
    longest = max((len(line) for text in words.flat for line in text.split("\n")), default=0)
    return 72 * (room - 0.05) / (LETTER * max(longest, 1))


def _annotation_size(words: NDArray[Any], room: float) -> float:
    """Returns the font size in points: smaller in narrow columns, so that numbers fit."""
    return max(LEAST, min(letters(1.0), _fitting_size(words, room)))


def _mark_cells(
    sweep: SweepResults,
    axes: Axes,
    frame: list[CellValues],
    cells: list[Cell],
    shape: tuple[int, int],
) -> list[Artist]:
    """Frames the best cells and hatches the missing ones; returns the entries of the legend."""
    handles: dict[str, Artist] = {}
    ranking = rank_cells(sweep, frame, *sweep.plan.column)
    best = "best mean" if ranking.tested else "best (rounded mean)"
    if ranking.tested and sweep.plan.until_decided is not None:
        best += " of the first look"  # see `best_cells`
    for number, (cell, values) in enumerate(zip(cells, frame, strict=True)):
        y, x = divmod(number, shape[1])
        if cell.text == MISSING:
            handles["missing"] = _hatch(axes, x, y, _annotation(cell))
        if cell.rank == 1:
            first = not ranking.tested or number == ranking.best
            label = best if first else "not different from it"
            handles["best" if first else "equal"] = _outline(axes, x, y, first, label)
        if values == sweep.plan.published_optimum and cell.marks:
            handles["optimum"] = Line2D(
                [],
                [],
                linestyle="none",
                marker=_dagger(),
                color=INK,
                markersize=6,
                label="published optimum",
            )
    return [handles[key] for key in ("best", "equal", "optimum", "missing") if key in handles]


def _dagger() -> Path:
    """Returns the sign of the published optimum as a marker, centred."""
    path = TextPath((0, 0), DAGGER, size=10, prop=FontProperties())
    middle = path.get_extents().get_points().mean(axis=0)
    return path.transformed(Affine2D().translate(*-middle))


def _outline(axes: Axes, x: int, y: int, first: bool, label: str) -> Patch:
    """Frames a cell: solid if it is the best, dashed if it is not different from the best."""
    style: dict[str, Any] = {"edgecolor": ACCENT, "linewidth": 2.0 if first else 1.4}
    style["linestyle"] = "-" if first else (0, (2, 1.5))
    axes.add_patch(Rectangle((x + 0.03, y + 0.03), 0.94, 0.94, fill=False, zorder=5, **style))
    return Patch(facecolor="none", label=label, **style)


def _hatch(axes: Axes, x: int, y: int, words: str) -> Patch:
    """Draws a cell without a value; returns its entry of the legend."""
    style: dict[str, Any] = {
        "facecolor": EMPTY,
        "edgecolor": "#b5b5b5",
        "hatch": "////",
        "linewidth": 0,
    }
    axes.add_patch(Rectangle((x + 0.03, y + 0.03), 0.94, 0.94, **style))
    text = axes.text(
        x + 0.5, y + 0.5, words, ha="center", va="center", color=INK, fontsize=letters(1.0)
    )
    text.set_path_effects([matplotlib.patheffects.withStroke(linewidth=3, foreground=EMPTY)])
    return Patch(**style, label="planned, no figure")
