"""Rebuilds the caches, the Optuna study and the MLflow store, from plan.json and run directories.

The study is opened through `sweeps.study` and the store through `simvtp.tracking`, both imported
only when they are needed."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from simvtp import tracking
from simvtp.config.experiment_config import Experiment, RuntimeConfig
from simvtp.errors import DamagedFile, UserError
from simvtp.runs.atomic_files import read_json
from simvtp.runs.journal import read_journal
from simvtp.runs.run_records import RunState
from simvtp.runs.rundir import load_experiment
from simvtp.runs.scores import read_curve, read_metric
from simvtp.tracking import resolve_uri
from simvtp.tracking.address import database_path
from sweeps.monitor.overview import IDLE, SweepFolder, reason_of
from sweeps.monitor.point_state import PointState
from sweeps.runner.liveness import state_of
from sweeps.runner.slurm_queue import SlurmQueue

ARTIFACTS = "mlflow-artifacts"  # next to a store in a file


# ---- the study -----------------------------------------------------------------------------------


def open_recorded(sweep: SweepFolder, path: Path | None = None) -> Any:
    """Opens the study of a sweep that is known by its plan only.

    Args:
        sweep: the sweep.
        path: a copy of the journal, to look at; None = the journal itself.
    """
    # imported late: sweeps/doctor.py needs optuna only if there is a study
    from sweeps.study import GridStudy, SearchStudy

    path = path or sweep.folder / "study.journal"
    if sweep.plan.is_search:
        return SearchStudy(path, _recorded_search(sweep), sweep.plan.values["points"])
    return GridStudy(path, sweep.sweep_id, sweep.points, sweep.plan.metric_label)


def close_trial(study: Any, sweep: SweepFolder, fingerprint: str, state: PointState) -> None:
    """Tells the study how a point ended whose trial is running there."""
    plan, run_dir = sweep.plan, sweep.root / fingerprint[:12]
    metrics = [objective.metric for objective in plan.objectives] or [plan.metric]
    finished = state.state == RunState.FINISHED
    values = [read_metric(run_dir, metric) for metric in metrics] if finished else []
    known = [value[0] for value in values if value is not None]
    study.tell(
        fingerprint,
        known if len(known) == len(metrics) else None,
        reason_of(state, run_dir),
        pruned=state.state == RunState.PRUNED,
    )


def rebuild_study(sweep: SweepFolder, queue: SlurmQueue) -> str:
    """Builds a new study from the plan and the run directories, and returns what was done.

    The old study is kept next to it. Waiting points are left out: the sweep's own command plans
    them. The caller holds the controller's lock.
    """
    old = set_aside(sweep.folder / "study.journal")
    study = open_recorded(sweep)
    states = {point.fingerprint: state_of(point.run_dir, queue) for point in sweep.points}
    wanted = {fingerprint for fingerprint, state in states.items() if state.state not in IDLE}
    study.plan(lambda point, last: point.fingerprint in wanted)
    for _ in wanted:  # not one more: a search would propose a new point
        point = study.ask()
        if point is None:
            break
        state = states[point.fingerprint]
        if sweep.plan.is_search:
            for step, value in read_curve(point.run_dir, sweep.plan.metric):
                study.report(point.fingerprint, step, value)
        if not state.alive:
            close_trial(study, sweep, point.fingerprint, state)
    counts = ", ".join(f"{number} {state}" for state, number in sorted(study.counts().items()))
    return f"the study of {sweep.sweep_id} is rebuilt ({counts or 'no trial yet'}){_kept(old)}"


def _recorded_search(sweep: SweepFolder) -> Any:
    """Returns the search that a plan describes, with the base of one of its runs."""
    from ablations.search import Search, SearchObjective
    from ablations.search_space import SearchParameter

    class RecordedSearch(Search):
        """Keeps the id that it had, even if this version of the code would compute another."""

        sweep_id = sweep.sweep_id

    plan = sweep.plan.values
    space = tuple(
        SearchParameter(**{**parameter, "choices": tuple(parameter["choices"])})
        for parameter in plan["space"]
    )
    return RecordedSearch(
        name=plan["ablation"],
        title=plan["title"],
        question=plan["question"],
        base=_base(sweep),
        space=space,
        objectives=tuple(SearchObjective(**objective) for objective in plan["objectives"]),
        trials=int(plan["trials"]),
        seed=int(plan["sampler"]["seed"]),
        seeds=tuple(plan["seeds"]),
        sampler=plan["sampler"]["name"],
        pruner=plan["pruner"]["name"],
        startup=int(plan["sampler"]["startup"]),
        dataset=plan.get("dataset", ""),
    )


def _base(sweep: SweepFolder) -> Experiment:
    """Returns the experiment of any point: the varied settings are set for each point anyway."""
    for point in sweep.points:
        if (point.run_dir / "experiment.json").exists():
            return load_experiment(point.run_dir)
    raise UserError(
        f"no point of {sweep.sweep_id} has started: there is nothing to rebuild its study from; "
        "the sweep command creates one."
    )


# ---- the tracker ---------------------------------------------------------------------------------


def tracked_runs(root: Path) -> dict[Path, RuntimeConfig]:
    """Returns, for each run directory that is tracked, its `runtime` with this root.

    Runs that are not tracked, or cannot be read, are left out.
    """
    found = {}
    for path in sorted(root.glob("*/experiment.json")):
        try:
            stored = read_json(path)["experiment"]["runtime"]
            name = RuntimeConfig.tracking_experiment
            runtime = RuntimeConfig(
                root=str(root),
                tracking_uri=stored.get("tracking_uri", ""),
                tracking_experiment=stored.get("tracking_experiment", name),
            )
        except (OSError, DamagedFile, ValueError, KeyError, TypeError, AttributeError):
            continue
        if resolve_uri(runtime) is not None:
            found[path.parent] = runtime
    return found


def rebuild_tracker(root: Path, sweeps: list[SweepFolder], log: Callable[[str], None]) -> None:
    """Builds a new MLflow store from the run directories.

    A store outside of the root may contain other people's runs: it is only completed.
    """
    tracked = tracked_runs(root)
    addresses = {uri for runtime in tracked.values() if (uri := resolve_uri(runtime)) is not None}
    for uri in sorted(addresses):
        path = database_path(uri)
        if path is not None and path.resolve().is_relative_to(root.resolve()):
            old = [set_aside(part) for part in (path, path.parent / ARTIFACTS)]
            log(f"the tracker's store {path.name} is rebuilt{_kept(*old)}")
        else:
            log("the tracker is not in this root and is not emptied: missing runs are added.")
    by_name = {run_dir.name: runtime for run_dir, runtime in tracked.items()}
    # by age, so that the newest sweep is the newest again
    for sweep in sorted(sweeps, key=_began):
        names = [point.run_dir.name for point in sweep.points]
        runtimes = [by_name[name] for name in names if name in by_name]
        if runtimes:
            tracking.start_sweep(sweep.plan.to_dict(), runtimes[0])
    if not addresses:
        log("no run is tracked: there is no tracker to rebuild.")
        return
    reports = tracking.sync_all(root)
    for report in reports:
        for warning in report.warnings:
            log(f"warning: {report.run_dir}: {warning}")
    log(f"{len(reports)} runs and {len(sweeps)} sweeps are in the tracker.")


def _began(sweep: SweepFolder) -> float:
    """Returns when the first of its points wrote its first line, else when it was planned."""
    times = [_first_time(point.run_dir / "journal.jsonl") for point in sweep.points]
    return min((time for time in times if time is not None), default=sweep.planned_at)


def _first_time(journal: Path) -> float | None:
    try:
        for _, entry in read_journal(journal):
            return float(entry["time"])
    except ValueError:
        pass
    return None


def set_aside(path: Path) -> str:
    """Renames to `<name>.old-<time>` and returns the new name; "" if there was nothing."""
    if not path.exists():
        return ""
    aside = path.with_name(f"{path.name}.old-{time.strftime('%Y%m%d-%H%M%S')}")
    path.rename(aside)
    return aside.name


def _kept(*names: str) -> str:
    kept = " and ".join(name for name in names if name)
    return f"; the old one is kept as {kept}" if kept else ""
