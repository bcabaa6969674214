"""Pictures of a search: the front of two objectives, the best so far, each parameter against the
figure of quality.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullLocator

from reports.figures.style import INK, PALE, WIDTH, Plot
from reports.kinds.search_trials import Trial, best_first, objectives_of, pareto_front, trials_of
from reports.study.collect import Study
from reports.study.report_plan import Axis

_ACCENT = "#d55e00"  # the best, as in the heat map
_MAIN = sns.color_palette("colorblind")[0]
_COLUMNS = 3  # panels in a row
_LOG_FROM = 20.0  # costs whose largest is so many times the smallest get a logarithmic axis
_GRID: dict[str, Any] = {"color": "#e6e6e6", "linewidth": 0.6}


def search_plots(study: Study) -> list[Plot]:
    """Pictures for which there are enough finished trials."""
    trials, objectives = trials_of(study), objectives_of(study)
    ranked = best_first(trials, objectives[0])
    if len(ranked) < 2:
        return []
    quality, best = (
        objectives[0].label,
        f"Orange: trial {ranked[0].number}, the best by {objectives[0].label}.",
    )
    once = "Each trial ran once."
    plots = []
    if len(objectives) == 2:
        title = f"{quality} against {objectives[1].label} of {len([t for t in trials if t.complete])} finished trials."
        reading = (
            "Dark, joined by steps: the Pareto front; pale: trials that another beats in both.",
            best,
            once,
        )
        plots.append(Plot("pareto", title, reading, pareto))
    without = (
        "Crosses at the foot: trials without a figure, by the reason."
        if len(ranked) < len(trials)
        else ""
    )
    plots.append(
        Plot(
            "history",
            f"{quality} of each trial in the order in which they were asked for.",
            tuple(filter(None, ("Line: the best so far.", best, without))),
            history,
        )
    )
    panels = [axis.label for axis in varied(study, ranked)]
    if panels:
        plots.append(
            Plot(
                "slices",
                f"{quality} over {_listed(panels)}.",
                ("Darker: later trials.", best, once),
                slices,
            )
        )
    return plots


def pareto(study: Study) -> Figure:
    """Cost across, quality up."""
    trials, objectives = trials_of(study), objectives_of(study)
    quality, cost = objectives
    front = sorted(
        pareto_front(trials, objectives), key=lambda trial: (trial.values[1], trial.values[0])
    )
    best = best_first([trial for trial in trials if trial.complete], quality)[0]
    figure = Figure(figsize=(WIDTH, 3.1), layout="constrained")
    axes = figure.subplots()
    beaten = [trial for trial in trials if trial.complete and trial not in front]
    axes.plot(
        [t.values[1] for t in beaten],
        [t.values[0] for t in beaten],
        "o",
        color=PALE,
        alpha=0.55,
        markersize=4.5,
        markeredgewidth=0,
    )
    axes.plot(
        [t.values[1] for t in front], [t.values[0] for t in front], "-o", color=_MAIN, markersize=6, markeredgecolor="white",
        markeredgewidth=0.6, linewidth=1.2, drawstyle="steps-pre" if cost.maximise else "steps-post", zorder=3,
    )  # fmt: skip
    _star(axes, best.values[1], best.values[0])
    axes.set(xlabel=cost.label, ylabel=quality.label)
    costs = [trial.values[1] for trial in trials if trial.complete]
    if min(costs) > 0 and max(costs) / min(costs) > _LOG_FROM:
        _log_axis(axes)
    axes.margins(x=0.08, y=0.12)
    entries = [
        _dot(PALE, f"beaten ({len(beaten)})"),
        _dot(_MAIN, f"Pareto front ({len(front)})", "-"),
        _best_handle(best),
    ]
    _below(figure, entries if beaten else entries[1:])
    _finish(axes)
    return figure


def history(study: Study) -> Figure:
    """Quality over the number of the trial."""
    trials, quality = trials_of(study), objectives_of(study)[0]
    measured = [trial for trial in trials if trial.values[0] is not None]
    best = best_first(trials, quality)[0]
    so_far: list[float] = []
    for trial in measured:
        so_far.append((max if quality.maximise else min)([*so_far[-1:], trial.values[0]]))
    figure = Figure(figsize=(WIDTH, 2.9), layout="constrained")
    axes = figure.subplots()
    axes.plot(
        [t.number for t in measured],
        [t.values[0] for t in measured],
        "o",
        color=PALE,
        markersize=4.5,
        markeredgewidth=0,
    )
    axes.step(
        [*(t.number for t in measured), len(trials) - 1],
        [*so_far, so_far[-1]],
        where="post",
        color=_MAIN,
        linewidth=1.4,
    )
    _star(axes, best.number, best.values[0])
    axes.set(xlabel="trial", ylabel=quality.label)
    axes.margins(x=0.03, y=0.12)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    entries = [
        _dot(PALE, "trial"),
        Line2D([], [], color=_MAIN, linewidth=1.4, label="best so far"),
        _best_handle(best),
    ]
    bare: dict[str, list[int]] = {}
    for trial in trials:
        if trial.values[0] is None:
            bare.setdefault(trial.state, []).append(trial.number)
    for (state, numbers), marker in zip(
        sorted(bare.items()), ("x", "+", "1", "2", "3", "4", "|", "_"), strict=False
    ):
        style: dict[str, Any] = {
            "linestyle": "none",
            "marker": marker,
            "color": INK,
            "markersize": 4.5,
            "markeredgewidth": 0.9,
        }
        axes.plot(
            numbers,
            [0.025] * len(numbers),
            transform=axes.get_xaxis_transform(),
            clip_on=False,
            **style,
        )
        entries.append(Line2D([], [], **style, label=f"{state} ({len(numbers)})"))
    _below(figure, entries)
    _finish(axes)
    return figure


def varied(study: Study, trials: Sequence[Trial]) -> list[Axis]:
    """The parameters of which these trials have more than one value."""
    return [
        axis
        for number, axis in enumerate(study.plan.axes)
        if len({trial.cell[number] for trial in trials} - {None}) > 1
    ]


def slices(study: Study) -> Figure:
    """A panel for each parameter that was varied: its values across, quality up."""
    objective = objectives_of(study)[0]
    ranked = best_first(trials_of(study), objective)
    shown = varied(study, ranked)
    columns = 2 if len(shown) == 4 else min(_COLUMNS, len(shown))
    rows = math.ceil(len(shown) / columns)
    figure = Figure(figsize=(WIDTH, 0.35 + 1.75 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, sharey=True, squeeze=False)
    for panel, axis in zip(grid.flat, shown, strict=False):
        _slice(panel, study, axis, ranked)
    for panel in list(grid.flat)[len(shown) :]:
        panel.set_visible(False)
    figure.supylabel(objective.label, fontsize=9.0)
    return figure


def _slice(axes: Axes, study: Study, axis: Axis, ranked: Sequence[Trial]) -> None:
    number = study.plan.axes.index(axis)
    held = sorted(
        (trial for trial in ranked if trial.cell[number] is not None),
        key=lambda trial: trial.number,
    )
    places = [_place(axis, trial.cell[number]) for trial in held]
    shades = sns.color_palette("crest", as_cmap=True)
    last = max(trial.number for trial in held) or 1
    axes.scatter(
        places,
        [t.values[0] for t in held],
        c=[shades(t.number / last) for t in held],
        s=15,
        linewidths=0.3,
        edgecolors="white",
        zorder=2,
    )
    if ranked[0].cell[number] is not None:
        _star(axes, _place(axis, ranked[0].cell[number]), ranked[0].values[0], size=10)
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
    axes.set_xlabel(axis.label, fontsize=8.0, labelpad=2)
    axes.tick_params(labelsize=7.5)
    axes.margins(x=0.1, y=0.12)
    _finish(axes)


def _log_axis(axes: Axes) -> None:
    """Few plain numbers (0.2, 0.5, 1): the usual labels of a short range lie on top of each other."""
    axes.set_xscale("log")
    low, high = axes.dataLim.intervalx
    decades = math.log10(high / low) if low > 0 else 0.0
    axes.xaxis.set_major_locator(
        LogLocator(subs=(1.0, 2.0, 5.0) if decades <= 1 else (1.0, 3.0) if decades <= 2 else (1.0,))
    )
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, place: f"{value:g}"))
    axes.xaxis.set_minor_locator(NullLocator())


def _place(axis: Axis, value: Any) -> float:
    return float(value) if axis.numeric else float(axis.values.index(value))


def _star(axes: Axes, x: float | None, y: float | None, size: float = 12) -> None:
    axes.plot(
        [x],
        [y],
        "*",
        color=_ACCENT,
        markersize=size,
        markeredgecolor="white",
        markeredgewidth=0.6,
        zorder=5,
    )


def _best_handle(best: Trial) -> Line2D:
    label = f"best (trial {best.number})"
    return Line2D(
        [],
        [],
        linestyle="none",
        marker="*",
        color=_ACCENT,
        markersize=10,
        markeredgecolor="white",
        markeredgewidth=0.6,
        label=label,
    )


def _dot(color: Any, label: str, linestyle: str = "none") -> Line2D:
    return Line2D(
        [],
        [],
        linestyle=linestyle,
        marker="o",
        color=color,
        markersize=5,
        markeredgewidth=0,
        linewidth=1.2,
        label=label,
    )


def _below(figure: Figure, entries: list[Line2D]) -> None:
    columns = len(entries) if len(entries) <= 3 else math.ceil(len(entries) / 2)
    figure.legend(
        handles=entries,
        loc="outside lower center",
        ncols=columns,
        frameon=False,
        handletextpad=0.5,
        columnspacing=1.4,
    )


def _finish(axes: Axes) -> None:
    axes.grid(**_GRID)
    axes.set_axisbelow(True)
    sns.despine(ax=axes)


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
