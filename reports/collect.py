"""From the tracker to a `Study`: the plan of one sweep and, for each planned point, the one finished run that measured it.

Nothing is dropped without a word: runs that are not finished, and values that are no numbers, are kept in lists which the
report prints.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol

from reports.stats import Summary, is_number, summarise
from simvtp.errors import UserError
from simvtp.results import Result

SCHEMA = ("sweep_id", "ablation", "title", "question", "paper_says", "axes", "seeds", "metric", "metric_label", "points")
IGNORED_FIELDS = ("seed", "checkpoint")  # of a protocol: what may differ within a column
Values = tuple[Any, ...]  # the values of one cell, in the order of the axes


class ReportError(UserError):
    """The tracked runs do not support a report."""


class Tracked(Protocol):
    """What is read of a run (`simvtp.tracking.TrackedRun`)."""

    run_id: str
    status: str
    state: str
    fingerprint: str
    seed: int
    tags: Mapping[str, str]
    results: Sequence[Result]
    cpu_hours: float
    gpu_hours: float


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
        return all(isinstance(value, int | float) and not isinstance(value, bool) for value in self.values)

    def text(self, value: Any) -> str:
        """A value as the reader sees it: the floats of one axis with equally many decimals."""
        if isinstance(value, float) or (self.numeric and any(isinstance(v, float) for v in self.values)):
            decimals = max(len(f"{float(v):.6f}".rstrip("0").partition(".")[2]) for v in (*self.values, value))
            return f"{float(value):.{decimals}f}"
        if isinstance(value, bool):
            return "on" if value else "off"
        if isinstance(value, tuple):
            return " + ".join(str(item) for item in value) or "none"
        return str(value)


@dataclass(frozen=True)
class Point:
    """One planned experiment."""

    cell: Values
    seed: int
    fingerprint: str
    cell_fingerprint: str


@dataclass(frozen=True)
class Plan:
    """What a sweep set out to measure (plan.json)."""

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

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> Plan:
        """Read plan.json; a plan that lacks a key raises ReportError."""
        missing = [key for key in SCHEMA if key not in values]
        if missing:
            raise ReportError(f"the plan of sweep {values.get('sweep_id', '?')} lacks {', '.join(missing)}: submit the sweep again.")
        axes = tuple(_axis(axis, [point["cell"][axis["key"]] for point in values["points"]]) for axis in values["axes"])
        points = tuple(
            Point(tuple(_hashable(p["cell"][axis.key]) for axis in axes), p["seed"], p["fingerprint"], p.get("cell_fingerprint", ""))
            for p in values["points"]
        )
        optimum = values.get("published_optimum")
        return Plan(
            sweep_id=values["sweep_id"],
            ablation=values["ablation"],
            title=values["title"],
            question=values["question"],
            paper_says=values["paper_says"],
            dataset=values.get("dataset", ""),
            recipe=values.get("recipe", ""),
            axes=axes,
            seeds=tuple(values["seeds"]),
            metric=values["metric"],
            metric_label=values["metric_label"],
            published_optimum=tuple(_hashable(optimum[axis.key]) for axis in axes) if optimum else None,
            points=points,
        )

    @cached_property
    def cells(self) -> tuple[Values, ...]:
        """The planned cells, each once, in the order of the axes' values."""
        planned = dict.fromkeys(point.cell for point in self.points)
        return tuple(sorted(planned, key=lambda cell: [axis.values.index(value) for axis, value in zip(self.axes, cell, strict=True)]))

    @property
    def column(self) -> tuple[str, str]:
        """The headline figure as (key of the result, name of the metric)."""
        key, _, metric = self.metric.rpartition("/")
        return key, metric

    def describe(self, cell: Values) -> str:
        """`video mask ratio 0.90, text mask ratio 0.75`."""
        return ", ".join(f"{axis.label} {axis.text(value)}" for axis, value in zip(self.axes, cell, strict=True))


@dataclass(frozen=True)
class Run:
    """A finished run at its planned point."""

    point: Point
    run_id: str
    results: Mapping[str, Result]  # by Result.key
    commit: str
    dirty: bool
    hardware: str
    cpu_hours: float
    gpu_hours: float


@dataclass(frozen=True)
class Aside:
    """A run, or a planned point without one, that is not in the tables or is there with a reservation."""

    point: Point
    run_id: str
    state: str
    remark: str


@dataclass(frozen=True)
class Study:
    """All that the tables and figures of one ablation are made of."""

    plan: Plan
    runs: tuple[Run, ...]
    asides: tuple[Aside, ...]
    notices: tuple[str, ...]

    @cached_property
    def by_cell(self) -> dict[Values, tuple[Run, ...]]:
        """Finished runs of each planned cell, by seed."""
        return {cell: tuple(sorted((r for r in self.runs if r.point.cell == cell), key=lambda r: r.point.seed)) for cell in self.plan.cells}

    @cached_property
    def keys(self) -> tuple[str, ...]:
        """Keys of all results that were measured: zero-shot first, then fine-tuned; text to video first."""
        keys = {key for run in self.runs for key in run.results}
        return tuple(sorted(keys, key=lambda k: ("zero-shot" not in k, not k.endswith("t2v"), k)))

    def values(self, cell: Values, key: str, metric: str) -> dict[int, float]:
        """{seed: value} of one cell; a value that is no number is left out (and mentioned in `notices`)."""
        found = {}
        for run in self.by_cell.get(cell, ()):
            value = run.results[key].metrics.get(metric) if key in run.results else None
            if value is not None and is_number(value):
                found[run.point.seed] = value
        return found

    def summary(self, cell: Values, key: str, metric: str) -> Summary | None:
        return summarise(self.values(cell, key, metric).values())

    def planned(self, cell: Values) -> int:
        """How many seeds the plan wants for this cell."""
        return len({point.seed for point in self.plan.points if point.cell == cell})

    def example(self, key: str) -> Result | None:
        """Any result of this column: within a column the protocol is the same."""
        return next((run.results[key] for run in self.runs if key in run.results), None)


def gather(record_plan: Mapping[str, Any], tracked: Iterable[Tracked]) -> Study:
    """Match runs to the plan of a sweep.

    Raises ReportError when two finished runs measured the same cell and seed, when results of one column have different
    protocols, or when no finished run has the figure that the plan asks for.
    """
    plan = Plan.from_dict(record_plan)
    by_fingerprint: dict[str, list[Tracked]] = {}
    for run in sorted(tracked, key=lambda run: run.run_id):
        by_fingerprint.setdefault(run.fingerprint, []).append(run)
    runs, asides = [], []
    for point in plan.points:
        candidates = by_fingerprint.get(point.fingerprint, [])
        finished = [run for run in candidates if is_finished(run)]
        if len(finished) > 1:
            names = " and ".join(run.run_id for run in finished)
            raise ReportError(
                f"two finished runs, {names}, measured the same cell ({plan.describe(point.cell)}, seed {point.seed}): "
                "delete one of them in the tracker, then build the report again."
            )
        runs += [_run(point, run) for run in finished]
        asides += [Aside(point, run.run_id, _state(run), _remark(run)) for run in candidates if not is_finished(run)]
        asides += [Aside(point, run.run_id, "finished", _DIRTY) for run in finished if _dirty(run)]
        asides += [Aside(point, run.run_id, "no figure", _no_figure(plan)) for run in finished if not _has_headline(run, plan)]
        if not candidates:
            asides.append(Aside(point, "", "not tracked", "planned, but the tracker holds no run of it"))
    study = Study(plan, tuple(runs), tuple(asides), tuple(_odd_values(runs, plan)))
    _check_protocols(study)
    _check_headline(study)
    return study


_DIRTY = "in the tables, but it ran from a tree with uncommitted changes; the run keeps the difference as diff.patch"


def _has_headline(run: Tracked, plan: Plan) -> bool:
    key, metric = plan.column
    return any(result.key == key and metric in result.metrics for result in run.results)


def _no_figure(plan: Plan) -> str:
    return f"it finished without {plan.metric}, so its place in the table is empty"


def is_finished(run: Tracked) -> bool:
    """True for a run that came to its end by itself: stopped, failed, pruned and running ones do not count."""
    return run.status == "FINISHED" and run.state in ("", "finished")


def protocol_text(result: Result) -> str:
    """The protocol of a figure in words, for captions."""
    p = result.protocol
    direction = {"t2v": "text-to-video", "v2t": "video-to-text"}.get(p.direction, p.direction)
    return (
        f"{direction} {p.task} on {p.dataset} ({p.split} split, {result.queries} queries against {result.gallery} candidates), {p.setting}, "
        f"{p.frames} frames, {p.segments} × {p.crops} views (segments × crops), ties {p.ties}"
    )


def _run(point: Point, run: Tracked) -> Run:
    return Run(
        point=point,
        run_id=run.run_id,
        results={result.key: result for result in run.results},
        commit=_tag(run, "git_commit", "mlflow.source.git.commit"),
        dirty=_dirty(run),
        hardware=_tag(run, "hardware", "device"),
        cpu_hours=run.cpu_hours,
        gpu_hours=run.gpu_hours,
    )


def _tag(run: Tracked, *names: str) -> str:
    return next((run.tags[name] for name in names if run.tags.get(name)), "")


def _dirty(run: Tracked) -> bool:
    return _tag(run, "git_dirty").lower() in ("true", "1", "yes")


def _state(run: Tracked) -> str:
    return run.state if run.state not in ("", "finished") else run.status.lower()


def _remark(run: Tracked) -> str:
    return _tag(run, "message") or "no message"


def _odd_values(runs: Iterable[Run], plan: Plan) -> Iterable[str]:
    for run in runs:
        for key, result in run.results.items():
            for metric, value in result.metrics.items():
                if not is_number(value):
                    yield f"{key}/{metric} of run {run.run_id} ({plan.describe(run.point.cell)}, seed {run.point.seed}) is {value}: left out."


def _comparable(result: Result) -> dict[str, Any]:
    fields = {name: value for name, value in vars(result.protocol).items() if name not in IGNORED_FIELDS}
    return fields | {"queries": result.queries, "gallery": result.gallery}


def _check_protocols(study: Study) -> None:
    """Two figures may stand in one column only if they were measured in the same way."""
    for key in study.keys:
        holders = [run for run in study.runs if key in run.results]
        first = _comparable(holders[0].results[key])
        for other in holders[1:]:
            second = _comparable(other.results[key])
            if first != second:
                a, b = ({k: v[k] for k in first if first[k] != second[k]} for v in (first, second))
                raise ReportError(
                    f"{key} was measured under two protocols, which may not share a column: {_pairs(a)} in run {holders[0].run_id}, "
                    f"{_pairs(b)} in run {other.run_id}; evaluate both in the same way, or report them as two sweeps."
                )


def _pairs(fields: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in fields.items())


def _check_headline(study: Study) -> None:
    key, metric = study.plan.column
    available = [f"{k}/{m}" for k in study.keys for m in study.example(k).metrics]  # type: ignore[union-attr]
    if study.runs and f"{key}/{metric}" not in available:
        raise ReportError(
            f"no finished run of sweep {study.plan.sweep_id} has the figure that its plan asks for, {study.plan.metric}; "
            f"there are: {', '.join(available) or 'none'}."
        )


def _axis(axis: Mapping[str, Any], used: Iterable[Any]) -> Axis:
    """An axis with the values of its grid and, at their place, those that only extra points have."""
    values = tuple(dict.fromkeys((*_hashable(axis["values"]), *(_hashable(value) for value in used))))
    built = Axis(axis["key"], axis["label"], values)
    return replace(built, values=tuple(sorted(values))) if built.numeric else built


def _hashable(value: Any) -> Any:
    return tuple(_hashable(item) for item in value) if isinstance(value, list) else value
