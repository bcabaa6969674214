"""Figures of a study: PDF for the paper (fixed size, real fonts), PNG for the page. The same runs give the same bytes.

A new figure is one function from `Study` to a matplotlib figure and one line in `figures_of`.
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.patheffects
import matplotlib.style
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import FixedLocator

from reports.collect import Axis, Study, Values, protocol_text
from reports.tables import DAGGER, MISSING, Cell, chance_text, figures, metric_of, seeds_text
from simvtp.journal import write_atomically

WIDTH = 4.75  # inches; the line of a LaTeX article is 4.77, so the figure is set unscaled
PNG_DPI = 200
_INK = "#222222"
_TICK_SIZE = 8.5  # points
_STYLE = {
    "font.family": "DejaVu Sans",  # comes with matplotlib, so it is the same everywhere
    "font.size": 9.0,
    "axes.labelsize": 9.0,
    "xtick.labelsize": _TICK_SIZE,
    "ytick.labelsize": _TICK_SIZE,
    "legend.fontsize": 8.5,
    "legend.title_fontsize": 8.5,
    "pdf.fonttype": 42,  # TrueType, which journals ask for
    "ps.fonttype": 42,
    "savefig.bbox": None,  # "tight" would change the size
    "axes.unicode_minus": True,
    "hatch.linewidth": 0.6,
}
# Chance is left off the axis of curves where all figures are so many times better, and further away than so many times their range
_CLEAR, _FAR = 10.0, 2.5
_LEAST_SPAN = 2.0  # of an axis without chance (points, ranks), so that a tenth of a point does not fill the page
_MARKERS = ("o", "s", "^", "D", "v", "p", "<", ">", "h", "d")  # all filled: thin ones vanish at print size
_LETTER = 0.6  # mean width of a letter, of the font size


@dataclass(frozen=True)
class Picture:
    """A figure in both formats, with the words that go below it and those for people who do not see it."""

    name: str
    png: Path
    pdf: Path
    caption: str
    alt: str


@dataclass(frozen=True)
class Plot:
    """A figure before it is drawn: the first sentence of its caption, how to read it, and the function that draws it."""

    name: str
    title: str
    reading: tuple[str, ...]
    draw: Callable[[Study], Figure]


def draw_figures(study: Study, folder: Path) -> tuple[Picture, ...]:
    """Write `<name>.pdf` and `<name>.png` of each figure into `folder`."""
    with house_style():
        return tuple(_saved(plot, study, folder) for plot in figures_of(study))


def figures_of(study: Study) -> list[Plot]:
    """The figures that suit the number of axes; a curve only along an axis where two or more values were measured."""
    plan = study.plan
    plots = [_heat_plot(study)] if len(plan.axes) == 2 else []
    if len(plan.axes) <= 2:
        for number, along in enumerate(plan.axes):
            lines = plan.axes[1 - number] if len(plan.axes) == 2 else None
            measured = {cell[number] for cell in plan.cells if study.values(cell, *plan.column)}
            plots += [_curve_plot(study, along, lines)] if len(measured) > 1 else []
    return plots


@contextmanager
def house_style() -> Iterator[None]:
    """Sizes and fonts, within the block only."""
    # set_theme and the user's matplotlibrc would leave traces in the process or in the bytes
    with matplotlib.rc_context(), matplotlib.style.context(["default", sns.axes_style("ticks"), sns.plotting_context("paper"), _STYLE]):
        yield


def _saved(plot: Plot, study: Study, folder: Path) -> Picture:
    # without dates and versions the same runs give the same bytes
    subject = f"sweep {study.plan.sweep_id}; runs and fingerprints of each cell: provenance.json"
    figure = plot.draw(study)
    pdf, png = io.BytesIO(), io.BytesIO()
    figure.savefig(pdf, format="pdf", metadata={"CreationDate": None, "Title": plot.title, "Subject": subject})
    figure.savefig(png, format="png", dpi=PNG_DPI, metadata={"Software": None, "Title": plot.title, "Description": subject})
    paths = [folder / f"{plot.name}.{ending}" for ending in ("png", "pdf")]
    write_atomically(paths[0], png.getvalue())
    write_atomically(paths[1], pdf.getvalue())
    caption = " ".join([plot.title, *plot.reading, *_protocol_words(study)])
    return Picture(plot.name, *paths, caption, f"{plot.title} The numbers are in the table above.")


def relative_luminance(color: Sequence[float]) -> float:
    """Of an sRGB colour, 0 (black) to 1 (white), as WCAG 2 defines it."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in color[:3]]
    return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))


def contrast(a: float, b: float) -> float:
    """Of two relative luminances, 1 to 21, as WCAG 2 defines it."""
    return (max(a, b) + 0.05) / (min(a, b) + 0.05)


# ---- heat map -------------------------------------------------------------------------------------------------------------


def _heat_plot(study: Study) -> Plot:
    plan = study.plan
    first, second = plan.axes
    made = figures(study, plan.cells, *plan.column)
    reading = []
    if any(cell.place == 1 for cell in made):
        reading.append("Outlined: best, ranked on the rounded means.")
    if plan.published_optimum in plan.cells:
        reading.append(f"{DAGGER}: the published optimum ({plan.describe(plan.published_optimum)}).")
    if any(cell.text == MISSING for cell in made):
        reading.append(f"Hatched ({MISSING}): planned, no figure from a finished run.")
    title = f"{plan.metric_label} over {first.label} and {second.label}{_spread_words(study)}."
    return Plot("heatmap", title, tuple(reading), heat_map)


def heat_map(study: Study) -> Figure:
    """First axis down, second across; the best cell is framed, planned cells without a figure are hatched."""
    plan = study.plan
    down, across = plan.axes
    frame = [(row, column) for row in reversed(down.values) for column in across.values]  # the larger ratio on top
    shape = (len(down.values), len(across.values))
    summaries = [study.summary(cell, *plan.column) for cell in frame]
    means = np.array([summary.mean if summary else np.nan for summary in summaries]).reshape(shape)
    words = np.array([_annotation(cell) for cell in figures(study, frame, *plan.column)], dtype=object).reshape(shape)
    spread = any("\n" in text for text in words.flat)
    tall = max(1.65, (0.44 if spread else 0.34) * shape[0])  # at least the length of the colour bar's label
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
    axes.set_xticklabels(labels, **_turn(labels, room))
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
    """All cells equal (or a single one): some range, so that the colour bar has one. Nothing measured: any range."""
    if not np.isfinite(means).any():
        return {"vmin": 0.0, "vmax": 1.0}
    low, high = float(np.nanmin(means)), float(np.nanmax(means))
    return {"vmin": low, "vmax": high} if high > low else {"vmin": low - 1, "vmax": high + 1}


def _ink_by_contrast(axes: Axes, means: np.ndarray) -> None:
    """Dark or white numbers, whichever stands out more from the cell; seaborn changes to dark only on the very light ones."""
    mesh = axes.collections[0]
    for text in axes.texts:  # seaborn writes one for each measured cell, at its middle
        x, y = text.get_position()
        background = relative_luminance(mesh.to_rgba(means[int(y), int(x)]))
        text.set_color(max((_INK, "white"), key=lambda ink: contrast(relative_luminance(to_rgb(ink)), background)))


def _annotation(cell: Cell) -> str:
    """The mean, below it the standard deviation and, where seeds are missing, their number."""
    counts = [f"n = {mark.strip('()')}" for mark in cell.marks if mark.startswith("(")]
    daggers = "".join(mark for mark in cell.marks if not mark.startswith("("))
    return "\n".join([f"{cell.text}{daggers}", *([f"± {cell.spread}"] if cell.spread else []), *counts])


def _annotation_size(words: np.ndarray, room: float, columns: int) -> float:
    """Points: the house's size, or less where columns are narrow, so that no number leaves its cell."""
    longest = max((len(line) for text in words.flat for line in text.split("\n")), default=0)
    return min(8.0 if columns <= 6 else 7.0, 72 * (room - 0.05) / (_LETTER * max(longest, 1)))


def _mark_cells(study: Study, axes: Axes, frame: list[Values], shape: tuple[int, int]) -> list[Patch]:
    """Frames the best cells and hatches the missing ones; returns what the legend needs."""
    made = figures(study, frame, *study.plan.column)
    handles: dict[str, Patch | Line2D] = {}
    for number, (cell, place) in enumerate(zip(made, np.ndindex(shape), strict=True)):
        y, x = place
        if cell.text == MISSING:
            style = {"facecolor": "#f2f2f2", "edgecolor": "#b5b5b5", "hatch": "////", "linewidth": 0}
            axes.add_patch(Rectangle((x + 0.03, y + 0.03), 0.94, 0.94, **style))
            words = axes.text(x + 0.5, y + 0.5, _annotation(cell), ha="center", va="center", color=_INK, fontsize=9)
            words.set_path_effects([matplotlib.patheffects.withStroke(linewidth=3, foreground="#f2f2f2")])
            handles["missing"] = Patch(**style, label="planned, no figure")
        if cell.place == 1:
            axes.add_patch(Rectangle((x + 0.03, y + 0.03), 0.94, 0.94, fill=False, edgecolor="#d55e00", linewidth=2.0, zorder=5))
            handles["best"] = Patch(facecolor="none", edgecolor="#d55e00", linewidth=2.0, label="best (rounded mean)")
        if frame[number] == study.plan.published_optimum and cell.marks:
            handles["optimum"] = Line2D([], [], linestyle="none", marker=r"$\dagger$", color=_INK, markersize=6, label="published optimum")
    return [handles[key] for key in ("best", "optimum", "missing") if key in handles]


# ---- curves ---------------------------------------------------------------------------------------------------------------


def _curve_plot(study: Study, along: Axis, lines: Axis | None) -> Plot:
    each = f", a line for each {lines.label}" if lines else ""
    title = f"{study.plan.metric_label} over {along.label}{each}{_spread_words(study)}."
    chance = f"Dashed: chance ({chance_text(study)}); the legend says if it lies outside the axis." if chance_text(study) else ""
    optimum = _optimum_on(study, along)
    dotted = f"Dotted: {along.label} of the published optimum ({along.text(optimum)})." if optimum in along.values else ""
    return Plot(f"curve_{along.short}", title, tuple(filter(None, (chance, dotted))), partial(curve, along=along, lines=lines))


def curve(study: Study, along: Axis, lines: Axis | None) -> Figure:
    """The plan's metric along one axis, a line for each value of the other; bars are one standard deviation, chance is dashed."""
    plan = study.plan
    data = _curve_data(study, along, lines)
    figure = Figure(figsize=(WIDTH, _curve_height(along, len(set(data["line"])))), layout="constrained")
    axes = figure.subplots()
    hue: dict[str, Any]
    if lines is not None:
        order = [lines.text(value) for value in lines.values if lines.text(value) in set(data["line"])]
        hue = {"hue": "line", "hue_order": order, "style": "line", "style_order": order, "palette": _palette(len(order)), "dashes": False}
        hue |= {"markers": list(itertools.islice(itertools.cycle(_MARKERS), len(order)))}
    else:
        hue = {"color": sns.color_palette("colorblind")[0], "marker": "o"}
    sns.lineplot(
        data, x="x", y="y", errorbar="sd", err_style="bars", err_kws={"capsize": 2.5, "elinewidth": 1.0}, markersize=6, markeredgewidth=0.6, linewidth=1.4,
        linestyle="-" if along.numeric else "none", ax=axes, legend=False, **hue,
    )  # fmt: skip
    axes.set(xlabel=along.label, ylabel=plan.metric_label)
    _ticks(axes, along, sorted(set(data["x"])))
    handles = _line_handles(list(hue.get("hue_order", ())), "-" if along.numeric else "none")
    handles += _optimum_line(study, axes, along)
    handles += _chance_line(study, axes, data["y"])
    if handles:  # beside the axes, where it covers nothing
        title = lines.label if lines is not None else None
        figure.legend(handles=handles, title=title, loc="outside right upper", frameon=False, alignment="left")
    axes.grid(axis="y", color="#e6e6e6", linewidth=0.6)
    axes.set_axisbelow(True)
    sns.despine(ax=axes)
    return figure


def _curve_height(along: Axis, lines: int) -> float:
    """Inches: more where the legend has many lines or the names below the axis are long, so that the axes keep their height."""
    longest = max(len(along.text(value)) for value in along.values)
    below = 0.0 if along.numeric else 0.7 * _text_width(longest)  # turned by 45 degrees
    return max(2.9, 1.4 + 0.175 * lines, 2.3 + below)


def _line_handles(order: list[str], linestyle: str) -> list[Line2D]:
    markers = itertools.cycle(_MARKERS)
    return [
        Line2D(
            [], [], color=color, marker=marker, markersize=5.5, markeredgecolor="white", markeredgewidth=0.6,
            linewidth=1.4, linestyle=linestyle, label=label,
        )
        for label, color, marker in zip(order, _palette(len(order)), markers, strict=False)
    ]  # fmt: skip


def _optimum_on(study: Study, along: Axis) -> Any:
    """The published optimum's value on this axis; None if the paper names none."""
    return dict(zip((axis.key for axis in study.plan.axes), study.plan.published_optimum or (), strict=False)).get(along.key)


def _optimum_line(study: Study, axes: Axes, along: Axis) -> list[Line2D]:
    """A dotted line where the paper found the optimum, if that lies on the axis."""
    optimum = _optimum_on(study, along)
    if optimum not in along.values:
        return []
    x = float(optimum) if along.numeric else float(along.values.index(optimum))
    style = {"linestyle": ":", "color": _INK, "linewidth": 1.0}
    axes.axvline(x, zorder=0, **style)
    return [Line2D([], [], **style, label="published\noptimum")]


def _chance_line(study: Study, axes: Axes, values: pd.Series) -> list[Line2D]:
    """What guessing gives, as a dashed line. Far from it, the axis shows where the figures differ, and the legend says so."""
    key, name = study.plan.column
    axes.margins(y=0.1)
    chance = study.example(key).chance.get(name)
    if chance is None:
        return []
    low, high = values.min(), values.max()
    # only what is clearly no guessing may be enlarged, or differences within noise of chance would look large
    far = low > _CLEAR * chance if metric_of(name).higher_is_better else high < chance / _CLEAR
    far = far and abs((low if low > chance else high) - chance) > _FAR * max(high - low, _LEAST_SPAN)
    label = f"chance\n({chance_text(study)})"
    style = {"linestyle": (0, (4, 3)), "color": "#777777", "linewidth": 1.0}
    if far:
        bottom, top = axes.get_ylim()
        missing = max(0.0, _LEAST_SPAN - (top - bottom)) / 2
        axes.set_ylim(bottom - missing, top + missing)
        side = "below" if chance < low else "above"
        return [Line2D([], [], **style, label=f"{label}\n{side} the axis")]
    axes.axhline(chance, zorder=0, **style)
    if metric_of(name).higher_is_better:
        axes.set_ylim(bottom=min(0.0, chance))
    return [Line2D([], [], **style, label=label)]


def _curve_data(study: Study, along: Axis, lines: Axis | None) -> pd.DataFrame:
    """One row a seed."""
    keys = [axis.key for axis in study.plan.axes]
    rows = []
    for cell in study.plan.cells:
        values = dict(zip(keys, cell, strict=True))
        x = values[along.key]
        for value in study.values(cell, *study.plan.column).values():
            line = lines.text(values[lines.key]) if lines else ""
            rows.append({"x": float(x) if along.numeric else float(along.values.index(x)), "y": value, "line": line})
    return pd.DataFrame(rows, columns=["x", "y", "line"])


def _palette(count: int) -> list[tuple[float, float, float]]:
    """Distinguishable by colour-blind readers, and by their markers in any case."""
    base = sns.color_palette("colorblind")
    return list(base[:count]) if count <= len(base) else list(sns.color_palette("crest", count))


def _ticks(axes: Axes, along: Axis, measured: list[float]) -> None:
    """Ticks where something was measured; labels that would touch are turned."""
    axes.xaxis.set_major_locator(FixedLocator(measured))
    labels = [along.text(x if along.numeric else along.values[int(x)]) for x in measured]
    wide = WIDTH - 2.2  # inches, beside the legend
    span = (measured[-1] - measured[0]) or 1.0
    closest = min((b - a for a, b in itertools.pairwise(measured)), default=span)
    axes.set_xticks(measured, labels, **_turn(labels, wide * closest / span if along.numeric else wide / len(measured)))
    axes.margins(x=0.06 if along.numeric else 0.15)


def _text_width(letters: int) -> float:
    """Inches, about, of a tick's label."""
    return letters * _LETTER * _TICK_SIZE / 72


def _turn(labels: list[str], room: float) -> dict[str, Any]:
    """Labels lie flat if the longest fits into so many inches, else they are turned."""
    return (
        {"rotation": 0} if _text_width(max(map(len, labels))) + 0.06 <= room else {"rotation": 45, "ha": "right", "rotation_mode": "anchor"}
    )


# ---- captions -------------------------------------------------------------------------------------------------------------


def _spread_words(study: Study) -> str:
    counts = {len(study.values(cell, *study.plan.column)) for cell in study.plan.cells} - {0}
    if not counts:
        return "; nothing measured yet"
    if max(counts) == 1:
        return "; one seed"
    words = str(max(counts)) if len(counts) == 1 else f"{min(counts)} to {max(counts)}"
    return f"; mean and standard deviation over {words} seeds"


def _protocol_words(study: Study) -> list[str]:
    result = study.example(study.plan.column[0])
    return [f"Protocol: {protocol_text(result)}; {seeds_text(study)}."] if result else []
