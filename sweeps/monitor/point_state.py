"""Reads the state of a point from its run directory.

The run directories are the truth; the study and the tracker are derived from them. Read here:
status.json and results.json (written by the experiment) and job.json (written by the runner right
after submission, before it waits for anything). A process is identified by its id and its start
time on the machine that runs the job, so that a reused process id is not mistaken for the job."""

from __future__ import annotations

import dataclasses
import json
import socket
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from simvtp.runs.atomic_files import read_json_or_none, write_atomically
from simvtp.runs.attempts import Attempt, attempts, newest_token, owner
from simvtp.runs.process_identity import process_start
from simvtp.runs.run_records import (
    JOB_FILE,
    JobEnd,
    JobRecord,
    RunState,
    RunStatus,
    read_status_or_none,
)
from simvtp.runs.scores import read_metric

ALIVE = (RunState.RUNNING, RunState.STARTING)
GIVEN_UP = (RunState.FAILED, RunState.CANCELLED)  # not started again unless the user asks for it
DONE = (RunState.FINISHED, RunState.PRUNED)
RANK_FAILURE = "rank_failure.json"
SETUP_FAILED = "setup command failed"  # beginning of the line that names it, in the job's log
BY_HAND = "by hand"  # executor of an experiment that was started without a sweep
SILENT_AFTER_S = 300.0  # a job on another machine that wrote nothing for this long counts as gone


@dataclass(frozen=True)
class PointState:
    """State of one point.

    Attributes:
        state: its state.
        status: content of status.json; None if the experiment has not written one.
        job: content of job.json; None without a job.
    """

    state: RunState
    status: RunStatus | None = None
    job: JobRecord | None = None

    @property
    def alive(self) -> bool:
        """True while its job runs or starts."""
        return self.state in ALIVE

    @property
    def message(self) -> str:
        """Reason for this state: how the job ended where that says more than the experiment did."""
        explained = (RunState.CANCELLED, RunState.PRUNED, RunState.KILLED)
        if self.state in explained and self.ended is not None and self.ended.message:
            return self.ended.message
        return self.status.message if self.status else ""

    @property
    def ended(self) -> JobEnd | None:
        """End of its job; None if not known."""
        return self.job.ended if self.job else None

    @property
    def executor(self) -> str:
        """Executor of its job; empty without one."""
        return self.job.executor if self.job else ""

    @property
    def job_id(self) -> str:
        """Id of its job; empty without one."""
        return self.job.job_id if self.job else ""

    @property
    def submitted(self) -> float:
        """Time of its job's submission; 0 without one."""
        return self.job.submitted if self.job else 0.0


def read_job(run_dir: Path) -> JobRecord | None:
    """Returns the content of job.json; None if it is missing or damaged.

    Paths of logs and code are those of today: the folder of the runs may have been moved or copied.
    """
    values = read_json_or_none(run_dir / JOB_FILE, dict)
    if not values:
        return None
    try:  # a point that was cancelled before it was submitted has an end and no job
        job = JobRecord.from_dict({"executor": "", "job_id": "", **values})
    except (KeyError, TypeError, ValueError):
        return None
    return dataclasses.replace(
        job,
        stdout=_present_path(job.stdout, run_dir),
        stderr=_present_path(job.stderr, run_dir),
        launch=_present_path(job.launch, run_dir),
        code=_present_path(job.code, run_dir),
    )


def _present_path(recorded: str, run_dir: Path) -> str:
    """Returns where a recorded path below the folder of the runs is today."""
    _, found, rest = recorded.rpartition("/sweeps/")
    here = run_dir.absolute().parent / "sweeps" / rest
    return str(here) if found and here.exists() else recorded


def write_job(run_dir: Path, job: JobRecord) -> None:
    """Writes job.json."""
    write_atomically(run_dir / JOB_FILE, json.dumps(job.to_dict(), indent=1))


def read_state(run_dir: Path, alive: bool | None = None) -> PointState:
    """Returns the state of the point in `run_dir`.

    Args:
        run_dir: the run directory; it need not exist.
        alive: whether its job is alive, if the caller knows better (its own child, SLURM).
    """
    status, job = read_status_or_none(run_dir), read_job(run_dir)
    written = status.state if status else None
    if written == RunState.FINISHED and (run_dir / "results.json").exists():
        return PointState(RunState.FINISHED, status, job)
    newer_job = _is_newer(job, status, run_dir)
    if alive is None:
        alive = process_alive(job, status, run_dir) or (
            written == RunState.RUNNING and writer_alive(status)
        )
    if alive:
        starting = status is None or newer_job
        return PointState(RunState.STARTING if starting else RunState.RUNNING, status, job)
    ended = job.ended if job else None
    by_user = ended is not None and ended.cause in (RunState.CANCELLED, RunState.PRUNED)
    if ended and by_user and _ended_last(run_dir, ended):
        return PointState(RunState(ended.cause), None if newer_job else status, job)
    if newer_job:  # status.json belongs to an earlier attempt
        return PointState(RunState.KILLED, None, job)
    if written in (RunState.FAILED, RunState.STOPPED):
        return PointState(RunState(written), status, job)
    return PointState(RunState.KILLED if status or job else RunState.MISSING, status, job)


def _is_newer(job: JobRecord | None, status: RunStatus | None, run_dir: Path) -> bool:
    """Returns whether the job was submitted after the status was written.

    Attempts are counted for that, as the clock of the job's machine may differ from ours.
    """
    if job is None:
        return False
    if status is None:
        return job.submitted > 0
    if job.after_attempt >= 0 and status.attempt:
        return status.attempt <= job.after_attempt
    if job.after_attempt >= 0:  # a status without the number of its attempt
        tokens = [some.token for some in attempts(run_dir) if _wrote(some, status)]
        if tokens:
            return max(tokens) <= job.after_attempt
    # a record of an older version, or a writer without a lease
    return job.submitted > status.updated


def _wrote(attempt: Attempt, status: RunStatus) -> bool:
    """Returns whether the process of an attempt has written the status."""
    same = (attempt.host, attempt.pid) == (status.host, status.pid)
    return same and status.pid_started in (0.0, attempt.pid_started)


def _ended_last(run_dir: Path, ended: JobEnd) -> bool:
    """Returns whether no attempt was started by hand since the recorded job ended."""
    if ended.attempt >= 0:
        return newest_token(run_dir) <= ended.attempt
    return all(attempt.began <= ended.at for attempt in attempts(run_dir)[-1:])


def record_end(
    run_dir: Path, cause: str, message: str, by: str, job: JobRecord | None = None
) -> None:
    """Writes into job.json how the job of a point ended.

    Args:
        run_dir: the run directory.
        cause: one word, for example `cancelled` or `node_fail`.
        message: the reason for people; may be empty.
        by: the program that found out.
        job: only write if this job is still the recorded one.
    """
    now = read_job(run_dir) or JobRecord(executor="", job_id="")
    if job is not None and (now.job_id, now.submitted) != (job.job_id, job.submitted):
        return
    write_job(run_dir, dataclasses.replace(now, ended=new_end(run_dir, cause, message, by)))


def new_end(run_dir: Path, cause: str, message: str, by: str) -> JobEnd:
    """Returns the record of a job's end that is found out now."""
    return JobEnd(cause, message, by, at=time.time(), attempt=newest_token(run_dir))


def read_value(run_dir: Path, metric: str) -> tuple[float, float] | None:
    """Returns (value, chance level) of a tracked metric such as `test/finetuned/t2v/R1`.

    None if it was not measured.
    """
    return read_metric(run_dir, metric)


def gpu_hours(run_dir: Path, status: RunStatus | None = None) -> float:
    """Returns the GPU-hours allocated to a run over all its attempts, as a cluster bills them.

    A running attempt counts until now. Where nothing was allocated (an experiment started by hand
    on a machine with GPUs), the hours that the training measured are returned.
    """
    now = time.time()
    allocated = sum(
        attempt.gpus * max(0.0, _end(attempt, now) - attempt.began) for attempt in attempts(run_dir)
    )
    return max(allocated / 3600, status.gpu_hours if status else 0.0)


def _end(attempt: Attempt, now: float) -> float:
    if attempt.ended is not None:
        return attempt.ended
    return now if now - attempt.last_beat < SILENT_AFTER_S else attempt.last_beat


def newest_host(run_dir: Path) -> str:
    """Returns the machine of the newest attempt; "" if there is none."""
    return next((attempt.host for attempt in reversed(attempts(run_dir))), "")


def rank_failure(run_dir: Path, job: JobRecord | None) -> str:
    """Returns the message of a rank other than 0 of this job that failed; "" if none did."""
    failure = read_json_or_none(run_dir / RANK_FAILURE, dict)
    if not failure:
        return ""
    if failure.get("job_id") and job is not None:
        if failure["job_id"] != job.job_id:
            return ""
    elif float(failure.get("at", 0)) < (job.submitted if job else 0.0):
        return ""
    return f"rank {failure.get('rank')}: {failure.get('message')}"


def setup_failure(state: PointState, run_dir: Path) -> str:
    """Returns the line that names the setup command that ended the job; "" if none did."""
    if state.state != RunState.KILLED:
        return ""
    _, lines = failure_log(state, run_dir, count=5)
    found = [line for line in lines if line.startswith(SETUP_FAILED)]
    return found[-1] if found else ""


def writer_job(status: RunStatus | None) -> JobRecord:
    """Returns a job record for an experiment started by hand: the writer of its status.json."""
    status = status or RunStatus()
    return JobRecord(
        executor=BY_HAND,
        job_id=f"process {status.pid} on {status.host}",
        submitted=status.updated,
        host=status.host,
        pid=status.pid,
        pid_started=process_start(status.pid) if status.host == socket.gethostname() else 0.0,
    )


def process_alive(
    job: JobRecord | None, status: RunStatus | None = None, run_dir: Path | None = None
) -> bool:
    """Returns whether the process of a local job is alive.

    A job of another machine counts as alive if it wrote its status lately. Jobs of a batch system
    have no process here: `sweeps.runner.liveness` asks the batch system. Where that cannot be asked
    (a shared folder seen from a laptop), the lease decides: its owner touches it every few seconds.
    """
    if job is None:
        return False
    if job.executor == "slurm" and run_dir is not None:
        holder = owner(run_dir)
        return holder is not None and time.time() - holder.last_beat < SILENT_AFTER_S
    if job.executor not in ("local", BY_HAND):
        return False
    if job.host == socket.gethostname():
        return process_start(job.pid) == job.pid_started > 0
    updated = status.updated if status else 0.0
    if status and status.state != RunState.RUNNING and updated >= job.submitted:
        return False  # its status says how it ended
    return time.time() - max(updated, job.submitted) < SILENT_AFTER_S


def writer_alive(status: RunStatus | None) -> bool:
    """Returns whether the process that wrote status.json is alive.

    That process is an experiment that somebody runs by hand, without a sweep.
    """
    if status is None:
        return False
    if status.host != socket.gethostname():
        return time.time() - status.updated < SILENT_AFTER_S
    if status.pid_started:
        return process_start(status.pid) == status.pid_started
    try:  # a status of an older version
        return (
            process_start(status.pid) > 0
            and psutil.Process(status.pid).create_time() <= status.updated + 2
        )
    except psutil.Error:  # it ended between the two calls
        return False


def last_lines(path: Path, count: int = 12, reach: int = 16384) -> list[str]:
    """Returns the last lines of a log, without the job system's own lines."""
    try:
        with open(path, "rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - reach))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return []
    own = [line.rstrip() for line in lines if line.strip() and not line.startswith("submitit ")]
    return own[-count:]


def failure_log(state: PointState, run_dir: Path, count: int = 12) -> tuple[Path, list[str]]:
    """Returns the log that says most about a failure, and its last lines.

    That is the first of these with any line: the job's standard error, its output, the output of
    its setup commands, log.txt.
    """
    job = state.job
    logs = (job.stderr, job.stdout, job.launch) if job else ()
    candidates = [*(Path(log) for log in logs if log), run_dir / "log.txt"]
    for path in candidates:
        lines = last_lines(path, count)
        if lines:
            return path, lines
    return candidates[0], []
