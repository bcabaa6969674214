"""Base of the report types: the parts in which reports of a grid, of a search and so on differ.

`reports.kinds.registry` lists the types.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pandas as pd

from reports.analysis.across.crossing_tables import crossing_tables
from reports.analysis.across.signal_tables import signal_tables
from reports.analysis.comparisons import comparison_tables
from reports.analysis.effects import effect_tables
from reports.analysis.verdict import sentences
from reports.figures.costs import cost_tables
from reports.figures.curves import curve_plots
from reports.figures.heatmap import heat_plot
from reports.figures.style import Plot
from reports.output.all_metrics import all_metrics
from reports.output.dataframes import cells_frame, points_frame
from reports.output.layout import Table
from reports.output.tables import headline
from reports.output.use_tables import use_tables
from reports.papers.published import published_table
from reports.study.report_plan import MakeAxis, plain_axis
from reports.study.sweep_results import SweepResults


def grid_plots(sweep: SweepResults) -> list[Plot]:
    """Returns a heat map for two axes, then the curves."""
    heat_maps = [heat_plot(sweep)] if len(sweep.plan.axes) == 2 else []
    return [*heat_maps, *curve_plots(sweep)]


@dataclass(frozen=True)
class ReportType:
    """The parts of a report; the defaults are those of a grid.

    Attributes:
        make_axis: makes an axis: how its values are written and drawn.
        tables: at the top, and in table.md and table.tex.
        more: below, and in all.md and all.tex; called with `by_direction`: a table for each
            direction, for narrow pages.
        comparisons: each cell against a baseline, with tests; in comparisons.md, comparisons.tex.
        effects: by the design of the sweep: a grid's effects, trends, rungs; in effects.md,
            effects.tex.
        signal: signal and noise of each metric, and decision accuracy to other scales; in
            signal.md, signal.tex.
        crossings: cells against the baseline at equal compute, from scores during pre-training; in
            crossings.md, crossings.tex.
        use: what each model uses, by manipulation checks; in use.md, use.tex.
        published: the paper's value for each cell, mostly a dash; in published.md, published.tex.
        costs: cost of each cell; in costs.md, costs.tex.
        plots: figures before that of score against cost, which every type but a search has.
        verdict: plain sentences on the result.
        points: rows of table.csv, one for each planned point.
        cells: rows of all.csv.
        methods: True if the cells are methods, which are then all listed with the papers' rows.
    """

    make_axis: MakeAxis = plain_axis
    tables: Callable[[SweepResults], tuple[Table, ...]] = headline
    more: Callable[[SweepResults, bool], tuple[Table, ...]] = all_metrics
    comparisons: Callable[[SweepResults], tuple[Table, ...]] = comparison_tables
    effects: Callable[[SweepResults], tuple[Table, ...]] = effect_tables
    signal: Callable[[SweepResults, Sequence[SweepResults]], tuple[Table, ...]] = signal_tables
    crossings: Callable[[SweepResults], tuple[Table, ...]] = crossing_tables
    use: Callable[[SweepResults], tuple[Table, ...]] = use_tables
    published: Callable[[SweepResults], tuple[Table, ...]] = published_table
    costs: Callable[[SweepResults], tuple[Table, ...]] = cost_tables
    plots: Callable[[SweepResults], list[Plot]] = grid_plots
    verdict: Callable[[SweepResults], tuple[str, ...]] = sentences
    points: Callable[[SweepResults], pd.DataFrame] = points_frame
    cells: Callable[[SweepResults], pd.DataFrame] = cells_frame
    methods: bool = False
