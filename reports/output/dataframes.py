"""The figures in long form, for CSV: full precision, a row for each point, number or cell."""

from __future__ import annotations

from typing import Any

import pandas as pd

from reports.study.collect import Study
from reports.study.report_plan import Values
from simvtp.runs.results import Protocol


def points_frame(study: Study) -> pd.DataFrame:
    """One row a planned point: the cell, the seed, the plan's metric, the run. Empty values where
    there is no finished run.
    """
    key, name = study.plan.column
    runs = {run.point: run for run in study.runs}
    rows = []
    for point in sorted(
        study.plan.points, key=lambda point: (study.plan.cells.index(point.cell), point.seed)
    ):
        run = runs.get(point)
        value = study.values(point.cell, key, name).get(point.seed)
        rows.append(
            {
                **_settings(study, point.cell),
                "seed": point.seed,
                study.plan.metric: value,
                "run_id": run.run_id if run else "",
                "fingerprint": point.fingerprint,
            }
        )
    return pd.DataFrame(rows)


def metrics_frame(study: Study) -> pd.DataFrame:
    """One row a number: the cell, the seed, the run, the protocol, the metric, its value, what
    guessing and what each baseline gives.
    """
    rows = []
    for run in (run for cell in study.plan.cells for run in study.by_cell[cell]):
        for key in (key for key in study.keys if key in run.results):
            result = run.results[key]
            for name in (
                name
                for name in result.metrics
                if run.point.seed in study.values(run.point.cell, key, name)
            ):
                rows.append(
                    {
                        **_settings(study, run.point.cell),
                        "run_id": run.run_id,
                        **vars(result.protocol),
                        "queries": result.queries,
                        "gallery": result.gallery,
                        "metric": name,
                        "value": result.metrics[name],
                        "chance": result.chance.get(name),
                        **{
                            baseline: metrics.get(name)
                            for baseline, metrics in result.baselines.items()
                        },
                    }
                )
    baselines = dict.fromkeys(
        name for run in study.runs for result in run.results.values() for name in result.baselines
    )
    measured = (
        "run_id",
        *Protocol.__dataclass_fields__,
        "queries",
        "gallery",
        "metric",
        "value",
        "chance",
        *baselines,
    )
    return pd.DataFrame(rows, columns=[*(axis.key for axis in study.plan.axes), *measured])


def _settings(study: Study, cell: Values) -> dict[str, Any]:
    return {axis.key: value for axis, value in zip(study.plan.axes, cell, strict=True)}


def cells_frame(study: Study) -> pd.DataFrame:
    """One row a planned cell: for every metric of every protocol mean, standard deviation and
    number of seeds.
    """
    rows = []
    for cell in study.plan.cells:
        row = _settings(study, cell)
        for key in study.keys:
            for name in study.example(key).metrics:
                summary = study.summary(cell, key, name)
                row[f"{key}/{name}"] = summary.mean if summary else None
                row[f"{key}/{name}/std"] = summary.std if summary else None
                row[f"{key}/{name}/n"] = summary.n if summary else 0
        rows.append(row)
    return pd.DataFrame(rows)
