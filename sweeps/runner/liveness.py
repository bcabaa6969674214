"""Decides whether a recorded job is alive, whichever executor started it."""

from __future__ import annotations

import time
from pathlib import Path

from simvtp.runs.attempts import Attempt, is_alive_here, owner, release_dead
from simvtp.runs.run_records import JobRecord, RunStatus
from sweeps.monitor.point_state import DONE, SILENT_AFTER_S, PointState, process_alive, read_state
from sweeps.runner.slurm_queue import SlurmQueue, available


def job_alive(
    job: JobRecord | None,
    queue: SlurmQueue,
    status: RunStatus | None = None,
    run_dir: Path | None = None,
) -> bool:
    """Returns whether a recorded job is alive: SLURM's by the queue, others by their process."""
    if job is not None and job.executor == "slurm" and available():
        return queue.has(job.job_id)
    return process_alive(job, status, run_dir)


def state_of(run_dir: Path, queue: SlurmQueue) -> PointState:
    """Returns the state of a run: from its directory, and for a SLURM job from the queue.

    A run is also running if something else owns its directory (an experiment started by hand).
    """
    state = read_state(run_dir)
    if state.job is None or state.state in DONE or state.executor != "slurm" or not available():
        return state
    alive = job_alive(state.job, queue, state.status, run_dir)
    return read_state(run_dir, alive=alive or _owned_by_another(run_dir, state.job_id))


def release_lost(run_dir: Path, job: JobRecord | None) -> None:
    """Ends the lease of a job that has left SLURM's queue, so that the next one need not wait.

    If its process still runs somewhere, it finds the lease gone and stops itself.
    """
    holder = owner(run_dir)
    if holder is None or job is None or job.executor != "slurm":
        return
    if _belongs_to(holder, job.job_id):
        release_dead(run_dir)


def _owned_by_another(run_dir: Path, job_id: str) -> bool:
    """Returns whether a living process that is not of this job owns the directory."""
    holder = owner(run_dir)
    if holder is None or _belongs_to(holder, job_id):
        return False
    here = is_alive_here(holder)
    return time.time() - holder.last_beat < SILENT_AFTER_S if here is None else here


def _belongs_to(attempt: Attempt, job_id: str) -> bool:
    slurm = attempt.slurm
    element = f"{slurm.get('SLURM_ARRAY_JOB_ID')}_{slurm.get('SLURM_ARRAY_TASK_ID')}"
    return job_id in (attempt.job, element)
