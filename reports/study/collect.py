"""From the tracker to a `Study`: the plan of one sweep and, for each planned point, the one
finished run that measured it.

Nothing is dropped without a word: runs that are not finished, and values that are no numbers, are
kept in lists which the report prints."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from statistics import fmean
from typing import Any, Protocol

from reports.statistics.seed_statistics import Summary, is_number, summarise
from reports.study.report_plan import SEARCH, Axis, Plan, Point, ReportError, Values
from simvtp.runs.results import Result

MakeAxis = Callable[
    [Mapping[str, Any], Mapping[str, Any]], Axis
]  # from an axis of plan.json and the whole plan
IGNORED_FIELDS = ("seed", "checkpoint")  # of a protocol: what may differ within a column


TASKS = {  # by `Protocol.task`: its name, what is asked, and among what the answer is sought
    "retrieval": ("retrieval", "queries", "candidates"),
    "image_text": ("retrieval", "queries", "candidates"),
    "qa": ("question answering", "questions", "candidates"),
    "choice": ("video-text multiple choice", "clips", "captions each"),
    "action": ("action recognition", "videos", "classes"),
    "grounding": ("temporal grounding", "sentences", "candidates"),
}
_DIRECTIONS = {
    "t2v": "text-to-video",
    "v2t": "video-to-text",
    "t2i": "text-to-image",
    "i2t": "image-to-text",
}


class Tracked(Protocol):
    """What is read of a run (`simvtp.tracking.TrackedRun`)."""

    run_id: str
    status: str
    state: str
    fingerprint: str
    seed: int
    tags: Mapping[str, str]
    results: Sequence[Result]
    metrics: Mapping[str, float]
    params: Mapping[str, str]
    cpu_hours: float
    gpu_hours: float
    steps: Mapping[str, int]


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
    scores: Mapping[str, float] = field(
        default_factory=dict
    )  # tracked figures that are no results: what a search selects on
    run_dir: str = ""  # where it lay when it ran; it may be away
    test_set: tuple[
        str, ...
    ] = ()  # settings that make the test items: equal ones mean the same items
    samples: Mapping[str, int] = field(
        default_factory=dict
    )  # seen by each training stage, repeats counted
    parameters: int | None = None  # of the pre-training model; None for runs that did not note it
    forward_flops: int | None = None  # of a forward pass of pre-training, per sample


@dataclass(frozen=True)
class Aside:
    """A run, or a planned point without one, that is not in the tables or is there with a
    reservation.
    """

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
    def kept(self) -> dict[str, Any]:
        """Room for what is worked out of this study once and needed in several places."""
        return {}

    @cached_property
    def by_cell(self) -> dict[Values, tuple[Run, ...]]:
        """Finished runs of each planned cell, by seed."""
        return {
            cell: tuple(
                sorted((r for r in self.runs if r.point.cell == cell), key=lambda r: r.point.seed)
            )
            for cell in self.plan.cells
        }

    @cached_property
    def keys(self) -> tuple[str, ...]:
        """Keys of all results that were measured: zero-shot first, then fine-tuned; text to video
        first.
        """
        keys = {key for run in self.runs for key in run.results}
        return tuple(sorted(keys, key=lambda k: ("zero-shot" not in k, not k.endswith("t2v"), k)))

    def values(self, cell: Values, key: str, metric: str) -> dict[int, float]:
        """{seed: value} of one cell; a value that is no number is left out (and mentioned in
        `notices`).
        """
        found = {}
        for run in self.by_cell.get(cell, ()):
            value = (
                run.results[key].metrics.get(metric)
                if key in run.results
                else run.scores.get(f"{key}/{metric}")
            )
            if value is not None and is_number(value):
                found[run.point.seed] = value
        return found

    def summary(self, cell: Values, key: str, metric: str) -> Summary | None:
        return summarise(self.values(cell, key, metric).values())

    def planned(self, cell: Values) -> int:
        """How many seeds the plan wants for this cell."""
        return len({point.seed for point in self.plan.points if point.cell == cell})

    @cached_property
    def state_of(self) -> dict[str, str]:
        """{fingerprint: finished, pruned, cancelled, failed, running, not tracked ...} of each
        planned point.
        """
        told = {
            aside.point.fingerprint: aside.state
            for aside in self.asides
            if aside.state not in ("finished", "no figure")
        }
        return told | {run.point.fingerprint: "finished" for run in self.runs}

    @cached_property
    def states(self) -> dict[str, int]:
        """How many planned points are in which state; finished first."""
        counted = Counter(self.state_of[point.fingerprint] for point in self.plan.points)
        return {
            state: counted[state]
            for state in sorted(counted, key=lambda state: (state != "finished", state))
        }

    def baselines(self, key: str, metric: str) -> dict[str, dict[Values, float]]:
        """{name of a baseline: {cell: its mean over the seeds}}: what other ways of not looking at
        the video give for this metric.
        """
        found: dict[str, dict[Values, list[float]]] = {}
        for cell, runs in self.by_cell.items():
            for result in (run.results[key] for run in runs if key in run.results):
                for name, metrics in result.baselines.items():
                    if metric in metrics and is_number(metrics[metric]):
                        found.setdefault(name, {}).setdefault(cell, []).append(metrics[metric])
        return {
            name: {cell: fmean(values) for cell, values in cells.items()}
            for name, cells in found.items()
        }

    def example(self, key: str) -> Result | None:
        """Any result of this column: within a column the protocol is the same."""
        return next((run.results[key] for run in self.runs if key in run.results), None)


def gather(
    record_plan: Mapping[str, Any],
    tracked: Iterable[Tracked],
    make_axis: MakeAxis | None = None,
    ended_early: Mapping[str, str] | None = None,
) -> Study:
    """Match runs to the plan of a sweep. `ended_early`: {fingerprint: state} of points that may
    have ended before they were tracked.

    Raises ReportError when two finished runs measured the same cell and seed, when results of one
    column have different protocols, or when no finished run has the figure that the plan asks for.
    """
    plan = Plan.from_dict(record_plan, make_axis)
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
        runs += [_run(point, run, plan) for run in finished]
        asides += [
            Aside(point, run.run_id, _state(run), _remark(run))
            for run in candidates
            if not is_finished(run)
        ]
        asides += [Aside(point, run.run_id, "finished", _DIRTY) for run in finished if _dirty(run)]
        asides += [
            Aside(point, run.run_id, "no figure", _no_figure(plan))
            for run in finished
            if not _has_headline(run, plan)
        ]
        if not candidates:
            asides.append(_untracked(point, (ended_early or {}).get(point.fingerprint, "")))
    study = Study(plan, tuple(runs), tuple(asides), tuple(_odd_values(runs, plan)))
    _check_protocols(study)
    _check_headline(study)
    return study


def _untracked(point: Point, state: str) -> Aside:
    if state:
        return Aside(point, "", state, f"{state} before it began")
    return Aside(point, "", "not tracked", "planned, but the tracker holds no run of it")


_DIRTY = "in the tables, but it ran from a tree with uncommitted changes; the run keeps the difference as diff.patch"


def _has_headline(run: Tracked, plan: Plan) -> bool:
    key, metric = plan.column
    return plan.metric in _scores(run, plan) or any(
        result.key == key and metric in result.metrics for result in run.results
    )


def _scores(run: Tracked, plan: Plan) -> dict[str, float]:
    """The tracked figures that a search's plan names: its objectives are no results with a
    protocol.
    """
    wanted = {objective.metric for objective in plan.objectives} | (
        {plan.metric} if plan.kind == SEARCH else set()
    )
    return {name: run.metrics[name] for name in sorted(wanted) if name in run.metrics}


def _no_figure(plan: Plan) -> str:
    return f"it finished without {plan.metric}, so its place in the table is empty"


def is_finished(run: Tracked) -> bool:
    """True for a run that came to its end by itself: stopped, failed, pruned and running ones do
    not count.
    """
    return run.status == "FINISHED" and run.state in ("", "finished")


def protocol_text(*results: Result) -> str:
    """The protocol of a figure in words, for captions; of several that differ in their direction
    only, those together.
    """
    p, first = results[0].protocol, results[0]
    directions = " and ".join(
        _DIRECTIONS.get(result.protocol.direction, result.protocol.direction) for result in results
    )
    asked, among = units(p.task)
    size = f"{first.queries} {asked}" + (
        f" against {first.gallery} {among}" if first.gallery else ""
    )
    views = f"{p.frames} frame{'s' if p.frames > 1 else ''}, {p.segments} × {p.crops} views (segments × crops)"
    variant = f" ({p.variant})" if p.variant else ""
    what = f"{directions} {task_name(first)}{variant} on {p.dataset} ({p.split} split, {size}), {p.setting}, {views}"
    return f"{what}, ties {p.ties}".strip() if p.ties else what.strip()


def task_name(result: Result) -> str:
    """`retrieval`, `question answering`: the task in words."""
    return TASKS.get(result.protocol.task, (result.protocol.task,))[0]


def units(task: str) -> tuple[str, str]:
    """What is asked in this task, and among what the answer is sought."""
    _, asked, among = TASKS.get(task, (task, "queries", "candidates"))
    return asked, among


def _run(point: Point, run: Tracked, plan: Plan) -> Run:
    return Run(
        point=point,
        run_id=run.run_id,
        results={result.key: result for result in run.results},
        commit=_tag(run, "git_commit", "mlflow.source.git.commit"),
        dirty=_dirty(run),
        hardware=_tag(run, "hardware", "device"),
        cpu_hours=run.cpu_hours,
        gpu_hours=run.gpu_hours,
        scores=_scores(run, plan),
        run_dir=_tag(run, "run_dir"),
        samples=_samples(run),
        parameters=_whole(run, "cost/parameters"),
        forward_flops=_whole(run, "cost/forward_flops"),
        test_set=tuple(run.params.get(name, "") for name in _TEST_SET),
    )


_BATCH = {"pretrain": "pretrain.batch_size", "finetune": "finetune.train.batch_size"}


def _samples(run: Tracked) -> dict[str, int]:
    """Steps times the global batch of each training stage that took steps."""
    return {
        stage: run.steps[stage] * int(run.params[name])
        for stage, name in _BATCH.items()
        if stage in run.steps and name in run.params
    }


def _whole(run: Tracked, name: str) -> int | None:
    value = run.metrics.get(name)
    return None if value is None else round(value)


_TEST_SET = (
    "data.dataset", "data.manifest_digest", "data.protocol", "data.splits",
    "data.shapes.test", "data.shapes.image_size", "data.shapes.frames", "data.shapes.difficulty", "data.shapes.seed",
)  # fmt: skip


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


def varied_fields(study: Study, key: str) -> dict[str, tuple[Any, ...]]:
    """{field of the protocol: its values} that an axis of the sweep sets: one that is called after
    it (frames), or one of whole bundles of settings, which is called as the ablation (methods that
    see other numbers of frames). A note tells the values, and no cell may have two."""
    found = {}
    for field_name in ("frames", "segments", "crops"):
        axes = [
            n
            for n, axis in enumerate(study.plan.axes)
            if field_name in axis.key or axis.key == study.plan.ablation
        ]
        by_label: dict[Values, set[Any]] = {}
        for run in (run for run in study.runs if key in run.results):
            label = tuple(run.point.cell[number] for number in axes)
            by_label.setdefault(label, set()).add(getattr(run.results[key].protocol, field_name))
        values = sorted({value for held in by_label.values() for value in held})
        if axes and len(values) > 1 and all(len(held) == 1 for held in by_label.values()):
            found[field_name] = tuple(values)
    return found


def _comparable(result: Result, varied: Iterable[str] = ()) -> dict[str, Any]:
    fields = {
        name: value
        for name, value in vars(result.protocol).items()
        if name not in (*IGNORED_FIELDS, *varied)
    }
    return fields | {"queries": result.queries, "gallery": result.gallery}


def _check_protocols(study: Study) -> None:
    """Two figures may stand in one column only if they were measured in the same way, but for what
    an axis of the sweep varies.
    """
    for key in study.keys:
        holders = [run for run in study.runs if key in run.results]
        varied = varied_fields(study, key)
        first = _comparable(holders[0].results[key], varied)
        for other in holders[1:]:
            second = _comparable(other.results[key], varied)
            if first != second:
                a, b = ({k: v[k] for k in first if first[k] != second[k]} for v in (first, second))
                raise ReportError(
                    f"{key} was measured under two protocols, which may not share a column: {_pairs(a)} in run {holders[0].run_id}, "
                    f"{_pairs(b)} in run {other.run_id}; evaluate both in the same way, or report them as two sweeps."
                )


def _pairs(fields: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{name} {value if value != '' else '(none)'}" for name, value in fields.items()
    )


def _check_headline(study: Study) -> None:
    available = [f"{k}/{m}" for k in study.keys for m in study.example(k).metrics]  # type: ignore[union-attr]
    available += sorted({name for run in study.runs for name in run.scores})
    if study.runs and study.plan.metric not in available:
        raise ReportError(
            f"no finished run of sweep {study.plan.sweep_id} has the figure that its plan asks for, {study.plan.metric}; "
            f"there are: {', '.join(available) or 'none'}."
        )
