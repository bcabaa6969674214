"""State of one call of the engine, shared by its parts."""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

from ablations.design import Point
from simvtp.runs.run_records import RunState
from simvtp.runs.scores import read_curve
from sweeps.engine.budget import Budget
from sweeps.engine.retry_policy import EndedJob
from sweeps.engine.sweep_outcome import PointOutcome, objective_values, outcome_of
from sweeps.monitor.point_state import DONE, GIVEN_UP, PointState
from sweeps.runner import Executor, Job
from sweeps.runner.liveness import job_alive, state_of
from sweeps.runner.slurm_queue import SlurmQueue
from sweeps.study import Study, SweepComparison


@dataclass
class SweepState:
    """The points of one call: their states, their jobs, and the study that records them.

    Attributes:
        comparison: the grid or search.
        executor: starts and watches jobs.
        study: the Optuna study.
        queue: SLURM's queue.
        budget: GPU-hours.
        selected: fingerprints that this call runs; None = all.
        retry: run failed and cancelled points again.
        points: those of this call, by fingerprint.
        states: their states.
        jobs: the running ones.
        ended: jobs that left the queue, while the cause is looked up.
        began: time of the call.
    """

    comparison: SweepComparison
    executor: Executor
    study: Study
    queue: SlurmQueue
    budget: Budget
    selected: Collection[str] | None = None
    retry: bool = False
    points: dict[str, Point] = field(default_factory=dict)
    states: dict[str, PointState] = field(default_factory=dict)
    jobs: dict[str, Job] = field(default_factory=dict)
    ended: dict[str, EndedJob] = field(default_factory=dict)
    began: float = field(default_factory=time.time)

    @property
    def folder(self) -> Path:
        """Folder of the sweep."""
        return self.study.path.parent

    def refresh(self, point: Point) -> PointState:
        """Reads the state of a point again."""
        state = self.states[point.fingerprint] = state_of(point.run_dir, self.queue)
        return state

    def job_alive(self, point: Point, state: PointState) -> bool:
        """Returns whether the recorded job of a point is alive."""
        return job_alive(state.job, self.queue, state.status, point.run_dir)

    def done(self, state: PointState) -> bool:
        """Returns whether this call has nothing to do for a point in that state."""
        return state.state in DONE or (state.state in GIVEN_UP and not self.retry)

    def outcome(self, point: Point) -> PointOutcome:
        """Returns the outcome of a point, as far as it is known."""
        return outcome_of(point, self.states[point.fingerprint], self.comparison)

    def close_trial(self, point: Point) -> None:
        """Tells the study how a point ended."""
        fingerprint, state = point.fingerprint, self.states[point.fingerprint].state
        outcome = self.outcome(point)
        values = objective_values(point, self.comparison) if state == RunState.FINISHED else None
        if self.comparison.prunes and fingerprint in self.study.running():
            # a study that was lost has no curve otherwise
            self.study.report_curve(fingerprint, read_curve(point.run_dir, self.comparison.metric))
        self.study.tell(fingerprint, values, outcome.reason, pruned=state == RunState.PRUNED)
