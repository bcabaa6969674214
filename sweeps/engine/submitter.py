"""Submits waiting points, and tries again later what SLURM does not accept now."""

from __future__ import annotations

import json
import time

from ablations.design import Point
from simvtp.runs import provenance
from simvtp.runs.atomic_files import write_atomically
from simvtp.runs.run_records import RunState
from sweeps.engine.reconciler import Reconciler
from sweeps.engine.sweep_state import SweepState
from sweeps.engine.sweep_view import SweepProgress
from sweeps.monitor.point_state import read_state
from sweeps.runner import Job, SubmissionDeferred
from sweeps.runner.liveness import release_lost
from sweeps.study.comparison import PLAN

BACKOFF_S = (5.0, 60.0)  # wait after a submission that SLURM did not accept: at first, at most


class Submitter:
    """Starts points while there are free slots and budget.

    Attributes:
        deferred: points that SLURM has not accepted yet.
    """

    def __init__(
        self,
        state: SweepState,
        progress: SweepProgress,
        reconciler: Reconciler,
        slots: int,
        parent_run_id: str,
    ) -> None:
        self._state, self._progress, self._reconciler = state, progress, reconciler
        self._slots, self._parent_run_id = slots, parent_run_id
        self._source = provenance.capture()  # once: all jobs of this call run the code as it is now
        self.deferred: list[Point] = []
        self._next_try = 0.0
        self._backoff_s = BACKOFF_S[0]

    def submit_waiting(self) -> None:
        """Submits waiting points, or those that were deferred once their wait is over."""
        if self.deferred:
            self._try_again()
            return
        batch = self._next_batch()
        for note in self._state.study.notes:
            self._progress.note_once(note)
        if batch:
            self._prepare(batch)
            self._submit(batch)

    def _try_again(self) -> None:
        if time.monotonic() < self._next_try:
            return
        self._next_try = time.monotonic() + self._backoff_s
        if self._reconciler.recover():
            jobs = self._state.jobs
            self._submit([point for point in self.deferred if point.fingerprint not in jobs])

    def _next_batch(self) -> list[Point]:
        """Returns the points to start now."""
        call, batch = self._state, list[Point]()
        while len(call.jobs) + len(call.ended) + len(batch) < self._slots:
            if not call.budget.allows(len(call.jobs) + len(batch)):
                self._progress.note_once(
                    f"the budget of {call.budget.limit:g} GPU-hours does not allow another point "
                    f"({call.budget.spent:.2f} spent): no more are started"
                )
                break
            point = call.study.ask()
            if point is None:
                break
            if self._to_submit(point):
                batch.append(point)
        return batch

    def _to_submit(self, point: Point) -> bool:
        """Returns whether a point that the study gave is to be run; else closes its trial."""
        call, fingerprint = self._state, point.fingerprint
        if fingerprint not in call.states:
            if not call.comparison.proposes:  # left waiting by an earlier call, not selected now
                call.study.tell(fingerprint, None, "not selected in this call")
                return False
            call.points[fingerprint] = point  # just proposed
            write_plan(call)
        if fingerprint in call.jobs:
            return False
        known = call.states.get(fingerprint)
        state = call.refresh(point)  # cancelled or started by somebody else in the meantime?
        if state.alive:
            self._reconciler.adopt(point, state)
            return False
        cancelled = state.state == RunState.CANCELLED
        just_cancelled = cancelled and known is not None and state.ended != known.ended
        if call.done(state) or just_cancelled:
            call.close_trial(point)
            self._progress.update(point)
            return False
        return True

    def _prepare(self, batch: list[Point]) -> None:
        """Writes where the points come from, for the jobs and the reports."""
        comparison = self._state.comparison
        for point in batch:
            origin = {
                "sweep_id": comparison.sweep_id,
                "ablation": comparison.name,
                "parent_run_id": self._parent_run_id,
                "cell": dict(point.cell),
            }
            write_atomically(point.run_dir / "sweep.json", json.dumps(origin, indent=1))
            provenance.write(point.run_dir, self._source)
            release_lost(point.run_dir, self._state.states[point.fingerprint].job)

    def _submit(self, batch: list[Point]) -> None:
        """Submits the points; those that SLURM does not accept now are deferred."""
        self.deferred = []
        while batch:
            try:
                started = self._state.executor.submit(batch)
            except SubmissionDeferred as error:
                self._defer(batch, error)
                return
            self._backoff_s = BACKOFF_S[0]
            for job in started:
                self._on_start(job)
            batch = batch[len(started) :]

    def _defer(self, batch: list[Point], error: SubmissionDeferred) -> None:
        self.deferred, self._next_try = batch, time.monotonic() + self._backoff_s
        self._progress.note(
            f"{len(batch)} point(s) could not be submitted now: {error}. "
            f"Trying again in {self._backoff_s:.0f} s"
        )
        self._backoff_s = min(BACKOFF_S[1], 2 * self._backoff_s)
        for point in batch:
            self._progress.update_waiting(point)

    def _on_start(self, job: Job) -> None:
        job.write()
        call, fingerprint = self._state, job.point.fingerprint
        call.jobs[fingerprint] = job
        call.states[fingerprint] = read_state(job.point.run_dir, alive=True)
        call.budget.open(job.point.run_dir)
        if fingerprint in call.study.running():
            record = job.record
            call.study.note(fingerprint, job_id=job.id, executor=record.executor, log=record.stdout)
        self._progress.update(job.point)


def write_plan(state: SweepState) -> None:
    """Writes plan.json, for the reports and for rebuilding. That of a search grows."""
    plan = state.comparison.plan(state.study.points())
    write_atomically(state.folder / PLAN, json.dumps(plan, indent=1))
