"""Replays all run directories and sweeps under a root into the tracker."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from simvtp.config.experiment_config import RuntimeConfig
from simvtp.errors import DamagedFile, UserError
from simvtp.runs.atomic_files import read_json_or_none
from simvtp.runs.rundir import IDENTITY_FILE
from simvtp.runs.sweep_plan import PLAN_FILE, SweepPlan, read_plan
from simvtp.tracking.address import OFF, resolve_uri
from simvtp.tracking.mirror import SyncReport
from simvtp.tracking.store import Store
from simvtp.tracking.sweep_parent import finish_sweep, start_sweep, summarise, sync_run


def sync_all(root: Path, uri: str | None = None) -> list[SyncReport]:
    """Replays all run directories and sweeps under `root`; a second time adds nothing.

    A damaged run or plan is a warning of its report; the others are replayed.

    Args:
        root: folder of the run directories.
        uri: the tracker; by default that of each run (`runtime.tracking_uri`), else
            $MLFLOW_TRACKING_URI or sqlite under `root`.

    Raises:
        UserError: there is no run directory under `root`.
        TrackerError: the tracker cannot be reached.
    """
    root = Path(root)
    run_dirs = sorted(path.parent for path in root.glob(f"*/{IDENTITY_FILE}"))
    if not run_dirs:
        raise UserError(
            f"'{root}' holds no run directories (NAME/{IDENTITY_FILE}): "
            "give the folder that runtime.root names."
        )
    runtimes = {run_dir: _runtime(run_dir, root, uri) for run_dir in run_dirs}
    for address in {resolve_uri(runtime) for runtime in runtimes.values()}:
        if address is not None:
            Store(address)
    plans, reports = _read_plans(root)
    tracked = [(plan, runtime) for plan in plans if (runtime := _first_runtime(plan, runtimes))]
    for plan, runtime in tracked:
        start_sweep(plan.to_dict(), runtime)
    reports += [sync_run(run_dir, runtime) for run_dir, runtime in runtimes.items()]
    for plan, runtime in tracked:
        summaries = summarise(plan.to_dict(), root)
        ended = all(summary.state != "running" for summary in summaries)
        finish_sweep(plan.to_dict(), runtime, summaries, final=ended)
    return reports


def _read_plans(root: Path) -> tuple[list[SweepPlan], list[SyncReport]]:
    """Returns the plans of the sweeps, and a report with a warning for each damaged one."""
    plans, reports = [], []
    for path in sorted(root.glob(f"sweeps/*/{PLAN_FILE}")):
        try:
            plans.append(read_plan(path))
        except (DamagedFile, OSError) as error:
            reports.append(SyncReport(path.parent, warnings=(str(error),)))
    return plans, reports


def _first_runtime(plan: SweepPlan, runtimes: Mapping[Path, RuntimeConfig]) -> RuntimeConfig | None:
    """Returns the settings of the sweep's first point that has a run directory."""
    by_name = {run_dir.name: runtime for run_dir, runtime in runtimes.items()}
    found = (by_name[point.run_name] for point in plan.points if point.run_name in by_name)
    return next(found, None)


def _runtime(run_dir: Path, root: Path, uri: str | None) -> RuntimeConfig:
    """Returns where a run is tracked; the defaults for a damaged one, which `Mirror` reports."""
    identity = read_json_or_none(run_dir / IDENTITY_FILE, dict) or {}
    experiment = identity.get("experiment")
    stored: Any = experiment.get("runtime") if isinstance(experiment, dict) else None
    stored = stored if isinstance(stored, dict) else {}
    named = str(stored.get("tracking_uri", ""))
    name = stored.get("tracking_experiment", RuntimeConfig.tracking_experiment)
    return RuntimeConfig(
        root=str(root),
        tracking_uri=uri or ("" if named == OFF else named),
        tracking_experiment=str(name),
    )
