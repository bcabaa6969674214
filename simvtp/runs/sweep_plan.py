"""Typed record of plan.json: the points of a sweep and what they are compared by."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from simvtp.errors import DamagedFile
from simvtp.runs.atomic_files import read_json
from simvtp.runs.metric_names import MetricName

PLAN_FILE = "plan.json"
SWEEP_NAME = re.compile(r"[A-Za-z0-9][\w-]*", re.ASCII)  # of an ablation; names folders
SEARCH_KIND = "search"  # `kind` of the plan of a search; a grid has none
PLAN_ADVICE = "run the sweep's command again, which writes it."
_REQUIRED = ("sweep_id", "ablation", "metric", "axes", "points")


@dataclass(frozen=True)
class SweptAxis:
    """One setting that a sweep varies.

    Attributes:
        key: name of the setting, `masks.video_ratio`.
        label: its name for people.
        values: its values, in the order of the table.
    """

    key: str
    label: str = ""
    values: tuple[Any, ...] = ()


@dataclass(frozen=True)
class SweptPoint:
    """One experiment of a sweep.

    Attributes:
        fingerprint: of the experiment.
        cell: value of each axis, {axis key: value}.
        seed: its seed.
        name: its name for people.
        cell_fingerprint: fingerprint without the seed.
    """

    fingerprint: str
    cell: Mapping[str, Any]
    seed: int = 0
    name: str = ""
    cell_fingerprint: str = ""

    @property
    def run_name(self) -> str:
        """Returns the name of its run directory."""
        return self.fingerprint[:12]


@dataclass(frozen=True)
class SweptObjective:
    """One objective of a search.

    Attributes:
        metric: tracked name.
        label: its name for people.
        maximized: False if less is better.
    """

    metric: str
    label: str = ""
    maximized: bool = True


@dataclass(frozen=True)
class SweepPlan:
    """Content of plan.json.

    Attributes:
        sweep_id: `<ablation>-<8 hex digits>`.
        ablation: name of the ablation or search.
        metric: tracked name of the figure that cells are compared by.
        axes: the settings that vary.
        points: the experiments; those of a search grow with it.
        kind: `search`, or empty for a grid.
        title: heading of the report.
        question: what the sweep is to answer.
        paper_says: the paper's claim.
        metric_label: name of the metric for people.
        dataset: name of the data.
        recipe: name of the recipe.
        seeds: seeds of each cell.
        objectives: of a search.
        trials: number of points that a search was asked for.
        values: the JSON object as it was read.
    """

    sweep_id: str
    ablation: str
    metric: str
    axes: tuple[SweptAxis, ...]
    points: tuple[SweptPoint, ...]
    kind: str = ""
    title: str = ""
    question: str = ""
    paper_says: str = ""
    metric_label: str = ""
    dataset: str = ""
    recipe: str = ""
    seeds: tuple[int, ...] = ()
    objectives: tuple[SweptObjective, ...] = ()
    trials: int = 0
    values: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @property
    def is_search(self) -> bool:
        """Returns True for a search, False for a grid."""
        return self.kind == SEARCH_KIND

    def maximizes(self, metric: str) -> bool:
        """Returns True if more of this metric is better.

        An objective of a search says so itself; else ranks and errors are minimized.
        """
        stated = {objective.metric: objective.maximized for objective in self.objectives}
        return stated.get(metric, not MetricName.parse(metric).lower_is_better)

    def to_dict(self) -> dict[str, Any]:
        """Returns the JSON values that the plan was read from."""
        return dict(self.values)

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> SweepPlan:
        """Returns the plan; raises KeyError, TypeError or ValueError if it is none."""
        missing = [key for key in _REQUIRED if key not in values]
        if missing:
            raise KeyError(f"no {', '.join(missing)}")
        names = {item.name for item in dataclasses.fields(SweepPlan)} - {"values"}
        plain = {key: value for key, value in values.items() if key in names and value is not None}
        return SweepPlan(
            **{
                **plain,
                "axes": tuple(_axis(axis) for axis in values["axes"]),
                "points": tuple(_point(point) for point in values["points"]),
                "seeds": tuple(values.get("seeds", ())),
                "objectives": tuple(_objective(one) for one in values.get("objectives", ())),
                "trials": int(values.get("trials") or 0),
                "values": dict(values),
            }
        )


def read_plan(path: Path) -> SweepPlan:
    """Returns the plan of a sweep. Raises FileNotFoundError or DamagedFile."""
    try:
        return SweepPlan.from_dict(read_json(path, dict, PLAN_ADVICE))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DamagedFile(path, f"no plan of a sweep: {error!r}", PLAN_ADVICE) from error


def _axis(values: Mapping[str, Any]) -> SweptAxis:
    return SweptAxis(values["key"], values.get("label", ""), tuple(values.get("values", ())))


def _point(values: Mapping[str, Any]) -> SweptPoint:
    return SweptPoint(
        fingerprint=str(values["fingerprint"]),
        cell=dict(values["cell"]),
        seed=int(values.get("seed", 0)),
        name=str(values.get("name", "")),
        cell_fingerprint=str(values.get("cell_fingerprint", "")),
    )


def _objective(values: Mapping[str, Any]) -> SweptObjective:
    maximized = values["direction"] == "maximize"
    return SweptObjective(values["metric"], values.get("label", ""), maximized)
