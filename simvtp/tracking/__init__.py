"""The tracker (MLflow) as a mirror of the run directories: journal first, tracker second.

`address` finds the store, `store` is the only module that imports mlflow, `mirror` replays one run
directory (`state`: how it stands), `background` does so while a run goes on, `sweeps` keeps the
parent run of a sweep (`aggregates`: its figures), `reading` gives the reports what they need.
Importing this package is cheap: mlflow itself takes seconds and is imported at the first real use.
"""

from simvtp.tracking.address import TrackerError, metric_name, resolve_uri, ui_command
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
from simvtp.tracking.sweep_parent import finish_sweep, log_report, start_sweep, summarise, sync_all

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
    "metric_name",
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
