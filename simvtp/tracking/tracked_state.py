"""The state of a run as the tracker shows it, from status.json, job.json and the lease."""

from __future__ import annotations

import dataclasses
import socket
from pathlib import Path

from simvtp.runs.attempts import Attempt, is_alive_here, newest_attempt
from simvtp.runs.process_identity import process_start
from simvtp.runs.run_records import (
    JobEnd,
    RunState,
    RunStatus,
    read_job_end,
    read_status,
)

# found out from outside and recorded in job.json: by the user, by a search, by the machine
ENDED_EARLY = (RunState.CANCELLED, RunState.PRUNED, RunState.KILLED)
# MLflow's status of a run that has ended; all others are RUNNING
MLFLOW_STATUS: dict[str, str] = {
    RunState.FINISHED: "FINISHED",
    RunState.FAILED: "FAILED",
    RunState.STOPPED: "KILLED",
    RunState.CANCELLED: "KILLED",
    RunState.PRUNED: "KILLED",
    RunState.KILLED: "KILLED",
}


def run_status(run_dir: Path, abandoned: bool = False) -> RunStatus:
    """Returns status.json, unless job.json says that the job was ended from outside since.

    Args:
        run_dir: the run directory.
        abandoned: a run whose process on this machine is gone counts as stopped.

    Raises DamagedFile.
    """
    status = read_status(run_dir) or RunStatus(state=RunState.QUEUED)
    ended = read_job_end(run_dir)
    if ended is not None and _ended_last(run_dir, status, ended):
        return _ended_from_outside(status, ended)
    if abandoned and status.state == RunState.RUNNING and _is_gone(run_dir, status):
        message = f"the process ended without a message; {status.message}".rstrip("; ")
        return dataclasses.replace(status, state=RunState.STOPPED, message=message)
    return status


def _ended_last(run_dir: Path, status: RunStatus, ended: JobEnd) -> bool:
    """Returns True if the recorded end is the newest thing known of the run."""
    if not ended.cause or status.state == RunState.FINISHED:
        return False
    newest = newest_attempt(run_dir)
    if newest is not None and _began_after(newest, ended):
        return False
    # what the run says of its own end is more exact
    return ended.cause in ENDED_EARLY or status.state == RunState.RUNNING


def _began_after(attempt: Attempt, ended: JobEnd) -> bool:
    if ended.attempt >= 0:
        return attempt.token > ended.attempt
    return attempt.began > ended.at  # an older record: only the clocks order the two


def _ended_from_outside(status: RunStatus, ended: JobEnd) -> RunStatus:
    state = RunState(ended.cause) if ended.cause in ENDED_EARLY else RunState.KILLED
    message = f"{ended.cause}: {ended.message}" if ended.message else ended.cause
    return dataclasses.replace(status, state=state, message=message, updated=ended.at)


def _is_gone(run_dir: Path, status: RunStatus) -> bool:
    """Returns True if the process that wrote the status is known to be dead."""
    newest = newest_attempt(run_dir)
    if newest is not None and newest.ended is None and newest.pid == status.pid:
        return is_alive_here(newest) is False
    if status.host != socket.gethostname():
        return False
    started = process_start(status.pid)
    return started == 0 or 0 < status.pid_started != started
