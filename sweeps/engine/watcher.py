"""Watches the running jobs of a sweep, and closes the points whose job has ended."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from ablations.design import Point
from simvtp.runs.run_records import RunState
from simvtp.runs.scores import read_curve
from sweeps.engine.reconciler import Reconciler
from sweeps.engine.retry_policy import EndedJob, RetryPolicy, find_causes, needs_cause, write_cause
from sweeps.engine.sweep_outcome import describe_failure
from sweeps.engine.sweep_state import SweepState
from sweeps.engine.sweep_view import SweepProgress
from sweeps.monitor.point_state import read_state, record_end
from sweeps.monitor.point_view import format_duration
from sweeps.runner import Job

# running points whose files are read in one round, so that thousands do not load the file system
POLLED_AT_ONCE = 40


class Watcher:
    """Polls the jobs of a sweep."""

    def __init__(
        self,
        state: SweepState,
        progress: SweepProgress,
        reconciler: Reconciler,
        retries: RetryPolicy,
        on_point: Callable[[], None],
    ) -> None:
        self._state, self._progress, self._reconciler = state, progress, reconciler
        self._retries, self._on_point = retries, on_point
        # not in the queue: number of the squeue call that showed it first
        self._absent: dict[str, int] = {}
        self._next: deque[str] = deque()  # fingerprints of the points to poll next

    def poll(self) -> None:
        """Checks all jobs once, and reads the files of some running points."""
        for fingerprint, job in list(self._state.jobs.items()):
            if self._state.executor.alive(job):
                self._absent.pop(fingerprint, None)
            elif self._surely_gone(fingerprint, job):
                self._on_job_exit(fingerprint)
        self._find_causes()
        self._poll_running()

    def _surely_gone(self, fingerprint: str, job: Job) -> bool:
        """Returns whether a job has ended: for SLURM, two answers in a row must not name it."""
        if job.executor != "slurm":
            return True
        calls = self._state.queue.calls
        return calls > self._absent.setdefault(fingerprint, calls)

    def _on_job_exit(self, fingerprint: str) -> None:
        job = self._state.jobs.pop(fingerprint)
        self._absent.pop(fingerprint, None)
        # Without its job, a point may still have a process: one started by hand, or one whose
        # parent was killed.
        state = self._state.refresh(job.point)
        self._progress.update(job.point)
        if state.alive:
            self._reconciler.adopt(job.point, state)
        elif needs_cause(state):
            self._state.ended[fingerprint] = EndedJob(job.point, state)
        else:
            self._on_point_end(job.point)

    def _find_causes(self) -> None:
        """Asks SLURM how jobs have ended; after a while continues without an answer."""
        ended = self._state.ended
        if not ended:
            return
        answered = set(find_causes((end.point.run_dir, end.state) for end in ended.values()))
        for fingerprint, end in list(ended.items()):
            if end.point.run_dir not in answered:
                if not end.overdue:
                    continue
                write_cause(end.point.run_dir, end.state, None)
            del ended[fingerprint]
            self._state.refresh(end.point)
            self._progress.update(end.point)
            self._on_point_end(end.point)

    def _poll_running(self) -> None:
        """Reads the files of some running points, each in turn."""
        if not self._next:
            self._next.extend(self._state.jobs)
        for _ in range(min(POLLED_AT_ONCE, len(self._next))):
            fingerprint = self._next.popleft()
            job = self._state.jobs.get(fingerprint)
            if job is None:
                continue
            state = read_state(job.point.run_dir, alive=True)
            self._state.states[fingerprint] = state
            self._progress.update(job.point)
            if state.state == RunState.FINISHED and job.executor == "slurm":
                self._on_job_exit(fingerprint)  # its results exist: no need to wait for SLURM
            else:
                self._prune(job)

    def _prune(self, job: Job) -> None:
        """Reports the curve of a running point to the pruner; stops the job if it says so."""
        call, fingerprint = self._state, job.point.fingerprint
        comparison = call.comparison
        if not comparison.prunes or fingerprint not in call.study.running():
            return
        if call.states[fingerprint].ended:
            return  # it is leaving already
        curve = read_curve(job.point.run_dir, comparison.metric)
        step = call.study.report_curve(fingerprint, curve)
        if step is not None:
            reason = f"pruned at step {step}: {comparison.metric_label} {dict(curve)[step]:.1f}"
            record_end(job.point.run_dir, RunState.PRUNED, reason, "controller", job.record)
            call.executor.stop(job)

    def _on_point_end(self, point: Point) -> None:
        """Closes a point whose job has ended, or enqueues it again."""
        call = self._state
        state = call.states[point.fingerprint]
        call.budget.close(point.run_dir, state)
        call.close_trial(point)
        outcome = call.outcome(point)
        seconds = self._progress.seconds_of(point, state)
        if state.state == RunState.FINISHED:
            took = "" if seconds is None else f" after {format_duration(seconds)}"
            value = "" if outcome.value is None else f": {call.comparison.metric_label} "
            value += (
                "" if outcome.value is None else f"{outcome.value:.1f}{_chance(outcome.chance)}"
            )
            self._progress.note(f"finished {point.name}{took}{value}")
        elif self._retries.wanted(point, state):
            self._progress.note(
                f"{describe_failure(outcome, short=True)}\n"
                "    it is restarted and continues from its last checkpoint"
            )
            call.study.plan(lambda other, last: other.fingerprint == point.fingerprint)
            self._progress.update_waiting(point)
        else:
            self._progress.note(describe_failure(outcome))
        self._on_point()


def _chance(chance: float | None) -> str:
    return f" (chance {chance:.2g})" if chance is not None and chance == chance else ""
