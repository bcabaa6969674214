"""Reads the progress of sweeps from the folder of the runs: finished points, best cell so far.

Only plans, results and states are read, and nothing of torch, so hundreds of points take a second.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simvtp.errors import DamagedFile
from simvtp.runs.metric_names import MetricName
from simvtp.runs.scores import read_metric
from simvtp.runs.sweep_plan import PLAN_FILE, SweepPlan, SweptPoint, read_plan


@dataclass(frozen=True)
class AblationProgress:
    """Progress of one sweep of an ablation.

    Attributes:
        points: number of different experiments.
        finished: number of those that have their value.
        best: the cell with the best mean over its finished seeds, in words; "" if there is none.
    """

    sweep_id: str
    recipe: str
    dataset: str
    points: int
    finished: int
    best: str

    @property
    def line(self) -> str:
        """`mask_ratio-1a2b3c4d (tiny on shapes): 3 of 4 points finished, best ...: 19.53`."""
        count = f"{self.finished} of {self.points} points finished"
        best = f", best {self.best}" if self.best else ""
        return f"{self.sweep_id} ({self.recipe} on {self.dataset}): {count}{best}"


def read_progress(root: Path) -> dict[str, list[AblationProgress]]:
    """Returns the sweeps under `root` by the name of their ablation, the oldest first.

    Plans that cannot be read are left out: `python sweeps/doctor.py` reports them.
    """
    found: dict[str, list[AblationProgress]] = defaultdict(list)
    paths = root.glob(f"sweeps/*/{PLAN_FILE}")
    for path in sorted(paths, key=lambda path: (path.stat().st_mtime, path)):
        try:
            plan = read_plan(path)
        except (OSError, DamagedFile):
            continue
        found[plan.ablation].append(_progress(plan, path.parent.name, root))
    return dict(found)


def _progress(plan: SweepPlan, sweep_id: str, root: Path) -> AblationProgress:
    values: dict[str, list[float]] = defaultdict(list)
    points: dict[str, SweptPoint] = {}
    for point in plan.points:
        points.setdefault(point.fingerprint, point)
    for point in points.values():
        measured = read_metric(root / point.run_name, plan.metric)
        if measured is not None and math.isfinite(measured[0]):
            values[_words(point.cell)].append(measured[0])
    finished = sum(map(len, values.values()))
    best = _best(values, plan.metric)
    recipe, dataset = plan.recipe or "?", plan.dataset or "?"
    return AblationProgress(sweep_id, recipe, dataset, len(points), finished, best)


def _best(values: Mapping[str, list[float]], metric: str) -> str:
    if not values:
        return ""
    means = {cell: sum(numbers) / len(numbers) for cell, numbers in values.items()}
    better = min if MetricName.parse(metric).lower_is_better else max
    cell = better(means, key=lambda name: means[name])
    seeds = len(values[cell])
    return f"{cell}: {means[cell]:.2f} ({seeds} seed{'s' * (seeds > 1)})"


def _words(cell: Mapping[str, Any]) -> str:
    return " ".join(f"{key.rpartition('.')[2]} {value}" for key, value in cell.items())
