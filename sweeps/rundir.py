"""What a run directory says about its point. The run directories are the truth; the study and the tracker are made from them.

Read here: status.json and results.json (written by the experiment), job.json (written by the runner right after submission, before
it waits for anything). Liveness is checked by process id *and* start time on the machine that runs the job, so that a process id
that was given out again is not mistaken for the job.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from simvtp.rundir import load_results

FINISHED, RUNNING, STARTING, FAILED, STOPPED, KILLED, MISSING = "finished", "running", "starting", "failed", "stopped", "killed", "missing"
ALIVE = (RUNNING, STARTING)
BY_HAND = "by hand"  # the executor of an experiment that was started without a sweep
SILENT_AFTER_S = 300.0  # a job on another machine that wrote nothing for so long counts as gone


@dataclass(frozen=True)
class RunState:
    """State of one point: finished, running, starting (submitted, nothing written yet), failed (gave up with a reason), stopped
    (asked to stop, has a checkpoint), killed (went away without a word) or missing (never started)."""

    state: str
    status: Mapping[str, Any] = field(default_factory=dict)
    job: Mapping[str, Any] = field(default_factory=dict)

    @property
    def message(self) -> str:
        return str(self.status.get("message") or "")


def read_state(run_dir: Path, alive: bool | None = None) -> RunState:
    """State of the point in `run_dir`. `alive`: whether its job lives, where the caller knows better (its own child, SLURM)."""
    status, job = _read(run_dir / "status.json"), _read(run_dir / "job.json")
    said = status.get("state", "")
    if said == FINISHED and (run_dir / "results.json").exists():
        return RunState(FINISHED, status, job)
    newer_job = bool(job) and float(job.get("submitted", 0)) > float(status.get("updated", 0))
    if alive is None:
        alive = job_alive(job, status) or (said == RUNNING and writer_alive(status))
    if alive:
        return RunState(STARTING if not status or newer_job else RUNNING, status, job)
    if newer_job:  # what the status says is about an earlier attempt
        return RunState(KILLED, {}, job)
    if said in (FAILED, STOPPED):
        return RunState(said, status, job)
    return RunState(KILLED if status or job else MISSING, status, job)


def read_value(run_dir: Path, metric: str) -> tuple[float, float] | None:
    """(value, what guessing would give) of the tracked metric `test/finetuned/t2v/R1`; None if it was not measured."""
    key, _, name = metric.rpartition("/")
    try:
        results = load_results(run_dir)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    for result in results:
        if result.key == key and name in result.metrics:
            return float(result.metrics[name]), float(result.chance.get(name, float("nan")))
    return None


def process_mark(pid: int) -> dict[str, Any]:
    """Host, process id and start time: enough to recognise the process later."""
    return {"host": socket.gethostname(), "pid": pid, "pid_started": _start_mark(pid)}


def writer_record(status: Mapping[str, Any]) -> dict[str, Any]:
    """A job record for an experiment that was started by hand: the process that writes its status."""
    pid, host = int(status.get("pid", 0)), str(status.get("host", ""))
    started = _start_mark(pid) if host == socket.gethostname() else 0.0
    submitted = float(status.get("updated", 0))
    return {
        "executor": BY_HAND,
        "job_id": f"process {pid} on {host}",
        "host": host,
        "pid": pid,
        "pid_started": started,
        "submitted": submitted,
    }


def job_alive(job: Mapping[str, Any], status: Mapping[str, Any]) -> bool:
    """Whether the process of a local job lives. For a job of another machine: whether it wrote its status lately.

    Jobs of a batch system have no process here: the runner asks the batch system.
    """
    if job.get("executor") not in ("local", BY_HAND):
        return False
    if job["host"] != socket.gethostname():
        if status.get("state", RUNNING) != RUNNING and float(status.get("updated", 0)) >= float(job.get("submitted", 0)):
            return False  # it has said how it ended
        return time.time() - max(float(status.get("updated", 0)), float(job.get("submitted", 0))) < SILENT_AFTER_S
    return _start_mark(int(job["pid"])) == float(job["pid_started"]) > 0


def writer_alive(status: Mapping[str, Any]) -> bool:
    """Whether the process that wrote the status lives: an experiment that somebody runs by hand, without a sweep."""
    updated = float(status.get("updated", 0))
    if status.get("host") != socket.gethostname():
        return time.time() - updated < SILENT_AFTER_S
    pid = int(status.get("pid", 0))
    try:
        return _start_mark(pid) > 0 and psutil.Process(pid).create_time() <= updated + 2
    except psutil.Error:  # it went away between the two questions
        return False


def _start_mark(pid: int) -> float:
    """When a process started, as a number that stays the same while it lives; 0 if there is none, or only its zombie.

    From /proc it is clock ticks since the boot: unlike the time of day, that does not move when the clock is set.
    """
    stat = Path(f"/proc/{pid}/stat")
    try:
        if not Path("/proc/self/stat").exists():  # not Linux
            process = psutil.Process(pid)
            return 0.0 if process.status() == psutil.STATUS_ZOMBIE else process.create_time()
        fields = stat.read_text().rpartition(")")[2].split()
    except (OSError, psutil.Error):
        return 0.0
    return 0.0 if fields[0] in ("Z", "X") else float(fields[19])


def last_lines(path: Path, count: int = 12, reach: int = 16384) -> list[str]:
    """The last lines of a log, without the lines in which the job system talks about itself."""
    try:
        with open(path, "rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - reach))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return []
    return [line.rstrip() for line in lines if line.strip() and not line.startswith("submitit ")][-count:]


def failure_log(state: RunState, run_dir: Path, count: int = 12) -> tuple[Path, list[str]]:
    """The log that says most about a failure, and its end: standard error of the job, else its output, else what
    its setup printed, else log.txt."""
    candidates = [Path(state.job[key]) for key in ("stderr", "stdout", "launch") if state.job.get(key)] + [run_dir / "log.txt"]
    for path in candidates:
        lines = last_lines(path, count)
        if lines:
            return path, lines
    return candidates[0], []


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
