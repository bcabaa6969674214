"""Make the caches anew from what is true: the Optuna study and the MLflow store from plan.json and
the run directories.

The study is opened through `sweeps.study` and the store through `simvtp.tracking`, both imported
only when they are needed."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simvtp.config.schema import Experiment, RuntimeConfig
from simvtp.errors import DamagedFile, UserError
from simvtp.runs.atomic_files import read_json
from simvtp.runs.journal import read_journal
from simvtp.runs.rundir import load_experiment
from simvtp.runs.scores import read_curve, read_metric
from simvtp.tracking import resolve_uri
from simvtp.tracking.address import database_path
from sweeps.monitor.overview import IDLE, PlannedPoint, SweepFolder, reason, state_of
from sweeps.monitor.run_state import ALIVE, FINISHED, PRUNED, PointState

ARTIFACTS = "mlflow-artifacts"  # beside a store in a file


@dataclass(frozen=True)
class _Grid:
    """What a study needs to know of a grid, from its plan."""

    sweep_id: str
    metric_label: str
    planned: tuple[PlannedPoint, ...]

    def points(self) -> tuple[PlannedPoint, ...]:
        return self.planned


# ---- the study -----------------------------------------------------------------------------------


def open_recorded(sweep: SweepFolder, path: Path | None = None) -> Any:
    """The study of a sweep that is known by its plan only; `path`: a copy of it, to look at."""
    from sweeps.study import open_study

    comparison = (
        _search(sweep)
        if sweep.plan.get("kind") == "search"
        else _Grid(sweep.sweep_id, sweep.plan["metric_label"], sweep.points)
    )
    return open_study(path or sweep.folder / "study.journal", comparison, sweep.plan["points"])  # type: ignore[arg-type]


def settle(study: Any, sweep: SweepFolder, fingerprint: str, state: PointState) -> None:
    """Tell the study how a point ended whose trial is running there."""
    metrics = [objective["metric"] for objective in sweep.plan.get("objectives", ())] or [
        sweep.plan["metric"]
    ]
    run_dir = sweep.root / fingerprint[:12]
    figures = (
        [read_metric(run_dir, metric) for metric in metrics] if state.state == FINISHED else []
    )
    known = [figure[0] for figure in figures if figure is not None]
    study.tell(
        fingerprint,
        known if len(known) == len(metrics) else None,
        reason(state, run_dir),
        pruned=state.state == PRUNED,
    )


def rebuild_study(sweep: SweepFolder) -> str:
    """A new study from the plan and the run directories; the old one is kept beside it. Returns
    what was done.

    Points that wait are left out: the sweep's own command plans them. The caller sees to it that no
    controller is running."""
    kept = set_aside(sweep.folder / "study.journal")
    study = open_recorded(sweep)
    states = {point.fingerprint: state_of(point.run_dir) for point in sweep.points}
    wanted = {fingerprint for fingerprint, state in states.items() if state.state not in IDLE}
    study.plan(lambda point, last: point.fingerprint in wanted)
    for _ in wanted:  # not one more: a search would propose a new point
        point = study.ask()
        if point is None:
            break
        state = states[point.fingerprint]
        for step, value in (
            read_curve(point.run_dir, sweep.plan["metric"])
            if sweep.plan.get("kind") == "search"
            else ()
        ):
            study.report(point.fingerprint, step, value)
        if state.state not in ALIVE:
            settle(study, sweep, point.fingerprint, state)
    counts = ", ".join(f"{number} {state}" for state, number in sorted(study.counts().items()))
    return f"the study of {sweep.sweep_id} is made anew ({counts or 'no trial yet'}){_kept(kept)}"


def _search(sweep: SweepFolder) -> Any:
    """The search that a plan describes, over the base of one of its runs."""
    from ablations.search import Objective, Parameter, Search

    class Recorded(Search):
        """Has the id that it had, whatever this version of the code would call it."""

        sweep_id = sweep.sweep_id  # type: ignore[assignment]

    plan = sweep.plan
    space = tuple(
        Parameter(**{**parameter, "choices": tuple(parameter["choices"])})
        for parameter in plan["space"]
    )
    return Recorded(
        name=plan["ablation"],
        title=plan["title"],
        question=plan["question"],
        base=_base(sweep),
        space=space,
        objectives=tuple(Objective(**objective) for objective in plan["objectives"]),
        trials=int(plan["trials"]),
        seed=int(plan["sampler"]["seed"]),
        seeds=tuple(plan["seeds"]),
        sampler=plan["sampler"]["name"],
        pruner=plan["pruner"]["name"],
        startup=int(plan["sampler"]["startup"]),
        dataset=plan.get("dataset", ""),
    )


def _base(sweep: SweepFolder) -> Experiment:
    """The experiment of any point: what a search varies is set for each point anyway."""
    for point in sweep.points:
        if (point.run_dir / "experiment.json").exists():
            return load_experiment(point.run_dir)
    raise UserError(
        f"no point of {sweep.sweep_id} has begun: there is nothing to make its study from; the sweep command makes one."
    )


# ---- the tracker ---------------------------------------------------------------------------------


def runtimes(root: Path) -> dict[Path, RuntimeConfig]:
    """For each run directory where it is tracked, by its experiment.json; runs without tracking, or
    that cannot be read, are left out.
    """
    found = {}
    for path in sorted(root.glob("*/experiment.json")):
        try:
            stored = read_json(path)["experiment"]["runtime"]
            runtime = RuntimeConfig(
                root=str(root),
                tracking_uri=stored.get("tracking_uri", ""),
                tracking_experiment=stored.get(
                    "tracking_experiment", RuntimeConfig.tracking_experiment
                ),
            )
        except (OSError, DamagedFile, KeyError, TypeError, AttributeError):
            continue
        if resolve_uri(runtime) is not None:
            found[path.parent] = runtime
    return found


def rebuild_tracker(root: Path, sweeps: list[SweepFolder], say: Callable[[str], None]) -> None:
    """A new MLflow store from the run directories. One that lies elsewhere may hold other people's
    runs: it is only completed.
    """
    from simvtp import tracking

    tracked = runtimes(root)
    addresses = {uri for runtime in tracked.values() if (uri := resolve_uri(runtime)) is not None}
    for uri in sorted(addresses):
        path = database_path(uri)
        if path is not None and path.resolve().is_relative_to(root.resolve()):
            kept = (set_aside(part) for part in (path, path.parent / ARTIFACTS))
            say(f"the tracker's store {path.name} is made anew{_kept(*kept)}")
        else:
            say("the tracker does not lie in this root and is not emptied: what it lacks is added.")
    by_name = {run_dir.name: runtime for run_dir, runtime in tracked.items()}
    for sweep in sorted(
        sweeps, key=_began
    ):  # in this order, so that the newest sweep is the newest again
        runtime = next(
            (by_name[p.run_dir.name] for p in sweep.points if p.run_dir.name in by_name), None
        )
        if runtime is not None:
            tracking.start_sweep(sweep.plan, runtime)
    reports = tracking.sync_all(root) if addresses else []
    for report in reports:
        for warning in report.warnings:
            say(f"warning: {report.run_dir}: {warning}")
    say(
        f"{len(reports)} runs and {len(sweeps)} sweeps are in the tracker."
        if addresses
        else "no run is tracked: there is no tracker to make."
    )


def _began(sweep: SweepFolder) -> float:
    """When the first of its points wrote its first line; a sweep without any: when it was planned."""
    times = [
        entry["time"] for point in sweep.points for entry in _first(point.run_dir / "journal.jsonl")
    ]
    return min(times, default=sweep.planned_at)


def _first(journal: Path) -> list[Mapping[str, Any]]:
    try:
        return [
            entry
            for _, entry in zip(range(1), (line for _, line in read_journal(journal)), strict=False)
        ]
    except ValueError:
        return []


def set_aside(path: Path) -> str:
    """Rename to `<name>.old-<time>`; returns the new name, "" if there was nothing."""
    if not path.exists():
        return ""
    aside = path.with_name(f"{path.name}.old-{time.strftime('%Y%m%d-%H%M%S')}")
    path.rename(aside)
    return aside.name


def _kept(*names: str) -> str:
    there = " and ".join(name for name in names if name)
    return f"; what was there is kept as {there}" if there else ""
