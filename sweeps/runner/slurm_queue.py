"""What SLURM says of jobs, asked in bulk: one `squeue` for the whole queue of the user, and at the
end one `sacct` for the causes.

The queue and not the accounting decides whether a job lives: the accounting may be off or late, and
calls a job final that SLURM has put back into the queue after a node failure. That has cost others
points that ran twice. When SLURM does not answer, every job is taken to be there; nothing is ever
submitted again on a guess."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simvtp.runs.attempts import Attempt, is_alive_here, owner, release_dead
from sweeps.monitor.run_state import (
    FINISHED,
    PRUNED,
    SILENT_AFTER_S,
    PointState,
    job_alive,
    read_state,
)

ANSWER_S = 60.0  # how long SLURM may take for an answer before it counts as none
IDS_PER_CALL = 500
SLEEPING = (
    "PENDING",
    "REQUEUED",
    "REQUEUE_HOLD",
    "CONFIGURING",
    "SPECIAL_EXIT",
)  # the job has no process


@dataclass(frozen=True)
class QueuedJob:
    """A line of the queue. `state` by SLURM's names (PENDING, RUNNING, COMPLETING, ...), `reason`
    why it waits.
    """

    state: str
    node: str
    reason: str
    name: str
    elapsed: str  # [D-]H:MM:SS

    @property
    def waits(self) -> bool:
        return self.state in SLEEPING


@dataclass(frozen=True)
class Cause:
    """Why a job is no longer in the queue. `cause`: cancelled, out_of_memory, node_fail, timeout,
    preempted, killed, failed, completed."""

    cause: str
    message: str


class Queue:
    """The user's jobs that SLURM has or will run again. Asked at most every `every_s` seconds, and
    less often when SLURM is slow.
    """

    def __init__(self, every_s: float = 5.0) -> None:
        self._every_s, self._next, self._jobs = every_s, 0.0, None  # type: tuple[float, float, dict[str, QueuedJob] | None]
        self.calls = 0

    def jobs(self) -> dict[str, QueuedJob] | None:
        """By job id (`12`, or `12_3` for an element of an array); None if SLURM does not answer."""
        if time.monotonic() >= self._next:
            began = time.monotonic()
            self._jobs = self._ask()
            took = time.monotonic() - began
            # a twentieth of the time at most, so that a thousand users like us do not weigh on the
            # scheduler
            self._next = time.monotonic() + max(self._every_s, min(60.0, 20 * took))
        return self._jobs

    def forget(self) -> None:
        """Ask anew at the next call (after a submission or a cancellation)."""
        self._next = 0.0

    def has(self, job_id: str) -> bool:
        """Whether the job is there. If SLURM does not answer, it is taken to be."""
        jobs = self.jobs()
        return jobs is None or job_id in jobs

    def _ask(self) -> dict[str, QueuedJob] | None:
        self.calls += 1
        output = _ask(["squeue", "--noheader", "--me", "--array", "--format", "%i|%T|%N|%r|%M|%j"])
        if output is None:
            return None
        found = {}
        for line in output.splitlines():
            job_id, state, node, reason, elapsed, name = line.split("|", 5)
            found[job_id] = QueuedJob(state, node, reason, name, elapsed)
        return found


def causes(job_ids: Iterable[str]) -> dict[str, Cause]:
    """Why jobs ended, as far as SLURM knows: from the accounting, else from the controller's memory
    (some minutes long). Jobs that are unknown, or not over by what SLURM says, are left out."""
    wanted = list(job_ids)
    found: dict[str, Cause] = {}
    for start in range(0, len(wanted), IDS_PER_CALL):
        some = wanted[start : start + IDS_PER_CALL]
        output = _ask(
            [
                "sacct",
                "--noheader",
                "--parsable2",
                "--format",
                "JobID,State,ExitCode,NodeList",
                "--jobs",
                ",".join(some),
            ]
        )
        found |= _from_accounting((output or "").splitlines())
    for job_id in [job_id for job_id in wanted if job_id not in found][:100]:
        output = _ask(["scontrol", "show", "job", "--oneliner", job_id])
        cause = _from_controller(output or "")
        if cause is not None:
            found[job_id] = cause
    return {job_id: cause for job_id, cause in found.items() if job_id in set(wanted)}


def cancel(job_ids: Sequence[str]) -> str:
    """Cancel jobs, a thousand a call; "" or what SLURM said against it (jobs that are over already
    are no error).
    """
    said = []
    for start in range(0, len(job_ids), 1000):
        done = subprocess.run(
            ["scancel", *job_ids[start : start + 1000]], capture_output=True, text=True, check=False
        )
        said += [
            line
            for line in done.stderr.splitlines()
            if line and "Invalid job id" not in line and "already completing" not in line
        ]
    return "; ".join(said)


def available() -> bool:
    """Whether this machine can ask SLURM."""
    return shutil.which("squeue") is not None


_QUEUE = (
    Queue()
)  # shared by all who ask "does it live?", so that a sweep of a thousand points asks once


def shared_queue() -> Queue:
    """The queue that `alive` looks into."""
    return _QUEUE


def alive(
    record: Mapping[str, Any], status: Mapping[str, Any] | None = None, run_dir: Path | None = None
) -> bool:
    """Whether a recorded job lives, whichever executor started it."""
    if record.get("executor") == "slurm" and available():
        return _QUEUE.has(str(record["job_id"]))
    return job_alive(record, status or {}, run_dir)


def state_of(run_dir: Path) -> PointState:
    """What is known about a run: from its directory, and for a job of SLURM from the queue. Whoever
    else holds the directory (an experiment started by hand) makes it a running one too."""
    state = read_state(run_dir)
    if state.state in (FINISHED, PRUNED) or state.job.get("executor") != "slurm" or not available():
        return state
    return read_state(
        run_dir,
        alive=alive(state.job, state.status, run_dir) or _held_by_another(run_dir, state.job),
    )


def _held_by_another(run_dir: Path, job: Mapping[str, Any]) -> bool:
    """Whether a living process that is not of this job owns the directory."""
    holder = owner(run_dir)
    if holder is None or _is_of(holder, str(job.get("job_id"))):
        return False
    here = is_alive_here(holder)
    return time.time() - holder.last_beat < SILENT_AFTER_S if here is None else here


def release_lost(run_dir: Path, job: Mapping[str, Any]) -> None:
    """End the lease of a job that SLURM has let go, so that the next one need not wait until it has
    been silent for long enough. Should its process live on somewhere, it finds the lease gone and
    stops itself."""
    holder = owner(run_dir)
    if (
        holder is not None
        and job.get("executor") == "slurm"
        and _is_of(holder, str(job.get("job_id")))
    ):
        release_dead(run_dir)


def _is_of(attempt: Attempt, job_id: str) -> bool:
    slurm = attempt.slurm
    return job_id in (
        attempt.job,
        f"{slurm.get('SLURM_ARRAY_JOB_ID')}_{slurm.get('SLURM_ARRAY_TASK_ID')}",
    )


def _ask(command: list[str]) -> str | None:
    """What the command printed; None if SLURM did not answer."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=ANSWER_S
        )
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


_ENDED = {
    "OUT_OF_MEMORY": (
        "out_of_memory",
        "out of memory: SLURM killed it. Give it more with --mem, or lower batch_size or runtime.micro_batch",
    ),
    "NODE_FAIL": ("node_fail", "its node failed"),
    "BOOT_FAIL": ("node_fail", "its node failed to boot"),
    "PREEMPTED": ("preempted", "it was preempted and not put back into the queue"),
    "TIMEOUT": ("timeout", "its time limit ended it before it had saved"),
    "DEADLINE": ("timeout", "its deadline ended it"),
    "COMPLETED": ("completed", "SLURM says that it completed"),
}


def _cause(states: Sequence[str], exit_code: str, node: str) -> Cause | None:
    """From the states of a job and its steps (the job's first), and the job's exit code
    `status:signal`.
    """
    words = [state.split()[0].rstrip("+") for state in states if state.strip()]
    where = f" (on {node})" if node and node != "None assigned" else ""
    if not words or words[0] in (
        "RUNNING",
        "PENDING",
        "COMPLETING",
        "SUSPENDED",
        "REQUEUED",
        "RESIZING",
        "CONFIGURING",
    ):
        return None
    if words[0].startswith("CANCEL"):
        by = re.search(r"CANCELLED by (\d+)", states[0])
        return Cause(
            "cancelled", "cancelled" + (f" by user {_user(int(by[1]))}" if by else "") + where
        )
    if "OUT_OF_MEMORY" in words:  # the job itself is often called FAILED then
        return Cause(*_ENDED["OUT_OF_MEMORY"])
    if words[0] in _ENDED:
        cause, message = _ENDED[words[0]]
        return Cause(cause, message + where)
    status, _, number = exit_code.partition(":")
    if number not in ("", "0") or status in ("137", "143"):  # a signal, also as the shell's status
        return Cause(
            "killed",
            f"its process was killed by signal {number if number not in ('', '0') else int(status) - 128}{where}",
        )
    return Cause("failed", f"its process ended with status {status or '?'}{where}")


def _from_accounting(lines: Sequence[str]) -> dict[str, Cause]:
    rows: dict[str, list[list[str]]] = {}
    for line in lines:
        fields = line.split("|")
        if len(fields) >= 4:
            rows.setdefault(fields[0].partition(".")[0], []).append(fields)
    found = {}
    for job_id, jobs in rows.items():
        jobs.sort(key=lambda fields: "." in fields[0])
        cause = _cause([fields[1] for fields in jobs], jobs[0][2], jobs[0][3])
        if cause is not None:
            found[job_id] = cause
    return found


def _from_controller(text: str) -> Cause | None:
    fields = dict(word.split("=", 1) for word in text.split() if "=" in word)
    return _cause(
        [fields.get("JobState", "")],
        fields.get("ExitCode", ""),
        fields.get("NodeList", "").replace("(null)", ""),
    )


def _user(uid: int) -> str:
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
