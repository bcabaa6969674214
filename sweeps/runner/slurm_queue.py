"""Asks SLURM about jobs in bulk: one `squeue` call for all jobs of the user.

The queue and not the accounting decides whether a job is alive: the accounting may be off or late,
and calls a job final that SLURM has requeued after a node failure. When SLURM does not answer,
every job counts as alive; nothing is ever submitted again on a guess."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass

from sweeps.runner.slurm_environment import slurm_environment

ANSWER_S = 60.0  # a SLURM command that takes longer counts as no answer
IDS_PER_CALL = 1000
# states of a job that has no process
SLEEPING = ("PENDING", "REQUEUED", "REQUEUE_HOLD", "CONFIGURING", "SPECIAL_EXIT")


@dataclass(frozen=True)
class QueuedJob:
    """One line of the queue.

    Attributes:
        state: SLURM's name (PENDING, RUNNING, COMPLETING, ...).
        node: where it runs; empty while it waits.
        reason: why it waits.
        name: name of the job.
        elapsed: `[D-]H:MM:SS`.
    """

    state: str
    node: str
    reason: str
    name: str
    elapsed: str

    @property
    def waits(self) -> bool:
        """True while it has no process."""
        return self.state in SLEEPING


class SlurmQueue:
    """The user's jobs that SLURM runs or will run.

    SLURM is asked at most every `every_s` seconds, and less often when it is slow. One queue is
    created per command and passed to everything that asks for jobs, so that a sweep of a thousand
    points asks once.
    """

    def __init__(self, every_s: float = 5.0) -> None:
        self.calls = 0  # of squeue
        self._every_s = every_s
        self._next = 0.0
        self._jobs: dict[str, QueuedJob] | None = None

    def jobs(self) -> dict[str, QueuedJob] | None:
        """Returns the jobs by id (`12`, or `12_3` for an array element); None without an answer."""
        if time.monotonic() >= self._next:
            began = time.monotonic()
            self._jobs = self._ask()
            took = time.monotonic() - began
            # at most a twentieth of the time, so that many users do not load the scheduler
            self._next = time.monotonic() + max(self._every_s, min(60.0, 20 * took))
        return self._jobs

    def job(self, job_id: str) -> QueuedJob | None:
        """Returns one job; None if it is not in the queue or SLURM does not answer."""
        return (self.jobs() or {}).get(job_id)

    def refresh(self) -> None:
        """Makes the next call ask SLURM (after a submission or a cancellation)."""
        self._next = 0.0

    def has(self, job_id: str) -> bool:
        """Returns whether the job is in the queue; True if SLURM does not answer."""
        jobs = self.jobs()
        return jobs is None or job_id in jobs

    def _ask(self) -> dict[str, QueuedJob] | None:
        self.calls += 1
        output = ask(["squeue", "--noheader", "--me", "--array", "--format", "%i|%T|%N|%r|%M|%j"])
        if output is None:
            return None
        found = {}
        for line in output.splitlines():
            job_id, state, node, reason, elapsed, name = line.split("|", 5)
            found[job_id] = QueuedJob(state, node, reason, name, elapsed)
        return found


def available() -> bool:
    """Returns whether this machine has SLURM's commands."""
    return shutil.which("squeue") is not None


def cancel_jobs(job_ids: Sequence[str]) -> str:
    """Cancels jobs and returns SLURM's error messages; "" if there were none.

    Jobs that have ended already are no error.
    """
    errors = []
    for start in range(0, len(job_ids), IDS_PER_CALL):
        command = ["scancel", *job_ids[start : start + IDS_PER_CALL]]
        done = run_slurm(command)
        errors += [
            line
            for line in done.stderr.splitlines()
            if line and "Invalid job id" not in line and "already completing" not in line
        ]
    return "; ".join(errors)


def run_slurm(
    command: list[str], timeout_s: float | None = None
) -> subprocess.CompletedProcess[str]:
    """Runs a SLURM command without the caller's SLURM variables.

    Raises:
        FileNotFoundError: this machine does not have it.
        subprocess.TimeoutExpired: it took longer than `timeout_s`.
    """
    return subprocess.run(
        command,
        env=slurm_environment(),
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
        timeout=timeout_s,
    )


def ask(command: list[str]) -> str | None:
    """Returns what a SLURM command printed; None if it failed or took too long."""
    try:
        done = run_slurm(command, timeout_s=ANSWER_S)
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
