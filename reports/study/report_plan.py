"""The plan of a sweep (plan.json): axes, points and, for a search, objectives."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from ablations.evidence.stopping_rule import StoppingRule
from simvtp.errors import UserError
from simvtp.runs.metric_names import MetricName
from simvtp.runs.sweep_plan import SWEEP_NAME

REQUIRED_KEYS = (
    "sweep_id",
    "ablation",
    "title",
    "question",
    "axes",
    "seeds",
    "metric",
    "metric_label",
    "points",
)
SEARCH = "search"  # `kind` in plan.json; a plan without a kind is a grid
CellValues = tuple[Any, ...]  # the values of one cell, in the order of the axes


class ReportError(UserError):
    """Raised when the tracked runs do not support a report."""


@dataclass(frozen=True)
class PlannedAxis:
    """A setting that the sweep varies."""

    key: str
    label: str
    values: CellValues

    @property
    def short(self) -> str:
        """`video_ratio` for `masks.video_ratio`; used in file names."""
        return self.key.rsplit(".", 1)[-1]

    @property
    def numeric(self) -> bool:
        """True if all values are numbers."""
        return all(
            isinstance(value, int | float) and not isinstance(value, bool) for value in self.values
        )

    @property
    def logarithmic(self) -> bool:
        """True if equal ratios are drawn equally far apart."""
        return False

    def text(self, value: Any) -> str:
        """Returns a value in words; the floats of one axis have equally many decimals."""
        if isinstance(value, float) or (
            self.numeric and any(isinstance(v, float) for v in self.values)
        ):
            decimals = max(
                len(f"{float(v):.6f}".rstrip("0").partition(".")[2]) for v in (*self.values, value)
            )
            return f"{float(value):.{decimals}f}"
        if isinstance(value, bool):
            return "on" if value else "off"
        if isinstance(value, tuple):
            return " + ".join(str(item) for item in value) or "none"
        return str(value)


# Makes an axis from its entry in plan.json and the whole plan.
MakeAxis = Callable[[Mapping[str, Any], Mapping[str, Any]], PlannedAxis]


@dataclass(frozen=True)
class PlannedObjective:
    """A tracked metric that a search improves; `maximise`: higher is better."""

    metric: str
    label: str
    maximise: bool

    @property
    def column(self) -> tuple[str, str]:
        """The metric as (key of the result, name of the metric)."""
        name = MetricName.parse(self.metric)
        return name.key, name.metric


@dataclass(frozen=True)
class PlannedPoint:
    """A planned experiment: one cell with one seed."""

    cell: CellValues
    seed: int
    fingerprint: str
    cell_fingerprint: str


@dataclass(frozen=True)
class StudyPlan:
    """The plan of a sweep.

    Attributes:
        published_optimum: the cell that the paper found best; None if it names none.
        objectives: of a search; a grid has none. So are `sampler`, `pruner` and `trials`.
        trials: number of trials that were asked for.
        baseline: the cell that others are compared with, or None.
        controls: names of the rows outside the grid; the first value of such a cell is its name,
            the others are None.
        until_decided: the rule by which seeds were added; None if their number was fixed.
    """

    sweep_id: str
    ablation: str
    title: str
    question: str
    paper_says: str
    dataset: str
    recipe: str
    axes: tuple[PlannedAxis, ...]
    seeds: tuple[int, ...]
    metric: str
    metric_label: str
    published_optimum: CellValues | None
    points: tuple[PlannedPoint, ...]
    kind: str = ""
    objectives: tuple[PlannedObjective, ...] = ()
    sampler: str = ""
    pruner: str = ""
    trials: int = 0
    baseline: CellValues | None = None  # the cell that others are compared with
    controls: tuple[str, ...] = ()
    until_decided: StoppingRule | None = None

    @staticmethod
    def from_dict(values: Mapping[str, Any], make_axis: MakeAxis | None = None) -> StudyPlan:
        """Reads plan.json.

        Args:
            values: plan.json.
            make_axis: makes the axes of this kind of sweep; default: `plain_axis`.

        Raises:
            ReportError: a required key is missing, or the ablation's name is no folder name.
        """
        missing = [key for key in REQUIRED_KEYS if key not in values]
        if missing:
            raise ReportError(
                f"the plan of sweep {values.get('sweep_id', '?')} lacks {', '.join(missing)}: "
                "submit the sweep again."
            )
        if not SWEEP_NAME.fullmatch(str(values["ablation"])):
            raise ReportError(
                f"the plan of sweep {values['sweep_id']!r} names the ablation "
                f"{values['ablation']!r}, which cannot be the name of a folder: "
                "use letters, digits, '_' and '-'."
            )
        axes = _axes(values, make_axis or plain_axis)
        return StudyPlan(
            sweep_id=values["sweep_id"],
            ablation=values["ablation"],
            title=values["title"],
            question=values["question"],
            paper_says=values.get("paper_says", ""),
            dataset=values.get("dataset", ""),
            recipe=values.get("recipe", ""),
            axes=axes,
            seeds=tuple(values["seeds"]),
            metric=values["metric"],
            metric_label=values["metric_label"],
            published_optimum=_cell(values.get("published_optimum"), axes),
            points=tuple(_point(point, axes) for point in values["points"]),
            kind=values.get("kind", ""),
            objectives=tuple(
                PlannedObjective(o["metric"], o["label"], o["direction"] == "maximize")
                for o in values.get("objectives", ())
            ),
            sampler=_named(values.get("sampler")),
            pruner=_named(values.get("pruner")),
            trials=int(values.get("trials", 0)),
            baseline=_cell(values.get("baseline"), axes),
            controls=tuple(values.get("controls", ())),
            until_decided=_rule(values),
        )

    @cached_property
    def cells(self) -> tuple[CellValues, ...]:
        """The planned cells, each once, in the order of the axes' values.

        Controls come first. The cells of a search come in the order in which they were proposed.
        """
        planned = dict.fromkeys(point.cell for point in self.points)
        if self.kind == SEARCH:
            return tuple(planned)
        return tuple(sorted(planned, key=self._order))

    @property
    def rule_baseline(self) -> CellValues | None:
        """The cell that the stopping rule compares the others with; None without a rule."""
        return _cell(self.until_decided.baseline, self.axes) if self.until_decided else None

    @property
    def control_cells(self) -> tuple[CellValues, ...]:
        """The planned rows outside the grid."""
        return tuple(cell for cell in self.cells if self.is_control(cell))

    def is_control(self, cell: CellValues) -> bool:
        """Returns True for a row outside the grid."""
        return bool(cell) and cell[0] in self.controls

    def _order(self, cell: CellValues) -> list[int]:
        if self.is_control(cell):
            return [-1, self.controls.index(cell[0])]
        return [axis.values.index(value) for axis, value in zip(self.axes, cell, strict=True)]

    @property
    def column(self) -> tuple[str, str]:
        """The plan's metric as (key of the result, name of the metric)."""
        name = MetricName.parse(self.metric)
        return name.key, name.metric

    def describe(self, cell: CellValues) -> str:
        """Returns `video mask ratio 0.90, text mask ratio 0.75`, or the name of a control."""
        if self.is_control(cell):
            return str(cell[0])
        return ", ".join(
            f"{axis.label} {axis.text(value)}"
            for axis, value in zip(self.axes, cell, strict=True)
            if value is not None
        )

    def labels(self, cell: CellValues) -> tuple[str, ...]:
        """Returns the values of a cell in words; a control has its name in place of the first."""
        if self.is_control(cell):
            return (str(cell[0]), *("" for _ in cell[1:]))
        return tuple(axis.text(value) for axis, value in zip(self.axes, cell, strict=True))

    def settings(self, cell: CellValues) -> dict[str, Any]:
        """Returns a cell as {key of the axis: value}."""
        return {axis.key: value for axis, value in zip(self.axes, cell, strict=True)}


def plain_axis(axis: Mapping[str, Any], plan: Mapping[str, Any]) -> PlannedAxis:
    """Makes the axis of a grid."""
    return PlannedAxis(axis["key"], axis["label"], hashable(axis["values"]))


def hashable(value: Any) -> Any:
    """Returns a JSON value with its lists as tuples."""
    return tuple(hashable(item) for item in value) if isinstance(value, list | tuple) else value


def _axes(plan: Mapping[str, Any], make: MakeAxis) -> tuple[PlannedAxis, ...]:
    """Returns the axes, each with the values of the grid and those that only extra points have."""
    made = []
    controls = plan.get("controls", ())
    for entry in plan["axes"]:
        used = [point["cell"].get(entry["key"]) for point in plan["points"]]
        used = [value for value in used if not (isinstance(value, str) and value in controls)]
        made.append(_with_used(make(entry, plan), used))
    return tuple(made)


def _with_used(axis: PlannedAxis, used: Iterable[Any]) -> PlannedAxis:
    extra = (hashable(value) for value in used if value is not None)
    values = tuple(dict.fromkeys((*axis.values, *extra)))
    built = replace(axis, values=values)
    return replace(built, values=tuple(sorted(values))) if built.numeric else built


def _point(point: Mapping[str, Any], axes: tuple[PlannedAxis, ...]) -> PlannedPoint:
    return PlannedPoint(
        cell=tuple(hashable(point["cell"].get(axis.key)) for axis in axes),
        seed=point["seed"],
        fingerprint=point["fingerprint"],
        cell_fingerprint=point.get("cell_fingerprint", ""),
    )


def _cell(cell: Mapping[str, Any] | None, axes: tuple[PlannedAxis, ...]) -> CellValues | None:
    return tuple(hashable(cell[axis.key]) for axis in axes) if cell else None


def _rule(values: Mapping[str, Any]) -> StoppingRule | None:
    entry = values.get("until_decided")
    if not entry:
        return None
    try:
        return StoppingRule.from_dict(entry)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise ReportError(
            f"the stopping rule in the plan of sweep {values['sweep_id']} cannot be read "
            f"({error!r}): submit the sweep again."
        ) from error


def _named(settings: Any) -> str:
    """Returns `tpe (seed 0)` for {"name": "tpe", "seed": 0}; nothing is "none"."""
    if not isinstance(settings, Mapping):
        return str(settings or "")
    rest = ", ".join(f"{key} {value}" for key, value in settings.items() if key != "name")
    name = str(settings.get("name", ""))
    return f"{name} ({rest})" if name != "none" and rest else name
