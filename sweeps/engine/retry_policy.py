"""Why jobs ended, and which points are started again without being asked: those that something
outside has ended.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from ablations.design import Point
from simvtp.errors import StopReason
from sweeps.monitor.run_state import (
    FAILED,
    FINISHED,
    KILLED,
    STOPPED,
    PointState,
    failed_rank,
    failure_log,
    note_end,
)
from sweeps.runner.slurm_queue import Cause, causes

ANSWER_S = 12.0  # the accounting is up to five seconds late
OURS_TO_CONTINUE = ("node_fail", "preempted", "timeout", "killed", "failed", "unknown")
OUT_OF_MEMORY = re.compile(r"oom[-_ ]?kill|out of memory|OutOfMemory", re.IGNORECASE)
MEMORY_ADVICE = "out of memory: its process was killed. Give it more with --mem, or lower batch_size or runtime.micro_batch"


@dataclass
class Continuations:
    """Counts how often a point was started again without having come further. `limit`: how often
    that may be.
    """

    limit: int
    _reached: dict[str, frozenset[str]] = field(default_factory=dict)
    _tries: dict[str, int] = field(default_factory=dict)

    def wanted(self, point: Point, state: PointState) -> bool:
        """Whether to start the point again; asks count."""
        if (
            not self.limit
            or not lost(state)
            or failed_rank(point.run_dir, float(state.job.get("submitted") or 0))
        ):
            return False
        reached = saved(point.run_dir)
        if reached != self._reached.get(point.fingerprint):
            self._reached[point.fingerprint], self._tries[point.fingerprint] = reached, 0
        self._tries[point.fingerprint] += 1
        return self._tries[point.fingerprint] <= self.limit


def lost(state: PointState) -> bool:
    """Whether something outside has ended the job, and nobody meant the experiment to end."""
    cause = str(state.ended.get("cause") or "unknown")
    if state.state == KILLED:
        return cause in OURS_TO_CONTINUE or cause == "completed"
    if state.state == STOPPED:
        asked_to_save = state.status.get("reason") == StopReason.REQUEUE
        return cause in ("node_fail", "preempted", "timeout") or (
            asked_to_save and cause != "stopped"
        )
    return False


def saved(run_dir: Path) -> frozenset[str]:
    """Names of all that a run has saved: more of it is progress."""
    folders = (run_dir / "checkpoints", run_dir / "stages")
    return frozenset(
        str(path.relative_to(run_dir))
        for folder in folders
        for path in folder.rglob("*")
        if path.is_file()
    )


def needs_cause(state: PointState) -> bool:
    """Whether SLURM should be asked how the job ended: the run directory alone does not tell."""
    return (
        state.job.get("executor") == "slurm"
        and not state.ended
        and state.state not in (FINISHED, FAILED)
    )


def find_causes(states: Iterable[tuple[Path, PointState]]) -> list[Path]:
    """Ask SLURM, in one go, how jobs have ended, and write the answers into their job.json; returns
    the directories that got one.
    """
    wanted = {str(state.job["job_id"]): (run_dir, state) for run_dir, state in states}
    if not wanted:
        return []
    for job_id, cause in (found := causes(wanted)).items():
        run_dir, state = wanted[job_id]
        write_cause(run_dir, state, cause)
    return [wanted[job_id][0] for job_id in found]


def write_cause(run_dir: Path, state: PointState, cause: Cause | None) -> None:
    """Write down how a job ended. None: SLURM does not know (any more)."""
    if cause is None:
        cause = Cause("unknown", "")
    if cause.cause in ("killed", "failed", "unknown", "completed") and state.state == KILLED:
        _, lines = failure_log(state, run_dir, count=30)
        if any(OUT_OF_MEMORY.search(line) for line in lines):
            cause = Cause("out_of_memory", MEMORY_ADVICE)
    note_end(run_dir, cause.cause, cause.message, "controller", dict(state.job))


@dataclass
class Ending:
    """A job that is no longer in the queue, while the reason is looked for."""

    point: Point
    state: PointState
    since: float = field(default_factory=time.monotonic)

    @property
    def overdue(self) -> bool:
        return time.monotonic() - self.since > ANSWER_S
