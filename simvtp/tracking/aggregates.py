"""Metrics of a whole sweep, for its parent run. Nothing here imports a tracker.

A grid is averaged over its seeds. The points of a search are not: each differs from the others in
its settings.
"""

from __future__ import annotations

import json
import math
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from simvtp.runs.sweep_plan import SweepPlan
from simvtp.tracking.address import mlflow_name
from simvtp.tracking.store import MetricPoint, finite


@dataclass(frozen=True)
class PointSummary:
    """State of one point of a sweep.

    Attributes:
        fingerprint: of its experiment.
        state: queued, running, finished, failed, stopped, killed, cancelled or pruned.
        value: of the plan's metric; None unless finished.
        finished_at: seconds since 1970.
        cpu_hours: CPU-hours over all attempts.
        gpu_hours: GPU-hours over all attempts.
        values: of the objectives of a search, in the order of the plan; empty unless finished.
    """

    fingerprint: str
    state: str
    value: float | None = None
    finished_at: float = 0.0
    cpu_hours: float = 0.0
    gpu_hours: float = 0.0
    values: tuple[float | None, ...] = ()


def aggregates(plan: SweepPlan, summaries: Sequence[PointSummary]) -> list[MetricPoint]:
    """Returns the metrics of the parent run.

    Series over the number of finished points, in the order of their end: `progress/finished`,
    `progress/value`, `progress/best`. Single values: `points/*`, `cost/*`, `best/<metric>` and
    `best/<axis>` (cell with the best mean over seeds). For a grid also `cell/<cell>` (mean over
    seeds) and `mean by <axis>/<value>` (mean over the cells that share this value); for a search
    with several objectives `pareto/size`.
    """
    finished = sorted(
        (s for s in summaries if s.value is not None), key=lambda s: (s.finished_at, s.fingerprint)
    )
    values: dict[str, float] = {
        "points/planned": max(len(plan.points), plan.trials),
        "points/finished": len(finished),
        "points/failed": sum(s.state == "failed" for s in summaries),
        "points/cancelled": sum(s.state == "cancelled" for s in summaries),
        "cost/cpu_hours": sum(s.cpu_hours for s in summaries),
        "cost/gpu_hours": sum(s.gpu_hours for s in summaries),
    }
    means = _cell_means(plan, summaries)
    names = _axis_names(plan)
    values |= _search_values(plan, summaries) if plan.is_search else _grid_values(names, means)
    best = best_cell(plan, summaries)
    if best:
        values[f"best/{plan.metric}"] = means[_cell_key(plan, best)]
        for key, value in best.items():
            if isinstance(value, int | float):
                values[f"best/{names[key]}"] = value
    now = int(time.time() * 1000)
    return _progress(plan, finished) + [
        MetricPoint(mlflow_name(key), float(value), 0, now, single=True)
        for key, value in values.items()
    ]


def best_cell(plan: SweepPlan, summaries: Sequence[PointSummary]) -> dict[str, Any]:
    """Returns the cell with the best mean over seeds; empty as long as there is none."""
    means = _cell_means(plan, summaries)
    if not means:
        return {}
    better = max if plan.maximizes(plan.metric) else min
    found: dict[str, Any] = json.loads(better(means, key=lambda cell: means[cell]))
    return found


def pareto(scores: Sequence[Sequence[float]]) -> list[int]:
    """Returns the indices of the scores that no other one dominates (in all parts more is better).

    A score dominates another one if it is as good in all parts and better in one.
    """
    front: list[int] = []
    # a dominating score sorts before those that it dominates
    for number in sorted(range(len(scores)), key=lambda one: tuple(scores[one]), reverse=True):
        score = tuple(scores[number])
        if not any(_dominates(tuple(scores[other]), score) for other in front):
            front.append(number)
    return sorted(front)


def _dominates(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one != other and all(a >= b for a, b in zip(one, other, strict=True))


def _progress(plan: SweepPlan, finished: Sequence[PointSummary]) -> list[MetricPoint]:
    better = max if plan.maximizes(plan.metric) else min
    points: list[MetricPoint] = []
    best = math.nan
    for number, summary in enumerate(finished, start=1):
        value, moment = finite(summary.value), int(summary.finished_at * 1000)
        if math.isnan(best):
            best = value
        elif not math.isnan(value):
            best = better(best, value)
        for name, shown in (("finished", float(number)), ("value", value), ("best", best)):
            points.append(MetricPoint(f"progress/{name}", shown, number, moment))
    return points


def _grid_values(names: Mapping[str, str], means: Mapping[str, float]) -> dict[str, float]:
    values = {}
    for cell, mean in means.items():
        words = [f"{names[key]} {value}" for key, value in json.loads(cell).items()]
        values["cell/" + " ".join(words)] = mean
    for key, name in names.items():
        by_value: dict[str, list[float]] = {}
        for cell, mean in means.items():
            by_value.setdefault(str(json.loads(cell)[key]), []).append(mean)
        for value, some in by_value.items():
            values[f"mean by {name}/{value}"] = statistics.fmean(some)
    return values


def _search_values(plan: SweepPlan, summaries: Sequence[PointSummary]) -> dict[str, float]:
    values = {"points/pruned": float(sum(s.state == "pruned" for s in summaries))}
    signs = [1 if objective.maximized else -1 for objective in plan.objectives]
    if len(signs) < 2:
        return values
    scores = []
    for summary in summaries:
        measured = [v for v in summary.values if v is not None and not math.isnan(v)]
        if len(measured) == len(signs):
            scores.append([sign * v for sign, v in zip(signs, measured, strict=True)])
    return values | {"pareto/size": float(len(pareto(scores)))}


def _cell_key(plan: SweepPlan, cell: Mapping[str, Any]) -> str:
    """Returns the cell as text, in the order of the plan's axes."""
    return json.dumps({axis.key: cell[axis.key] for axis in plan.axes})


def _cell_means(plan: SweepPlan, summaries: Sequence[PointSummary]) -> dict[str, float]:
    """Returns the mean over the finished seeds of each cell, in the order of the plan.

    Values that are no numbers are left out.
    """
    values = {s.fingerprint: finite(s.value) for s in summaries if s.value is not None}
    cells: dict[str, list[float]] = {}
    for point in plan.points:
        value = values.get(point.fingerprint)
        if value is not None and not math.isnan(value):
            cells.setdefault(_cell_key(plan, point.cell), []).append(value)
    return {cell: statistics.fmean(some) for cell, some in cells.items()}


def _axis_names(plan: SweepPlan) -> dict[str, str]:
    """Returns `video_ratio` for `masks.video_ratio`, as long as that is unambiguous."""
    keys = [axis.key for axis in plan.axes]
    short = [key.rpartition(".")[2] for key in keys]
    return dict(zip(keys, short if len(set(short)) == len(short) else keys, strict=True))
