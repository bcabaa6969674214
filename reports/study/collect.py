"""Matches tracked runs to the plan of a sweep.

Nothing is dropped silently: unfinished runs and values that are not finite end up in lists that the
report prints.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from reports.analysis.seed_statistics import is_number
from reports.study.protocols import comparable_fields, identify_test_set
from reports.study.report_plan import SEARCH, MakeAxis, PlannedPoint, ReportError, StudyPlan
from reports.study.sweep_results import ExcludedRun, MeasuredRun, SweepResults, varied_fields
from reports.study.training_curves import curves_of_run
from simvtp.runs.results import Result

BATCH_SIZES = {"pretrain": "pretrain.batch_size", "finetune": "finetune.train.batch_size"}
NOT_TRACKED = "planned, but the tracker holds no run of it"
UNCOMMITTED = (
    "in the tables, but it ran from a tree with uncommitted changes; "
    "the run keeps the difference as diff.patch"
)


class Tracked(Protocol):
    """Fields that are read of a tracked run (`simvtp.tracking.TrackedRun`)."""

    @property
    def run_id(self) -> str: ...
    @property
    def status(self) -> str: ...
    @property
    def state(self) -> str: ...
    @property
    def fingerprint(self) -> str: ...
    @property
    def seed(self) -> int: ...
    @property
    def tags(self) -> Mapping[str, str]: ...
    @property
    def results(self) -> Sequence[Result]: ...
    @property
    def metrics(self) -> Mapping[str, float]: ...
    @property
    def params(self) -> Mapping[str, str]: ...
    @property
    def cpu_hours(self) -> float: ...
    @property
    def gpu_hours(self) -> float: ...
    @property
    def steps(self) -> Mapping[str, int]: ...


def gather(
    record_plan: Mapping[str, Any],
    tracked: Iterable[Tracked],
    make_axis: MakeAxis | None = None,
    ended_early: Mapping[str, str] | None = None,
    root: Path | None = None,
) -> SweepResults:
    """Returns the runs of a sweep at their planned points.

    Args:
        record_plan: plan.json.
        tracked: runs in any order; those of other sweeps are ignored.
        make_axis: makes the axes of this kind of sweep; default: those of a grid.
        ended_early: {fingerprint: state} of points that may have ended before they were tracked.
        root: folder of the runs now; run directories are looked for there first, because the
            tracker knows only where they were.

    Raises:
        ReportError: two finished runs measured the same cell and seed, results of one column have
            different protocols, or no finished run has the metric that the plan asks for.
    """
    plan = StudyPlan.from_dict(record_plan, make_axis)
    by_fingerprint: dict[str, list[Tracked]] = {}
    for run in sorted(tracked, key=lambda run: run.run_id):
        by_fingerprint.setdefault(run.fingerprint, []).append(run)
    runs: list[MeasuredRun] = []
    excluded: list[ExcludedRun] = []
    for point in plan.points:
        candidates = by_fingerprint.get(point.fingerprint, [])
        finished = [run for run in candidates if is_finished(run)]
        if len(finished) > 1:
            names = " and ".join(run.run_id for run in finished)
            raise ReportError(
                f"two finished runs, {names}, measured the same cell "
                f"({plan.describe(point.cell)}, seed {point.seed}): "
                "delete one of them in the tracker, then build the report again."
            )
        runs += [_measured(point, run, plan, root) for run in finished]
        excluded += _excluded(point, candidates, plan, ended_early or {})
    sweep = SweepResults(plan, tuple(runs), tuple(excluded), tuple(_odd_values(runs, plan)))
    _check_protocols(sweep)
    _check_headline(sweep)
    return sweep


def is_finished(run: Tracked) -> bool:
    """Returns True for a run that ended by itself: not stopped, failed, pruned or running."""
    return run.status == "FINISHED" and run.state in ("", "finished")


# ---- one point -----------------------------------------------------------------------------------


def _measured(point: PlannedPoint, run: Tracked, plan: StudyPlan, root: Path | None) -> MeasuredRun:
    run_dir = _run_dir(run, root)
    return MeasuredRun(
        point=point,
        run_id=run.run_id,
        results={result.key: result for result in run.results},
        commit=_tag(run, "git_commit", "mlflow.source.git.commit"),
        dirty=_dirty(run),
        hardware=_tag(run, "hardware", "device"),
        cpu_hours=run.cpu_hours,
        gpu_hours=run.gpu_hours,
        scores=_scores(run, plan),
        run_dir=run_dir,
        steps=dict(run.steps),
        curves=curves_of_run(run_dir),
        samples=_samples(run),
        parameters=_count(run, "cost/parameters"),
        forward_flops=_count(run, "cost/forward_flops"),
        test_set=identify_test_set(run.params),
    )


def _run_dir(run: Tracked, root: Path | None) -> str:
    """Returns the run directory under `root`, else the one that the run recorded."""
    moved = root / run.fingerprint[:12] if root is not None else None
    if moved is not None and (moved / "experiment.json").is_file():
        return str(moved)
    return _tag(run, "run_dir")


def _excluded(
    point: PlannedPoint,
    candidates: Sequence[Tracked],
    plan: StudyPlan,
    ended_early: Mapping[str, str],
) -> Iterable[ExcludedRun]:
    """Yields unfinished runs, then runs with uncommitted changes, then those without the metric."""
    finished = [run for run in candidates if is_finished(run)]
    for run in candidates:
        if not is_finished(run):
            remark = _tag(run, "message") or "no message"
            yield ExcludedRun(point, run.run_id, _state(run), remark)
    for run in finished:
        if _dirty(run):
            yield ExcludedRun(point, run.run_id, "finished", UNCOMMITTED)
    for run in finished:
        if not _has_headline(run, plan):
            remark = f"it finished without {plan.metric}, so its cell in the table is empty"
            yield ExcludedRun(point, run.run_id, "no figure", remark)
    if not candidates:
        state = ended_early.get(point.fingerprint, "")
        remark = f"{state} before it began" if state else NOT_TRACKED
        yield ExcludedRun(point, "", state or "not tracked", remark)


def _has_headline(run: Tracked, plan: StudyPlan) -> bool:
    key, metric = plan.column
    return plan.metric in _scores(run, plan) or any(
        result.key == key and metric in result.metrics for result in run.results
    )


def _scores(run: Tracked, plan: StudyPlan) -> dict[str, float]:
    """Returns the tracked values that a search selects on: they are no results with a protocol."""
    wanted = {objective.metric for objective in plan.objectives}
    if plan.kind == SEARCH:
        wanted.add(plan.metric)
    return {name: run.metrics[name] for name in sorted(wanted) if name in run.metrics}


def _samples(run: Tracked) -> dict[str, int]:
    """Returns steps times the global batch of each training stage that took steps."""
    return {
        stage: run.steps[stage] * int(run.params[name])
        for stage, name in BATCH_SIZES.items()
        if stage in run.steps and name in run.params
    }


def _count(run: Tracked, name: str) -> int | None:
    value = run.metrics.get(name)
    return None if value is None else round(value)


def _tag(run: Tracked, *names: str) -> str:
    return next((run.tags[name] for name in names if run.tags.get(name)), "")


def _dirty(run: Tracked) -> bool:
    return _tag(run, "git_dirty").lower() in ("true", "1", "yes")


def _state(run: Tracked) -> str:
    return run.state if run.state not in ("", "finished") else run.status.lower()


# ---- checks --------------------------------------------------------------------------------------


def _odd_values(runs: Iterable[MeasuredRun], plan: StudyPlan) -> Iterable[str]:
    for run in runs:
        where = f"run {run.run_id} ({plan.describe(run.point.cell)}, seed {run.point.seed})"
        for key, result in run.results.items():
            for metric, value in result.metrics.items():
                if not is_number(value):
                    yield f"{key}/{metric} of {where} is {value}: left out."


def _check_protocols(sweep: SweepResults) -> None:
    """Refuses a column whose values were measured in different ways, unless an axis varies them."""
    for key in sweep.keys:
        holders = [run for run in sweep.runs if key in run.results]
        varied = varied_fields(sweep, key)
        first = comparable_fields(holders[0].results[key], varied)
        for other in holders[1:]:
            second = comparable_fields(other.results[key], varied)
            if first != second:
                names = [name for name in first if first[name] != second[name]]
                a, b = (_pairs({name: v[name] for name in names}) for v in (first, second))
                raise ReportError(
                    f"{key} was measured under two protocols, which may not share a column: "
                    f"{a} in run {holders[0].run_id}, {b} in run {other.run_id}; "
                    "evaluate both in the same way, or report them as two sweeps."
                )


def _pairs(fields: Mapping[str, Any]) -> str:
    words = {name: value if value != "" else "(none)" for name, value in fields.items()}
    return ", ".join(f"{name} {value}" for name, value in words.items())


def _check_headline(sweep: SweepResults) -> None:
    available = [f"{key}/{name}" for key in sweep.keys for name in sweep.example(key).metrics]
    available += sorted({name for run in sweep.runs for name in run.scores})
    if sweep.runs and sweep.plan.metric not in available:
        raise ReportError(
            f"no finished run of sweep {sweep.plan.sweep_id} has the metric of its plan, "
            f"{sweep.plan.metric}; the runs have: {', '.join(available) or 'none'}."
        )
