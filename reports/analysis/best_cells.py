"""Finds the cells of a column that are not different from the best one, which tables print bold.

The best cell was picked after the fact, so it is compared by Tukey's intervals, which hold for any
pair. Where there is no test (one seed), the printed means are ranked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from reports.analysis.cell_model import any_pair
from reports.analysis.seed_statistics import competition_ranks
from reports.analysis.stopped_sweeps import fixed_values
from reports.analysis.sweep_model import column_model
from reports.output.metric_formats import metric_of
from reports.study.report_plan import CellValues
from reports.study.sweep_results import SweepResults


@dataclass(frozen=True)
class Ranking:
    """The ranks of cells in one column.

    Attributes:
        ranks: 1: the best or not different from it; 2: second best, only without a test; 0: other.
        tested: True if the ranks come from a test over seeds.
        best: position of the cell with the best mean; None if fewer than two have a value.
    """

    ranks: tuple[int, ...]
    tested: bool
    best: int | None


def rank_cells(sweep: SweepResults, cells: Sequence[CellValues], key: str, name: str) -> Ranking:
    """Ranks cells among themselves in one column; cells without a value get 0."""
    metric = metric_of(name)
    summaries = [sweep.summary(cell, key, name) for cell in cells]
    means = [summary.mean if summary else None for summary in summaries]
    order = competition_ranks(means, metric.decimals, metric.higher_is_better)
    if 1 not in order:
        return Ranking(tuple(order), False, None)
    sign = 1 if metric.higher_is_better else -1
    # of a sweep with a stopping rule the seeds of the first look, which all cells have
    fixed = [fixed_values(sweep, cell, key, name) for cell in cells]
    means = [fmean(values.values()) if values else None for values in fixed]
    measured = [number for number, mean in enumerate(means) if mean is not None]
    if len(measured) < 2:
        return Ranking(tuple(order), False, None)
    best = max(measured, key=lambda number: sign * (means[number] or 0.0))
    fitted = column_model(sweep, key, name)
    if fitted.model is None:
        return Ranking(tuple(order), False, best)
    first, ranks = fitted.index(cells[best]), [0] * len(cells)
    for number in measured:
        other = fitted.index(cells[number])
        interval = None if other == first else any_pair(fitted.model, first, other).interval
        ranks[number] = int(interval is None or interval[0] <= 0 <= interval[1])
    return Ranking(tuple(ranks), True, best)
