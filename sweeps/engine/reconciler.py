"""Brings the state of a call in line with what exists: run directories, jobs and the study."""

from __future__ import annotations

import time
from typing import Any

from ablations.design import Point
from simvtp.runs.run_records import RunState
from sweeps.engine.retry_policy import find_causes, needs_cause
from sweeps.engine.sweep_outcome import describe_failure
from sweeps.engine.sweep_state import SweepState
from sweeps.engine.sweep_view import SweepProgress
from sweeps.monitor.point_state import GIVEN_UP, PointState, read_state, writer_job
from sweeps.runner import SubmissionDeferred

RECOVER_EVERY_S = 5.0  # while SLURM does not answer


class Reconciler:
    """Reads what exists and adopts running jobs."""

    def __init__(self, state: SweepState, progress: SweepProgress) -> None:
        self._state, self._progress = state, progress

    def reconcile(self) -> None:
        """Reads all run directories, updates the study from them, and adopts running jobs."""
        call = self._state
        for repair in call.study.repairs:
            self._progress.note(f"repaired: {repair}")
        call.points = {
            point.fingerprint: point
            for point in call.study.points()
            if call.selected is None or point.fingerprint in call.selected
        }
        while not self.recover():
            time.sleep(RECOVER_EVERY_S)
        for fingerprint, point in call.points.items():
            if fingerprint not in call.jobs:
                call.refresh(point)
        self._find_causes()
        for fingerprint, point in call.points.items():
            if fingerprint not in call.jobs:
                self._take_over(point, call.states[fingerprint])
        self._plan_trials()
        self._show_all()

    def recover(self) -> bool:
        """Adopts jobs that were submitted but not written to job.json.

        Their controller was killed right then, or SLURM's answer was lost. Returns False if SLURM
        does not answer now: then nothing may be submitted either.
        """
        call = self._state
        try:
            found = call.executor.recover(list(call.points.values()))
        except SubmissionDeferred as error:
            self._progress.note_once(str(error))
            return False
        for job in found:
            job.write()
            self._progress.note(
                f"{job.point.name} was submitted as job {job.id}, and that was not recorded: "
                "watching it"
            )
            call.jobs[job.point.fingerprint] = job
            call.states[job.point.fingerprint] = read_state(job.point.run_dir, alive=True)
        return True

    def adopt(self, point: Point, state: PointState) -> None:
        """Watches a point that runs already."""
        call = self._state
        # an experiment that somebody runs by hand has no living job: the process that writes its
        # status is watched
        recorded = state.job if call.job_alive(point, state) else None
        record = recorded or writer_job(state.status)
        call.jobs[point.fingerprint] = call.executor.adopt(point, record)
        call.budget.open(point.run_dir)
        self._progress.note(f"{point.name} is running already (job {record.job_id}): watching it")

    def _take_over(self, point: Point, state: PointState) -> None:
        """Adopts the job of a point, or closes its hours and its trial."""
        if state.alive:
            self.adopt(point, state)
            return
        self._state.budget.close(point.run_dir, state)
        if self._state.done(state):
            self._state.close_trial(point)

    def _find_causes(self) -> None:
        """Finds out how jobs ended while no controller was running."""
        call = self._state
        without = [
            (call.points[fingerprint].run_dir, state)
            for fingerprint, state in call.states.items()
            if not state.alive and needs_cause(state)
        ]
        answered = set(find_causes(without))
        for point in call.points.values():
            if point.run_dir in answered:
                call.refresh(point)

    def _plan_trials(self) -> None:
        """Enqueues the points whose trial does not fit their state."""
        fitting = {key: self._trial_state(point) for key, point in self._state.points.items()}

        def wanted(point: Point, last: Any) -> bool:
            if point.fingerprint not in fitting:
                return False
            return last is None or last.name != fitting[point.fingerprint]

        self._state.study.plan(wanted)

    def _trial_state(self, point: Point) -> str:
        """Returns the state of a trial that fits the point; "" if the point is to be run."""
        state = self._state.states[point.fingerprint]
        if state.alive:
            return "RUNNING"
        if not self._state.done(state):
            return ""
        if state.state == RunState.PRUNED:
            return "PRUNED"
        return "FAIL" if self._state.outcome(point).value is None else "COMPLETE"

    def _show_all(self) -> None:
        call = self._state
        for fingerprint, point in call.points.items():
            if call.done(call.states[fingerprint]) or fingerprint in call.jobs:
                self._progress.update(point)
            else:
                self._progress.update_waiting(point)
        for fingerprint, point in call.points.items():
            if call.states[fingerprint].state in GIVEN_UP and not call.retry:
                self._progress.note(f"earlier: {describe_failure(call.outcome(point))}")
        counts = self._progress.counts()
        head = f"{call.comparison.sweep_id}: {len(call.points)} points"
        self._progress.note(f"{head}, {counts}" if counts else head)
