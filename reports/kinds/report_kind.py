"""What a kind of report is: the parts in which the report of a grid, of a search ... differ.
`kinds` lists them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pandas as pd

from reports.figures.costs import cost_tables
from reports.figures.curves import curve_plots
from reports.figures.heatmap import heat_plot
from reports.figures.style import Plot
from reports.output.dataframes import cells_frame, points_frame
from reports.output.layout import Table
from reports.output.tables import all_metrics, headline
from reports.papers.published import beside_published
from reports.statistics.comparisons import comparison_tables
from reports.statistics.verdict import sentences
from reports.study.collect import MakeAxis, Study
from reports.study.report_plan import plain_axis


def grid_plots(study: Study) -> list[Plot]:
    """A heat map for two axes, then the curves."""
    return [*([heat_plot(study)] if len(study.plan.axes) == 2 else []), *curve_plots(study)]


@dataclass(frozen=True)
class Kind:
    """The parts of a report; by default those of a grid.

    Attributes: make_axis: how the values of an axis are written and where they lie in a picture.
        tables: what stands at the top, and in table.md and table.tex. more: what stands below and
        in all.md and all.tex; called with `by_direction`: a table for each direction, for narrow
        pages. costs: what each cell cost; in costs.md, costs.tex. plots: the figures, before that
        of score against cost, which every kind but a search has. comparisons: each cell against a
        baseline, with tests; in comparisons.md, comparisons.tex. published: what the paper prints
        for each cell, mostly a dash; in published.md, published.tex. verdict: plain sentences on
        what came out. methods: whether the cells are methods, which then all stand beside the
        papers' rows. points, cells: table.csv (a row for each planned point) and all.csv.
    """

    make_axis: MakeAxis = plain_axis
    tables: Callable[[Study], tuple[Table, ...]] = headline
    more: Callable[[Study, bool], tuple[Table, ...]] = all_metrics
    comparisons: Callable[[Study], tuple[Table, ...]] = comparison_tables
    published: Callable[[Study], tuple[Table, ...]] = beside_published
    costs: Callable[[Study], tuple[Table, ...]] = cost_tables
    plots: Callable[[Study], list[Plot]] = grid_plots
    verdict: Callable[[Study], tuple[str, ...]] = sentences
    points: Callable[[Study], pd.DataFrame] = points_frame
    cells: Callable[[Study], pd.DataFrame] = cells_frame
    methods: bool = False
