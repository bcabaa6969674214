"""Which losses: a table with a tick for each loss that is on, and the figures of the subsets below
each other.
"""

from __future__ import annotations

import math
import re

import numpy as np
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from reports.figures.style import WIDTH, Plot, baseline_lines, spread_words
from reports.kinds.report_kind import Kind, grid_plots
from reports.output.layout import DAGGER, TICK, Cell, Column, Table
from reports.output.metric_formats import metric_of
from reports.output.tables import (
    baselines_text,
    chance_text,
    figures,
    headline,
    headline_table,
    seed_count,
)
from reports.study.collect import Study
from reports.study.report_plan import Values

# one part of a name: `MVM`, or with a weight `0.5 VTC`, `VTC×0.5`, `VTC=0.5`
_PART = re.compile(
    r"(?:(?P<before>[\d.]+)\s*[×x*]?\s*)?(?P<loss>[A-Za-z]+)(?:\s*[×x*=:]\s*(?P<after>[\d.]+))?"
)


def parts(name: str) -> dict[str, str] | None:
    """{loss: tick or weight} of `MVM+MLM+0.5 VTC`; None for a name of another form."""
    found = [_PART.fullmatch(part.strip()) for part in name.split("+")]
    if not all(found):
        return None
    return {
        match["loss"].upper(): match["before"] or match["after"] or TICK for match in found if match
    }


def tables(study: Study) -> tuple[Table, ...]:
    """A column for each loss. Other names, or more axes than one, get the table of any grid."""
    plan = study.plan
    read = {cell: parts(_name(study, cell)) for cell in plan.cells}
    if len(plan.axes) != 1 or not all(read.values()):
        return headline(study)
    names = list(dict.fromkeys(loss for on in read.values() for loss in on or ()))
    columns = [
        *(Column(name, is_label=True) for name in names),
        Column(plan.metric_label),
        Column("n"),
    ]
    made = figures(study, plan.cells, *plan.column)  # the published optimum is marked at its figure
    rows = []
    for cell, figure in zip(plan.cells, made, strict=True):
        ticks = [Cell((read[cell] or {}).get(name, "")) for name in names]
        rows.append(
            (*ticks, figure, seed_count(study, cell, len(study.values(cell, *plan.column))))
        )
    return (headline_table(study, columns, rows),)


def plots(study: Study) -> list[Plot]:
    """The figures of the subsets below each other: their names are too long to stand below an axis."""
    plan = study.plan
    if len(plan.axes) != 1:
        return grid_plots(study)
    if sum(bool(study.values(cell, *plan.column)) for cell in plan.cells) < 2:
        return []
    chance = f"Dashed: chance ({chance_text(study)})." if chance_text(study) else ""
    others = f"Dash-dotted: {'; '.join(baselines_text(study))}." if baselines_text(study) else ""
    optimum = f"{DAGGER}: the published optimum." if plan.published_optimum in plan.cells else ""
    missing = any(not study.values(cell, *plan.column) for cell in plan.cells)
    empty = "A line without a dot: planned, no figure from a finished run." if missing else ""
    title = f"{plan.metric_label} of each set of losses{spread_words(study)}."
    return [Plot("losses", title, tuple(filter(None, (chance, others, optimum, empty))), dots)]


def dots(study: Study) -> Figure:
    """A dot with one standard deviation for each subset, the first of the plan on top."""
    plan = study.plan
    key, name = plan.column
    summaries = [study.summary(cell, key, name) for cell in plan.cells]
    places = np.arange(len(summaries))[::-1]
    color = sns.color_palette("colorblind")[0]
    others = len(study.baselines(key, name))  # each has an entry in the legend
    figure = Figure(
        figsize=(WIDTH, 0.9 + 0.24 * len(summaries) + 0.22 * math.ceil(others / 2)),
        layout="constrained",
    )
    axes = figure.subplots()
    for place, summary in zip(places, summaries, strict=True):
        if summary is not None:
            axes.errorbar(
                summary.mean,
                place,
                xerr=summary.std,
                fmt="o",
                color=color,
                markersize=6,
                markeredgecolor="white",
                elinewidth=1.0,
                capsize=2.5,
            )
    marks = [DAGGER if cell == plan.published_optimum else "" for cell in plan.cells]
    axes.set_yticks(
        places,
        [f"{_name(study, cell)}{mark}" for cell, mark in zip(plan.cells, marks, strict=True)],
    )
    axes.set(xlabel=plan.metric_label, ylim=(-0.6, len(summaries) - 0.4))
    axes.grid(axis="both", color="#e6e6e6", linewidth=0.6)
    axes.set_axisbelow(True)
    result = study.example(key)
    chance = result.chance.get(name) if result else None
    handles = baseline_lines(study, axes.axvline, axes.axvspan, between=" ")
    if chance is not None:
        style = {"linestyle": (0, (4, 3)), "color": "#777777", "linewidth": 1.0}
        axes.axvline(chance, zorder=0, **style)
        handles.insert(0, Line2D([], [], **style, label=f"chance ({chance_text(study)})"))
        if metric_of(name).higher_is_better:
            axes.set_xlim(left=min(0.0, chance))
    if handles:
        figure.legend(
            handles=handles, loc="outside lower right", ncols=min(2, len(handles)), frameon=False
        )
    axes.tick_params(axis="y", length=0)
    sns.despine(ax=axes, left=True)
    return figure


def _name(study: Study, cell: Values) -> str:
    return study.plan.axes[0].text(cell[0])


KIND = Kind(tables=tables, plots=plots)
