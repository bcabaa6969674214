"""Makes the results in long form, for CSV: full precision, a row for each point, value or cell."""

from __future__ import annotations

from typing import Any

import pandas as pd

from reports.study.report_plan import CellValues
from reports.study.sweep_results import MeasuredRun, SweepResults
from simvtp.runs.results import Protocol


def points_frame(sweep: SweepResults) -> pd.DataFrame:
    """Returns a row for each planned point: cell, seed, the plan's metric, run.

    Values are empty where there is no finished run.
    """
    plan = sweep.plan
    runs = {run.point: run for run in sweep.runs}
    order = {cell: number for number, cell in enumerate(plan.cells)}
    rows = []
    for point in sorted(plan.points, key=lambda point: (order[point.cell], point.seed)):
        run = runs.get(point)
        rows.append(
            {
                **plan.settings(point.cell),
                "seed": point.seed,
                plan.metric: sweep.values(point.cell, *plan.column).get(point.seed),
                "run_id": run.run_id if run else "",
                "fingerprint": point.fingerprint,
            }
        )
    return pd.DataFrame(rows)


def metrics_frame(sweep: SweepResults) -> pd.DataFrame:
    """Returns a row for each value: cell, run, protocol, metric, value, chance and baselines."""
    plan = sweep.plan
    rows = [
        row
        for cell in plan.cells
        for run in sweep.by_cell[cell]
        for key in sweep.keys
        if key in run.results
        for row in _metric_rows(sweep, cell, run, key)
    ]
    baselines = dict.fromkeys(
        name for run in sweep.runs for result in run.results.values() for name in result.baselines
    )
    measured = ("queries", "gallery", "metric", "value", "chance", *baselines)
    protocol = tuple(Protocol.__dataclass_fields__)
    columns = [*(axis.key for axis in plan.axes), "run_id", *protocol, *measured]
    return pd.DataFrame(rows, columns=columns)


def _metric_rows(
    sweep: SweepResults, cell: CellValues, run: MeasuredRun, key: str
) -> list[dict[str, Any]]:
    result = run.results[key]
    return [
        {
            **sweep.plan.settings(cell),
            "run_id": run.run_id,
            **vars(result.protocol),
            "queries": result.queries,
            "gallery": result.gallery,
            "metric": name,
            "value": value,
            "chance": result.chance.get(name),
            **{baseline: metrics.get(name) for baseline, metrics in result.baselines.items()},
        }
        for name, value in result.metrics.items()
        if run.point.seed in sweep.values(cell, key, name)
    ]


def cells_frame(sweep: SweepResults) -> pd.DataFrame:
    """Returns a row for each planned cell: mean, standard deviation and n of every metric."""
    rows = []
    for cell in sweep.plan.cells:
        row = sweep.plan.settings(cell)
        for key in sweep.keys:
            for name in sweep.example(key).metrics:
                summary = sweep.summary(cell, key, name)
                row[f"{key}/{name}"] = summary.mean if summary else None
                row[f"{key}/{name}/std"] = summary.std if summary else None
                row[f"{key}/{name}/n"] = summary.n if summary else 0
        rows.append(row)
    return pd.DataFrame(rows)
