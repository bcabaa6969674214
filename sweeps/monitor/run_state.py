"""What a run directory says about its point. The run directories are the truth; the study and the
tracker are made from them.

Read here: status.json and results.json (written by the experiment), job.json (written by the runner
right after submission, before it waits for anything). Liveness is checked by process id *and* start
time on the machine that runs the job, so that a process id that was given out again is not mistaken
for the job."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from simvtp.runs.atomic_files import read_json_or_none, write_atomically
from simvtp.runs.attempts import Attempt, attempts, owner
from simvtp.runs.process_identity import process_start
from simvtp.runs.run_records import RunState
from simvtp.runs.scores import read_metric

FINISHED, RUNNING, STARTING = RunState.FINISHED, RunState.RUNNING, RunState.STARTING
FAILED, STOPPED, KILLED = RunState.FAILED, RunState.STOPPED, RunState.KILLED
MISSING, CANCELLED, PRUNED = RunState.MISSING, RunState.CANCELLED, RunState.PRUNED
ALIVE = (RUNNING, STARTING)
GIVEN_UP = (FAILED, CANCELLED)  # not started again unless the user asks for it
RANK_FAILURE = "rank_failure.json"
BY_HAND = "by hand"  # the executor of an experiment that was started without a sweep
SILENT_AFTER_S = 300.0  # a job on another machine that wrote nothing for so long counts as gone


@dataclass(frozen=True)
class PointState:
    """State of one point: finished, running, starting (submitted, nothing written yet), failed
    (gave up with a reason), stopped (asked to stop, has a checkpoint), killed (went away without a
    word), cancelled (by the user), pruned (by a search) or missing (never started)."""

    state: str
    status: Mapping[str, Any] = field(default_factory=dict)
    job: Mapping[str, Any] = field(default_factory=dict)

    @property
    def message(self) -> str:
        """Why it is so: how the job ended where that explains more than what the experiment said
        last.
        """
        if self.state in (CANCELLED, PRUNED, KILLED) and self.ended.get("message"):
            return str(self.ended["message"])
        return str(self.status.get("message") or "")

    @property
    def ended(self) -> Mapping[str, Any]:
        """How its job ended, where somebody has found out: {"cause", "message", "at", "by"}."""
        return self.job.get("ended") or {}


def read_state(run_dir: Path, alive: bool | None = None) -> PointState:
    """State of the point in `run_dir`. `alive`: whether its job lives, where the caller knows
    better (its own child, SLURM).
    """
    status = read_json_or_none(run_dir / "status.json", dict) or {}
    job = read_json_or_none(run_dir / "job.json", dict) or {}
    said = status.get("state", "")
    if said == FINISHED and (run_dir / "results.json").exists():
        return PointState(FINISHED, status, job)
    newer_job = bool(job) and float(job.get("submitted", 0)) > float(status.get("updated", 0))
    if alive is None:
        alive = job_alive(job, status, run_dir) or (said == RUNNING and writer_alive(status))
    if alive:
        return PointState(STARTING if not status or newer_job else RUNNING, status, job)
    if _ended_last(run_dir, job) and job["ended"].get("cause") in (CANCELLED, PRUNED):
        return PointState(str(job["ended"]["cause"]), {} if newer_job else status, job)
    if newer_job:  # what the status says is about an earlier attempt
        return PointState(KILLED, {}, job)
    if said in (FAILED, STOPPED):
        return PointState(said, status, job)
    return PointState(KILLED if status or job else MISSING, status, job)


def _ended_last(run_dir: Path, job: Mapping[str, Any]) -> bool:
    """Whether the recorded job has ended and nobody has started the experiment by hand since."""
    if not job.get("ended"):
        return False
    return all(
        attempt.began <= float(job["ended"].get("at", 0)) for attempt in attempts(run_dir)[-1:]
    )


def note_end(
    run_dir: Path, cause: str, message: str, by: str, job: Mapping[str, Any] | None = None
) -> None:
    """Write into job.json how the point's job ended. `job`: only if that job is still the recorded
    one.
    """
    record = read_json_or_none(run_dir / "job.json", dict) or {}
    if job is not None and (record.get("job_id"), record.get("submitted")) != (
        job.get("job_id"),
        job.get("submitted"),
    ):
        return
    record["ended"] = {"cause": cause, "message": message, "by": by, "at": time.time()}
    write_atomically(run_dir / "job.json", json.dumps(record, indent=1))


def read_value(run_dir: Path, metric: str) -> tuple[float, float] | None:
    """(value, what guessing would give) of a tracked metric such as `test/finetuned/t2v/R1`; None
    if it was not measured.
    """
    return read_metric(run_dir, metric)


def gpu_hours(run_dir: Path, status: Mapping[str, Any] | None = None) -> float:
    """GPU-hours that were set aside for a run, over all its attempts: what a cluster bills. An
    attempt that goes on counts until now.

    Where nothing was set aside (an experiment started by hand on a machine with GPUs): what the
    training has measured."""
    now = time.time()
    held = (
        sum(
            attempt.gpus * max(0.0, _end(attempt, now) - attempt.began)
            for attempt in attempts(run_dir)
        )
        / 3600
    )
    return max(held, float((status or {}).get("gpu_hours") or 0.0))


def _end(attempt: Attempt, now: float) -> float:
    if attempt.ended is not None:
        return attempt.ended
    return now if now - attempt.last_beat < SILENT_AFTER_S else attempt.last_beat


def node(run_dir: Path) -> str:
    """The machine of the newest attempt; "" if there is none."""
    return next((attempt.host for attempt in reversed(attempts(run_dir))), "")


def failed_rank(run_dir: Path, since: float) -> str:
    """What a rank other than the first said when it failed after `since`; "" if none did."""
    said = read_json_or_none(run_dir / RANK_FAILURE, dict) or {}
    return (
        f"rank {said.get('rank')}: {said.get('message')}"
        if said and float(said.get("at", 0)) >= since
        else ""
    )


def process_mark(pid: int) -> dict[str, Any]:
    """Host, process id and start time: enough to recognise the process later."""
    return {"host": socket.gethostname(), "pid": pid, "pid_started": process_start(pid)}


def writer_record(status: Mapping[str, Any]) -> dict[str, Any]:
    """A job record for an experiment that was started by hand: the process that writes its status."""
    pid, host = int(status.get("pid", 0)), str(status.get("host", ""))
    started = process_start(pid) if host == socket.gethostname() else 0.0
    submitted = float(status.get("updated", 0))
    return {
        "executor": BY_HAND,
        "job_id": f"process {pid} on {host}",
        "host": host,
        "pid": pid,
        "pid_started": started,
        "submitted": submitted,
    }


def job_alive(
    job: Mapping[str, Any], status: Mapping[str, Any], run_dir: Path | None = None
) -> bool:
    """Whether the process of a local job lives. For a job of another machine: whether it wrote its
    status lately.

    Jobs of a batch system have no process here: `sweeps.runner.slurm_queue` asks the batch system.
    Where it cannot be asked (a shared folder seen from a laptop), the lease tells: its owner
    touches it every few seconds."""
    if job.get("executor") == "slurm" and run_dir is not None:
        holder = owner(run_dir)
        return holder is not None and time.time() - holder.last_beat < SILENT_AFTER_S
    if job.get("executor") not in ("local", BY_HAND):
        return False
    if job["host"] != socket.gethostname():
        if status.get("state", RUNNING) != RUNNING and float(status.get("updated", 0)) >= float(
            job.get("submitted", 0)
        ):
            return False  # it has said how it ended
        return (
            time.time() - max(float(status.get("updated", 0)), float(job.get("submitted", 0)))
            < SILENT_AFTER_S
        )
    return process_start(int(job["pid"])) == float(job["pid_started"]) > 0


def writer_alive(status: Mapping[str, Any]) -> bool:
    """Whether the process that wrote the status lives: an experiment that somebody runs by hand,
    without a sweep.
    """
    updated = float(status.get("updated", 0))
    if status.get("host") != socket.gethostname():
        return time.time() - updated < SILENT_AFTER_S
    pid = int(status.get("pid", 0))
    try:
        return process_start(pid) > 0 and psutil.Process(pid).create_time() <= updated + 2
    except psutil.Error:  # it went away between the two questions
        return False


def last_lines(path: Path, count: int = 12, reach: int = 16384) -> list[str]:
    """The last lines of a log, without the lines in which the job system talks about itself."""
    try:
        with open(path, "rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - reach))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return []
    return [line.rstrip() for line in lines if line.strip() and not line.startswith("submitit ")][
        -count:
    ]


def failure_log(state: PointState, run_dir: Path, count: int = 12) -> tuple[Path, list[str]]:
    """The log that says most about a failure, and its end: standard error of the job, else its
    output, else what its setup printed, else log.txt."""
    candidates = [
        Path(state.job[key]) for key in ("stderr", "stdout", "launch") if state.job.get(key)
    ] + [run_dir / "log.txt"]
    for path in candidates:
        lines = last_lines(path, count)
        if lines:
            return path, lines
    return candidates[0], []
