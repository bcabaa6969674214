"""Where the comparisons stand: points finished of those planned, and the best cell so far, read
from the folder of the runs.

Only plans, results and states are read, and nothing of torch, so that looking costs a second for
hundreds of points."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simvtp.errors import DamagedFile
from simvtp.runs.atomic_files import read_json
from simvtp.runs.metric_names import MetricName
from simvtp.runs.scores import read_metric


@dataclass(frozen=True)
class Standing:
    """One sweep of an ablation.

    Attributes:
        points, finished: how many there are and how many have their figure.
        best: the cell with the best mean over its finished seeds, in words; "" while there is none.
    """

    sweep_id: str
    recipe: str
    dataset: str
    points: int
    finished: int
    best: str

    @property
    def line(self) -> str:
        """`mask_ratio-1a2b3c4d (tiny on shapes): 3 of 4 points finished, best video_ratio 0.9
        text_ratio 0.75: 19.53 (2 seeds)`
        """
        return (
            f"{self.sweep_id} ({self.recipe} on {self.dataset}): {self.finished} of {self.points} points finished"
            + (f", best {self.best}" if self.best else "")
        )


def standings(root: Path) -> dict[str, list[Standing]]:
    """The sweeps under `root` by the name of their ablation, the oldest first. A plan that cannot
    be read is left out.
    """
    found: dict[str, list[Standing]] = defaultdict(list)
    for path in sorted(
        root.glob("sweeps/*/plan.json"), key=lambda path: (path.stat().st_mtime, path)
    ):
        try:
            plan = read_json(path, dict)
            found[str(plan["ablation"])].append(_standing(plan, path.parent.name, root))
        except (
            OSError,
            DamagedFile,
            ValueError,
            KeyError,
            TypeError,
        ):  # half written, or of another version: python sweeps/doctor.py speaks of it
            continue
    return dict(found)


def _standing(plan: Mapping[str, Any], sweep_id: str, root: Path) -> Standing:
    figures: dict[str, list[float]] = defaultdict(list)
    fingerprints = set()
    for point in plan["points"]:
        if point["fingerprint"] in fingerprints:
            continue
        fingerprints.add(point["fingerprint"])
        measured = read_metric(root / point["fingerprint"][:12], plan["metric"])
        if measured is not None and math.isfinite(measured[0]):
            figures[_words(point["cell"])].append(measured[0])
    finished = sum(map(len, figures.values()))
    return Standing(
        sweep_id,
        str(plan.get("recipe", "?")),
        str(plan.get("dataset", "?")),
        len(fingerprints),
        finished,
        _best(figures, plan["metric"]),
    )


def _best(figures: Mapping[str, list[float]], metric: str) -> str:
    if not figures:
        return ""
    means = {cell: sum(values) / len(values) for cell, values in figures.items()}
    cell = (min if MetricName.parse(metric).lower_is_better else max)(
        means, key=lambda name: means[name]
    )
    seeds = len(figures[cell])
    return f"{cell}: {means[cell]:.2f} ({seeds} seed{'s' * (seeds > 1)})"


def _words(cell: Mapping[str, Any]) -> str:
    return " ".join(f"{key.rpartition('.')[2]} {value}" for key, value in cell.items())
