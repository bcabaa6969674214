"""The figures of a whole sweep, for its parent run. Nothing here knows of a tracker.

A grid is averaged over its seeds. The points of a search are not: each differs from the others in
its settings.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from simvtp.runs.metric_names import LOWER_IS_BETTER
from simvtp.tracking.address import metric_name
from simvtp.tracking.store import Point, finite

SEARCH = "search"  # `kind` in plan.json


@dataclass(frozen=True)
class PointSummary:
    """How one point of a sweep stands.

    Attributes:
        state: queued, running, finished, failed, stopped, killed, cancelled or pruned.
        value: the plan's metric; None unless finished.
        finished_at: seconds since 1970.
        values: the objectives of a search, in the order of the plan; empty unless finished.
    """

    fingerprint: str
    state: str
    value: float | None = None
    finished_at: float = 0.0
    cpu_hours: float = 0.0
    gpu_hours: float = 0.0
    values: tuple[float | None, ...] = ()


def aggregates(plan: Mapping[str, Any], summaries: Sequence[PointSummary]) -> list[Point]:
    """The figures of the parent run.

    Series over the number of finished points, in the order of their end: `progress/finished`,
    `progress/value`, `progress/best`. Single figures: `points/*`, `cost/*`, `best/<metric>` and
    `best/<axis>` (cell with the best mean over seeds). For a grid also `cell/<cell>` (mean over
    seeds) and `mean by <axis>/<value>` (mean over the cells that share this value); for a search
    with several objectives `pareto/size`.
    """
    finished = sorted(
        (s for s in summaries if s.value is not None), key=lambda s: (s.finished_at, s.fingerprint)
    )
    figures: dict[str, float] = {
        "points/planned": max(len(plan["points"]), int(plan.get("trials", 0))),
        "points/finished": len(finished),
        "points/failed": sum(s.state == "failed" for s in summaries),
        "points/cancelled": sum(s.state == "cancelled" for s in summaries),
        "cost/cpu_hours": sum(s.cpu_hours for s in summaries),
        "cost/gpu_hours": sum(s.gpu_hours for s in summaries),
    }
    means = _cell_means(plan, summaries)
    names = _axis_names(plan)
    figures |= _of_search(plan, summaries) if plan.get("kind") == SEARCH else _of_grid(names, means)
    best = best_cell(plan, summaries)
    if best:
        figures[f"best/{plan['metric']}"] = means[_cell_key(plan, best)]
        figures |= {
            f"best/{names[key]}": value
            for key, value in best.items()
            if isinstance(value, int | float)
        }
    now = int(time.time() * 1000)
    return _progress(plan, finished) + [
        Point(metric_name(key), float(value), 0, now, single=True) for key, value in figures.items()
    ]


def best_cell(plan: Mapping[str, Any], summaries: Sequence[PointSummary]) -> dict[str, Any]:
    """The cell with the best mean over seeds; empty as long as there is none."""
    means = _cell_means(plan, summaries)
    if not means:
        return {}
    better = max if _maximised(plan, plan["metric"]) else min
    found: dict[str, Any] = json.loads(better(means, key=lambda cell: means[cell]))
    return found


def pareto(scores: Sequence[Sequence[float]]) -> list[int]:
    """Places of the scores that no other beats (all parts: more is better): none is as good in all
    parts and better in one.
    """
    front: list[int] = []
    for number in sorted(
        range(len(scores)), key=lambda number: tuple(scores[number]), reverse=True
    ):  # whoever beats a score comes before it
        score = tuple(scores[number])
        if not any(
            tuple(scores[other]) != score
            and all(a >= b for a, b in zip(scores[other], score, strict=True))
            for other in front
        ):
            front.append(number)
    return sorted(front)


def _progress(plan: Mapping[str, Any], finished: Sequence[PointSummary]) -> list[Point]:
    better = max if _maximised(plan, plan["metric"]) else min
    points: list[Point] = []
    best = float("nan")
    for number, summary in enumerate(finished, start=1):
        value, moment = finite(summary.value), int(summary.finished_at * 1000)
        best = value if best != best else best if value != value else better(best, value)
        for name, figure in (("finished", float(number)), ("value", value), ("best", best)):
            points.append(Point(f"progress/{name}", figure, number, moment))
    return points


def _of_grid(names: Mapping[str, str], means: Mapping[str, float]) -> dict[str, float]:
    figures = {}
    for cell, mean in means.items():
        figures[
            "cell/" + " ".join(f"{names[key]} {value}" for key, value in json.loads(cell).items())
        ] = mean
    for key, name in names.items():
        by_value: dict[str, list[float]] = {}
        for cell, mean in means.items():
            by_value.setdefault(str(json.loads(cell)[key]), []).append(mean)
        figures |= {
            f"mean by {name}/{value}": statistics.fmean(some) for value, some in by_value.items()
        }
    return figures


def _of_search(plan: Mapping[str, Any], summaries: Sequence[PointSummary]) -> dict[str, float]:
    figures = {"points/pruned": float(sum(s.state == "pruned" for s in summaries))}
    objectives = plan.get("objectives", ())
    if len(objectives) > 1:
        signs = [1 if objective["direction"] == "maximize" else -1 for objective in objectives]
        whole = [
            values
            for s in summaries
            if len(values := [v for v in s.values if v is not None and v == v]) == len(signs)
        ]
        figures["pareto/size"] = float(
            len(
                pareto(
                    [[sign * v for sign, v in zip(signs, values, strict=True)] for values in whole]
                )
            )
        )
    return figures


def _maximised(plan: Mapping[str, Any], metric: str) -> bool:
    """What a search says of its objective; else more is better, but for ranks and errors."""
    said = {
        objective["metric"]: objective["direction"] == "maximize"
        for objective in plan.get("objectives", ())
    }
    return said.get(metric, metric.rpartition("/")[2] not in LOWER_IS_BETTER)


def _cell_key(plan: Mapping[str, Any], cell: Mapping[str, Any]) -> str:
    """The cell as text, in the order of the plan's axes."""
    return json.dumps({axis["key"]: cell[axis["key"]] for axis in plan["axes"]})


def _cell_means(plan: Mapping[str, Any], summaries: Sequence[PointSummary]) -> dict[str, float]:
    """Mean over the finished seeds of each cell, in the order of the plan; values that are no
    numbers are left out.
    """
    values = {s.fingerprint: finite(s.value) for s in summaries if s.value is not None}
    cells: dict[str, list[float]] = {}
    for point in plan["points"]:
        value = values.get(point["fingerprint"])
        if value is not None and value == value:  # not NaN
            cells.setdefault(_cell_key(plan, point["cell"]), []).append(value)
    return {cell: statistics.fmean(some) for cell, some in cells.items()}


def _axis_names(plan: Mapping[str, Any]) -> dict[str, str]:
    """`masks.video_ratio` as `video_ratio`, as long as that is unambiguous."""
    keys = [axis["key"] for axis in plan["axes"]]
    short = [key.rpartition(".")[2] for key in keys]
    return dict(zip(keys, short if len(set(short)) == len(short) else keys, strict=True))
