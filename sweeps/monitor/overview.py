"""Reads the state of the sweeps under a root from their plans and run directories.

Shared by status, cancel and doctor. No job is asked anything, and SLURM is asked once for all of
its jobs. Nothing here imports torch, Optuna, submitit or MLflow, so that an answer about thousands
of points takes less than two seconds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from simvtp.errors import ConfigError, DamagedFile
from simvtp.runs.run_records import RunState
from simvtp.runs.sweep_plan import PLAN_FILE, SweepPlan, read_plan
from sweeps.monitor.controller_lock import controller
from sweeps.monitor.point_state import (
    DONE,
    PointState,
    gpu_hours,
    newest_host,
    rank_failure,
    read_value,
    setup_failure,
)
from sweeps.monitor.point_view import WAITING, PointView, SweepView, count_line, point_view
from sweeps.runner.liveness import state_of
from sweeps.runner.slurm_queue import SlurmQueue, available

LOST = "its process ended without a message (killed from outside, or out of memory)"
# states that the same sweep command starts or continues
IDLE = (RunState.MISSING, RunState.STOPPED, RunState.KILLED)


@dataclass(frozen=True)
class RecordedPoint:
    """A point as plan.json records it; to a study the same as a point of an ablation."""

    name: str
    cell: Mapping[str, Any]
    seed: int
    fingerprint: str
    run_dir: Path


@dataclass(frozen=True)
class SweepFolder:
    """A sweep that was started under `root`: `<root>/sweeps/<id>/plan.json`.

    Attributes:
        folder: of the sweep.
        root: of the runs.
        plan: content of plan.json.
    """

    folder: Path
    root: Path
    plan: SweepPlan

    @property
    def sweep_id(self) -> str:
        """Name of the folder."""
        return self.folder.name

    @property
    def ablation(self) -> str:
        """Name of the ablation."""
        return self.plan.ablation

    @property
    def planned_at(self) -> float:
        """Time at which the plan was last written: the last run of the sweep command."""
        return (self.folder / PLAN_FILE).stat().st_mtime

    @cached_property
    def points(self) -> tuple[RecordedPoint, ...]:
        """Points of the plan, each fingerprint once."""
        found = {}
        for point in self.plan.points:
            values = {**point.cell, "seed": point.seed}.items()
            name = point.name or " ".join(f"{key.rpartition('.')[2]} {v}" for key, v in values)
            run_dir = self.root / point.run_name
            found[point.fingerprint] = RecordedPoint(
                name, point.cell, point.seed, point.fingerprint, run_dir
            )
        return tuple(found.values())

    def matching(self, only: Sequence[str]) -> tuple[RecordedPoint, ...]:
        """Returns the points whose cells have all these values.

        A key may be shortened as long as it fits one axis: `masks.video_ratio=0.9`,
        `video_ratio=0.9`, `video=0.9`, `seed=1`.

        Raises:
            ConfigError: no point has them, or a key fits no axis or several.
        """
        keys = [*(axis.key for axis in self.plan.axes), "seed"]
        chosen = self.points
        for text in only:
            short, sign, value = text.partition("=")
            exact = [key for key in keys if short in (key, key.rpartition(".")[2])]
            fitting = exact or [key for key in keys if short and short in key]
            if not sign or len(fitting) != 1:
                raise ConfigError(
                    f"--only {text}: choose a key from {', '.join(keys)}, then = and a value of "
                    "that axis."
                )
            chosen = tuple(p for p in chosen if same_value(_coordinate(p, fitting[0]), value))
        if not chosen:
            raise ConfigError(
                f"--only {' --only '.join(only)} leaves no point of {self.sweep_id}; "
                "sweeps/status.py lists them."
            )
        return chosen


def _coordinate(point: RecordedPoint, key: str) -> Any:
    return point.seed if key == "seed" else point.cell.get(key)


def same_value(value: Any, text: str) -> bool:
    """Returns whether `text` means the value: as a number if both are, else literally."""
    try:
        return float(value) == float(text)
    except (TypeError, ValueError):
        return str(value) == text


# ---- finding sweeps ------------------------------------------------------------------------------


def find_sweeps(root: Path, names: Sequence[str] = ()) -> list[SweepFolder]:
    """Returns the sweeps under `root`, newest last.

    Args:
        root: folder of the runs.
        names: only these: an id, the beginning of one id, or the name of an ablation.

    Raises:
        ConfigError: there is no such sweep, or a beginning fits several.
    """
    if not root.is_dir():
        raise ConfigError(f"--root {root}: there is no such folder; give the folder of the runs.")
    loaded = [_load(path) for path in root.glob(f"sweeps/*/{PLAN_FILE}")]
    every = sorted(
        (sweep for sweep in loaded if sweep is not None),
        key=lambda sweep: (sweep.planned_at, sweep.sweep_id),
    )
    if not names:
        return every
    chosen: dict[str, SweepFolder] = {}
    for name in names:
        chosen |= {sweep.sweep_id: sweep for sweep in _named(root, every, name)}
    return list(chosen.values())


def _named(root: Path, every: Sequence[SweepFolder], name: str) -> list[SweepFolder]:
    exact = [sweep for sweep in every if name in (sweep.sweep_id, sweep.ablation)]
    found = exact or [sweep for sweep in every if sweep.sweep_id.startswith(name)]
    ids = ", ".join(sweep.sweep_id for sweep in found or every)
    if not found:
        known = f"choose from {ids}" if ids else "there is none"
        raise ConfigError(f"no sweep '{name}' under {root}; {known}.")
    if not exact and len(found) > 1:
        raise ConfigError(
            f"'{name}' fits several sweeps under {root}: {ids}; write more of the id."
        )
    return found


def _load(path: Path) -> SweepFolder | None:
    """Returns the sweep of a plan; None if that cannot be read (sweeps/doctor.py reports those)."""
    try:
        return SweepFolder(path.parent, path.parents[2], read_plan(path))
    except (OSError, DamagedFile):
        return None


# ---- state of a sweep ----------------------------------------------------------------------------


@dataclass(frozen=True)
class StatusRow:
    """State of one point.

    Attributes:
        point: the point.
        state: its state.
        view: its row for people.
        value: the plan's metric; None until it is measured.
        gpu_hours, cpu_hours: over all attempts.
    """

    point: RecordedPoint
    state: PointState
    view: PointView
    value: float | None
    gpu_hours: float
    cpu_hours: float

    @property
    def log(self) -> str:
        """Log that says most; empty without a job.

        That is the standard error of a failed job, else the output.
        """
        job = self.state.job
        if job is None:
            return ""
        if self.state.state in (RunState.FAILED, RunState.KILLED):
            return job.stderr or job.stdout
        return job.stdout or job.stderr


@dataclass(frozen=True)
class Overview:
    """State of one sweep.

    Attributes:
        sweep: the sweep.
        rows: one per point.
        controller: the process that runs it; empty if none does.
        answered: False if SLURM was asked and did not answer.
    """

    sweep: SweepFolder
    rows: tuple[StatusRow, ...]
    controller: str
    answered: bool = True

    @property
    def gpu_hours(self) -> float:
        """Sum over the points."""
        return sum(row.gpu_hours for row in self.rows)

    @property
    def cpu_hours(self) -> float:
        """Sum over the points."""
        return sum(row.cpu_hours for row in self.rows)

    @property
    def finished(self) -> bool:
        """True if nothing is left to run."""
        return all(row.state.state in DONE for row in self.rows)

    def view(self) -> SweepView:
        """Returns the rows as a display shows them."""
        title = f"{self.sweep.sweep_id}: {self.sweep.plan.title}"
        return SweepView(title, tuple(row.view for row in self.rows), 0.0, None)

    def summary(self) -> str:
        """Returns counts, hours and controller in one line."""
        hours = f"{self.cpu_hours:.2f} CPU-hours"
        if self.gpu_hours:
            hours = f"{self.gpu_hours:.2f} GPU-hours"
        run_by = f"controller: {self.controller}" if self.controller else "no controller is running"
        silent = "" if self.answered else " · SLURM does not answer: its jobs count as alive"
        return f"{count_line(self.view())} · {hours} · {run_by}{silent}"


def survey(sweep: SweepFolder, queue: SlurmQueue) -> Overview:
    """Returns the state of all points of a sweep."""
    metric = sweep.plan.metric
    rows = tuple(
        _row(point, state_of(point.run_dir, queue), metric, queue) for point in sweep.points
    )
    asked = available() and any(
        row.state.executor == "slurm" and row.state.state != RunState.FINISHED for row in rows
    )
    answered = not asked or queue.jobs() is not None
    return Overview(sweep, rows, controller(sweep.folder), answered)


def _row(point: RecordedPoint, state: PointState, metric: str, queue: SlurmQueue) -> StatusRow:
    if state.state == RunState.MISSING:
        return StatusRow(point, state, PointView(point.name, WAITING), None, 0.0, 0.0)
    host, waits = _queue_row(state, queue)
    finished = state.state == RunState.FINISHED
    value = read_value(point.run_dir, metric) if finished else None
    note = waits or reason_of(state, point.run_dir)
    host = host or newest_host(point.run_dir)
    view = point_view(point.name, None, point.run_dir, state, note, metric, host)
    hours = gpu_hours(point.run_dir, state.status)
    cpu_hours = state.status.cpu_hours if state.status else 0.0
    return StatusRow(point, state, view, value[0] if value else None, hours, cpu_hours)


def _queue_row(state: PointState, queue: SlurmQueue) -> tuple[str, str]:
    """Returns (node, note) of a living SLURM job.

    That is `("n1", "")`, or `("", "PENDING (Resources)")` while it waits.
    """
    if not state.alive or state.executor != "slurm" or not available():
        return "", ""
    job = queue.job(state.job_id)
    if job is None:
        return "", ""
    return job.node, f"{job.state} ({job.reason})" if job.waits else ""


def reason_of(state: PointState, run_dir: Path) -> str:
    """Returns why a point is not finished, in one line; "" if it runs, waits or is finished."""
    if state.state == RunState.KILLED:
        named = rank_failure(run_dir, state.job) or setup_failure(state, run_dir)
        return named or state.message or LOST
    by = state.ended.by if state.ended else ""
    defaults: dict[str, str] = {
        RunState.FAILED: "no reason given",
        RunState.STOPPED: "stopped",
        RunState.CANCELLED: f"by {by or 'somebody'}",
        RunState.PRUNED: "pruned",
    }
    return (state.message or defaults[state.state]) if state.state in defaults else ""
