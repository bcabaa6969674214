"""Decides which points are restarted without being asked: those that an outside cause has ended."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from ablations.design import Point
from simvtp.errors import StopReason, silent_rank
from simvtp.runs.run_records import JobEnd, RunState
from sweeps.monitor.point_state import (
    PointState,
    failure_log,
    rank_failure,
    record_end,
    setup_failure,
)
from sweeps.runner.job_end import find_ends

ANSWER_S = 12.0  # the accounting is up to five seconds late
# causes after which a killed job is restarted
OUTSIDE_CAUSES = ("node_fail", "preempted", "timeout", "killed", "failed", "unknown", "completed")
# causes after which a stopped job is restarted, whatever it was asked
SLURM_STOPPED = ("node_fail", "preempted", "timeout")
# causes by which SLURM may mean the kernel's out-of-memory kill
VAGUE_CAUSES = ("killed", "failed", "unknown", "completed")
OUT_OF_MEMORY = re.compile(r"oom[-_ ]?kill|out of memory|OutOfMemory", re.IGNORECASE)
MEMORY_ADVICE = (
    "out of memory: its process was killed. Request more with --mem, or lower batch_size or "
    "runtime.micro_batch"
)


@dataclass
class RetryPolicy:
    """Counts how often a point was restarted without having made progress.

    Attributes:
        limit: maximum of that count; 0 = never restart.
    """

    limit: int
    _reached: dict[str, frozenset[str]] = field(default_factory=dict)
    _tries: dict[str, int] = field(default_factory=dict)

    def wanted(self, point: Point, state: PointState) -> bool:
        """Returns whether to restart the point, and counts this as a restart."""
        if not self.limit or not lost(state):
            return False
        if rank_failure(point.run_dir, state.job) or setup_failure(state, point.run_dir):
            return False  # it would end the same way
        reached = saved_files(point.run_dir)
        if reached != self._reached.get(point.fingerprint):
            self._reached[point.fingerprint], self._tries[point.fingerprint] = reached, 0
        self._tries[point.fingerprint] += 1
        return self._tries[point.fingerprint] <= self.limit


def lost(state: PointState) -> bool:
    """Returns whether an outside cause has ended the job, and nobody meant it to end."""
    cause = state.ended.cause if state.ended else "unknown"
    if state.state == RunState.KILLED:
        return cause in OUTSIDE_CAUSES
    if state.state == RunState.STOPPED:
        requeue = state.status is not None and state.status.reason == StopReason.REQUEUE
        return cause in SLURM_STOPPED or (requeue and cause != RunState.STOPPED)
    return False


def saved_files(run_dir: Path) -> frozenset[str]:
    """Returns the names of all files that a run has saved: more of them is progress."""
    folders = (run_dir / "checkpoints", run_dir / "stages")
    paths = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    return frozenset(str(path.relative_to(run_dir)) for path in paths)


def needs_cause(state: PointState) -> bool:
    """Returns whether to ask SLURM how the job ended, as the run directory does not say."""
    return (
        state.executor == "slurm"
        and not state.ended
        and state.state not in (RunState.FINISHED, RunState.FAILED)
    )


def find_causes(states: Iterable[tuple[Path, PointState]]) -> list[Path]:
    """Asks SLURM, in one call, how jobs ended, and writes the answers into their job.json.

    Returns the directories of those that SLURM knew.
    """
    wanted = {state.job_id: (run_dir, state) for run_dir, state in states}
    if not wanted:
        return []
    found = find_ends(wanted)
    for job_id, end in found.items():
        run_dir, state = wanted[job_id]
        write_cause(run_dir, state, end)
    return [wanted[job_id][0] for job_id in found]


def write_cause(run_dir: Path, state: PointState, end: JobEnd | None) -> None:
    """Writes how a job ended into its job.json; None: SLURM does not know (any more)."""
    if end is None:
        end = JobEnd("unknown")
    if end.cause in VAGUE_CAUSES and state.state == RunState.KILLED:
        _, lines = failure_log(state, run_dir, count=30)
        if any(OUT_OF_MEMORY.search(line) for line in lines):
            end = JobEnd("out_of_memory", MEMORY_ADVICE)
        elif said := next(filter(None, map(silent_rank, lines)), ""):
            end = JobEnd(end.cause, said)
    record_end(run_dir, end.cause, end.message, "controller", state.job)


@dataclass
class EndedJob:
    """A job that is no longer in the queue, while the cause is looked up."""

    point: Point
    state: PointState
    since: float = field(default_factory=time.monotonic)

    @property
    def overdue(self) -> bool:
        """True once SLURM has had enough time to answer."""
        return time.monotonic() - self.since > ANSWER_S
