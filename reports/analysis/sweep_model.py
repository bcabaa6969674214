"""The model of one sweep: its measured cells, those with identical runs once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np

from reports.analysis.cell_model import CellModel, fit, simultaneous
from reports.analysis.seed_statistics import Difference
from reports.analysis.stopped_sweeps import fixed_runs, fixed_values, run_results, stopped
from reports.study.report_plan import CellValues
from reports.study.sweep_results import SweepResults


@dataclass(frozen=True)
class SweepModel:
    """The model of a sweep's measured cells.

    Attributes:
        cells: measured cells, those with identical runs once.
        same_as: {cell: the earlier cell with identical runs}.
        model: None if there is no error to be estimated.
    """

    cells: tuple[CellValues, ...]
    same_as: Mapping[CellValues, CellValues]
    model: CellModel | None

    def index(self, cell: CellValues) -> int:
        """Returns the position of a cell in the model."""
        return self.cells.index(self.same_as.get(cell, cell))


def sweep_model(sweep: SweepResults) -> SweepModel:
    """Fits the model of the plan's metric; the baseline is the first of identical cells.

    Of a sweep with a stopping rule it has the seeds of the first look alone (`fixed_runs`).
    """
    return column_model(sweep, *sweep.plan.column)


def column_model(sweep: SweepResults, key: str, name: str) -> SweepModel:
    """Fits the model of any metric."""
    place = f"model of {key}/{name}"
    if place not in sweep.cache:
        same_as = _same_as(sweep)
        measured = (cell for cell in sweep.plan.cells if fixed_values(sweep, cell, key, name))
        cells = tuple(cell for cell in measured if cell not in same_as)
        model = fit([fixed_values(sweep, cell, key, name) for cell in cells])
        sweep.cache[place] = SweepModel(cells, same_as, model)
    found: SweepModel = sweep.cache[place]
    return found


def grid_model(sweep: SweepResults) -> SweepModel:
    """Fits the model of the cells of the grid alone, without the rows outside it."""
    fitted = sweep_model(sweep)
    cells = tuple(cell for cell in fitted.cells if not sweep.plan.is_control(cell))
    if len(cells) == len(fitted.cells):
        return fitted
    model = fit([fixed_values(sweep, cell, *sweep.plan.column) for cell in cells])
    return SweepModel(cells, fitted.same_as, model)


def _same_as(sweep: SweepResults) -> dict[CellValues, CellValues]:
    """Returns {cell: the earlier cell with identical runs}; the baseline comes first."""
    if "same_as" not in sweep.cache:
        first = baseline_of(sweep)
        measured = [cell for cell in sweep.plan.cells if fixed_runs(sweep, cell)]
        found: dict[CellValues, CellValues] = {}
        seen: dict[Any, CellValues] = {}
        for cell in sorted(measured, key=lambda cell: cell != first):
            runs = fixed_runs(sweep, cell)
            results = tuple((run.point.seed, run_results(run)) for run in runs)
            if results in seen:
                found[cell] = seen[results]
            elif all(digest for _, digest in results):
                seen[results] = cell
        sweep.cache["same_as"] = found
    same_as: dict[CellValues, CellValues] = sweep.cache["same_as"]
    return same_as


def baseline_of(sweep: SweepResults) -> CellValues | None:
    """Returns the cell that the others are compared with.

    That is the first measured one of: the baseline of the stopping rule, the plan's baseline, the
    published optimum, the first cell.
    """
    plan = sweep.plan
    wanted = (plan.rule_baseline, plan.baseline, plan.published_optimum, *plan.cells)
    return next(
        (cell for cell in wanted if cell is not None and sweep.values(cell, *plan.column)), None
    )


def against(
    sweep: SweepResults, cells: Sequence[CellValues], baseline: CellValues
) -> list[Difference]:
    """Returns each cell minus the baseline, identical cells counted once.

    If the sweep has a stopping rule for this baseline, its differences are returned.
    """
    if sweep.plan.until_decided is not None and baseline == sweep.plan.rule_baseline:
        ended = stopped(sweep)
        return [ended[cell].difference for cell in cells]
    fitted = sweep_model(sweep)
    distinct = list(dict.fromkeys(fitted.index(cell) for cell in cells))
    if fitted.model is None or not distinct:
        means = {
            cell: fmean(sweep.values(cell, *sweep.plan.column).values())
            for cell in (*cells, baseline)
        }
        return [Difference(means[cell] - means[baseline], None, None) for cell in cells]
    weights = np.zeros((len(distinct), len(fitted.cells)))
    weights[np.arange(len(distinct)), distinct] = 1.0
    weights[:, fitted.index(baseline)] = -1.0
    found = dict(zip(distinct, simultaneous(fitted.model, weights), strict=True))
    return [found[fitted.index(cell)] for cell in cells]
