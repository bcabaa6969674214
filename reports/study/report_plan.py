"""What a sweep set out to measure: plan.json as axes, points and, for a search, objectives."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from simvtp.errors import UserError
from simvtp.runs.metric_names import MetricName

SCHEMA = (
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
Values = tuple[Any, ...]  # the values of one cell, in the order of the axes


class ReportError(UserError):
    """The tracked runs do not support a report."""


@dataclass(frozen=True)
class Axis:
    """One setting that the sweep varies."""

    key: str
    label: str
    values: Values

    @property
    def short(self) -> str:
        """`video_ratio` for `masks.video_ratio`; used in file names."""
        return self.key.rsplit(".", 1)[-1]

    @property
    def numeric(self) -> bool:
        return all(
            isinstance(value, int | float) and not isinstance(value, bool) for value in self.values
        )

    @property
    def logarithmic(self) -> bool:
        """Whether equal ratios are equally far apart in a picture."""
        return False

    def text(self, value: Any) -> str:
        """A value as the reader sees it: the floats of one axis with equally many decimals."""
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


@dataclass(frozen=True)
class Objective:
    """What a search improves. `metric` is the tracked name, `maximise` says which way is better."""

    metric: str
    label: str
    maximise: bool

    @property
    def column(self) -> tuple[str, str]:
        name = MetricName.parse(self.metric)
        return name.key, name.metric


@dataclass(frozen=True)
class Point:
    """One planned experiment."""

    cell: Values
    seed: int
    fingerprint: str
    cell_fingerprint: str


@dataclass(frozen=True)
class Plan:
    """What a sweep set out to measure (plan.json).

    `objectives`, `sampler`, `pruner` and `trials` (how many were asked for) are those of a search;
    a grid has none. `baseline` may be None."""

    sweep_id: str
    ablation: str
    title: str
    question: str
    paper_says: str
    dataset: str
    recipe: str
    axes: tuple[Axis, ...]
    seeds: tuple[int, ...]
    metric: str
    metric_label: str
    published_optimum: Values | None
    points: tuple[Point, ...]
    kind: str = ""
    objectives: tuple[Objective, ...] = ()
    sampler: str = ""
    pruner: str = ""
    trials: int = 0
    baseline: Values | None = None  # the cell that others are compared with

    @staticmethod
    def from_dict(
        values: Mapping[str, Any],
        make_axis: Callable[[Mapping[str, Any], Mapping[str, Any]], Axis] | None = None,
    ) -> Plan:
        """Read plan.json; a plan that lacks a key raises ReportError. `make_axis`: from (axis,
        whole plan), where a kind has its own.
        """
        missing = [key for key in SCHEMA if key not in values]
        if missing:
            raise ReportError(
                f"the plan of sweep {values.get('sweep_id', '?')} lacks {', '.join(missing)}: submit the sweep again."
            )
        make = make_axis or plain_axis
        axes = tuple(
            _with_used(make(axis, values), [p["cell"].get(axis["key"]) for p in values["points"]])
            for axis in values["axes"]
        )
        points = tuple(
            Point(
                tuple(hashable(p["cell"].get(axis.key)) for axis in axes),
                p["seed"],
                p["fingerprint"],
                p.get("cell_fingerprint", ""),
            )
            for p in values["points"]
        )
        optimum, baseline = values.get("published_optimum"), values.get("baseline")
        return Plan(
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
            published_optimum=tuple(hashable(optimum[axis.key]) for axis in axes)
            if optimum
            else None,
            points=points,
            kind=values.get("kind", ""),
            objectives=tuple(
                Objective(o["metric"], o["label"], o["direction"] == "maximize")
                for o in values.get("objectives", ())
            ),
            sampler=_named(values.get("sampler")),
            pruner=_named(values.get("pruner")),
            trials=int(values.get("trials", 0)),
            baseline=tuple(hashable(baseline[axis.key]) for axis in axes) if baseline else None,
        )

    @cached_property
    def cells(self) -> tuple[Values, ...]:
        """The planned cells, each once, in the order of the axes' values; those of a search in the
        order in which they were asked for.
        """
        planned = dict.fromkeys(point.cell for point in self.points)
        if self.kind == SEARCH:
            return tuple(planned)
        return tuple(
            sorted(
                planned,
                key=lambda cell: [
                    axis.values.index(value) for axis, value in zip(self.axes, cell, strict=True)
                ],
            )
        )

    @property
    def column(self) -> tuple[str, str]:
        """The headline figure as (key of the result, name of the metric)."""
        name = MetricName.parse(self.metric)
        return name.key, name.metric

    def describe(self, cell: Values) -> str:
        """`video mask ratio 0.90, text mask ratio 0.75`."""
        return ", ".join(
            f"{axis.label} {axis.text(value)}"
            for axis, value in zip(self.axes, cell, strict=True)
            if value is not None
        )


def plain_axis(axis: Mapping[str, Any], plan: Mapping[str, Any]) -> Axis:
    """The axis of a grid."""
    return Axis(axis["key"], axis["label"], hashable(axis["values"]))


def hashable(value: Any) -> Any:
    return tuple(hashable(item) for item in value) if isinstance(value, list | tuple) else value


def _with_used(axis: Axis, used: Iterable[Any]) -> Axis:
    """An axis with the values of its grid and, at their place, those that only extra points have."""
    values = tuple(
        dict.fromkeys((*axis.values, *(hashable(value) for value in used if value is not None)))
    )
    built = replace(axis, values=values)
    return replace(built, values=tuple(sorted(values))) if built.numeric else built


def _named(settings: Any) -> str:
    """`tpe (seed 0)` for {"name": "tpe", "seed": 0}; nothing is `none`."""
    if not isinstance(settings, Mapping):
        return str(settings or "")
    rest = ", ".join(f"{key} {value}" for key, value in settings.items() if key != "name")
    name = str(settings.get("name", ""))
    return f"{name} ({rest})" if name != "none" and rest else name
