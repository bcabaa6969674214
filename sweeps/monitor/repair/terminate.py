"""Ends points from outside their sweep command, which may be running: for `sweeps/cancel.py`.

The end is written to a point's job.json before its job gets a signal, so that whoever sees the job
exit reads why. A sweep command reads the end of a waiting point before it submits it; a point that
it submits at that very moment is found in the next round."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from simvtp.runs.atomic_files import read_json, write_atomically
from simvtp.runs.run_records import JOB_FILE, JobRecord
from sweeps.monitor.point_state import (
    PointState,
    new_end,
    process_alive,
    read_job,
    record_end,
    write_job,
)
from sweeps.runner.slurm_queue import cancel_jobs

BY = "sweeps/cancel.py"
KILL_GRACE_S = 10.0  # time that a killed process has to disappear


@dataclass(frozen=True)
class RunningJob:
    """A point that is to be ended, in the state in which it was found.

    Attributes:
        name: of the point.
        run_dir: its run directory.
        state: its state; its job may also be waiting or not submitted at all.
    """

    name: str
    run_dir: Path
    state: PointState

    @property
    def alive(self) -> bool:
        """True while its job runs or starts."""
        return self.state.alive

    @property
    def obstacle(self) -> str:
        """Reason why its job cannot be ended from here; "" if it can."""
        job = self.state.job
        if not self.alive or self.state.executor == "slurm":
            return ""
        if job and job.executor == "local" and job.host != socket.gethostname():
            return f"runs on {job.host}: run this command there"
        if job and job.executor == "local" and process_alive(job):
            return ""
        return "runs inside another program or was started by hand: stop it there with Ctrl-C"


def end_points(targets: Sequence[RunningJob], cause: str, grace_s: float) -> dict[Path, str]:
    """Writes the end of each point, signals its job, and waits.

    Args:
        targets: the points.
        cause: `cancelled`, or `stopped` (continued by the same sweep command).
        grace_s: time to save a checkpoint.

    Returns:
        The run directories of points that could not be ended, with the reason.
    """
    left = {target.run_dir: target.obstacle for target in targets if target.obstacle}
    able = [target for target in targets if target.run_dir not in left]
    running = [target for target in able if target.alive]
    slurm = [target for target in running if target.state.executor == "slurm"]
    for target in able:
        _write_end(target, cause)
    errors = cancel_jobs([target.state.job_id for target in slurm])
    if errors:
        left |= {target.run_dir: f"SLURM says: {errors}" for target in slurm}
    local = [target for target in running if target.state.executor == "local"]
    left |= _end_local(local, grace_s)
    for target in running:
        if target.run_dir in left:
            _withdraw_end(target)
        else:  # again: a job that began after the first time would be younger than its end
            _write_end(target, cause)
    return left


def _end_local(targets: Sequence[RunningJob], grace_s: float) -> dict[Path, str]:
    """Sends SIGTERM, which makes a job save and leave, and SIGKILL to its session after the grace.

    Returns what is still alive.
    """
    for number, patience_s in ((signal.SIGTERM, grace_s), (signal.SIGKILL, KILL_GRACE_S)):
        alive = [target for target in targets if process_alive(target.state.job)]
        for target in alive:
            assert target.state.job is not None
            pid = target.state.job.pid  # the leader of a session of its own
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number) if number == signal.SIGTERM else os.killpg(pid, number)
        deadline = time.monotonic() + patience_s
        while time.monotonic() < deadline:
            if not any(process_alive(target.state.job) for target in alive):
                break
            time.sleep(0.1)
    alive = [target for target in targets if process_alive(target.state.job)]
    return {target.run_dir: "its process does not end" for target in alive}


def _write_end(target: RunningJob, cause: str) -> None:
    """Writes how the attempt ends.

    The record of a running point can be changed, as nobody submits it. A waiting point may be
    submitted at this very moment, and then the new record must win: ours is only put where there is
    none.
    """
    if target.alive:
        record_end(target.run_dir, cause, "", BY, target.state.job)
        return
    path, own = target.run_dir / JOB_FILE, target.run_dir / f".{JOB_FILE}.{os.getpid()}.tmp"
    target.run_dir.mkdir(parents=True, exist_ok=True)
    record = JobRecord(executor="", job_id="")
    with contextlib.suppress(OSError):
        path.rename(own)
        record = _read_record(own) or record
    ended = dataclasses.replace(record, ended=new_end(target.run_dir, cause, "", BY))
    write_atomically(own, json.dumps(ended.to_dict(), indent=1))
    with contextlib.suppress(FileExistsError):  # it was submitted: the next round finds it running
        os.link(own, path)
    own.unlink()


def _read_record(path: Path) -> JobRecord | None:
    """Returns the record in a file; None if it is damaged."""
    try:
        return JobRecord.from_dict({"job_id": "", **read_json(path, dict)})
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _withdraw_end(target: RunningJob) -> None:
    """Removes the end of a job that goes on, unless the record is of another job by now."""
    record = read_job(target.run_dir)
    if record is not None and record.ended and record.job_id == target.state.job_id:
        write_job(target.run_dir, dataclasses.replace(record, ended=None))
