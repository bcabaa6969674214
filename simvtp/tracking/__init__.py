"""The tracker (MLflow) as a mirror of the run directories: journal first, tracker second.

`address` resolves where the store is, `store` is the only module that imports mlflow, `mirror`
replays one run directory (`run_contents`, `tracked_state`: its points and its state), `background`
does so while a run goes on, `sweep_parent` keeps the parent run of a sweep (`aggregates`: its
metrics), `sync` replays everything under a root, `reading` serves the reports. Importing this
package is cheap: mlflow itself takes seconds and is imported at its first use.
"""

from simvtp.tracking.address import TrackerError, mlflow_name, resolve_uri, ui_command
from simvtp.tracking.aggregates import PointSummary, pareto
from simvtp.tracking.background import BackgroundMirror
from simvtp.tracking.mirror import Mirror, SyncReport
from simvtp.tracking.reading import (
    RunningRun,
    SweepRecord,
    TrackedRun,
    list_sweeps,
    read_runs,
    running_runs,
    ui_page,
)
from simvtp.tracking.store import prepare_store
from simvtp.tracking.sweep_parent import finish_sweep, log_report, start_sweep, summarise
from simvtp.tracking.sync import sync_all

__all__ = [
    "BackgroundMirror",
    "Mirror",
    "PointSummary",
    "RunningRun",
    "SweepRecord",
    "SyncReport",
    "TrackedRun",
    "TrackerError",
    "finish_sweep",
    "list_sweeps",
    "log_report",
    "mlflow_name",
    "pareto",
    "prepare_store",
    "read_runs",
    "resolve_uri",
    "running_runs",
    "start_sweep",
    "summarise",
    "sync_all",
    "ui_command",
    "ui_page",
]
