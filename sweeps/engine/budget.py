"""A budget of GPU-hours for a sweep.

Points are started only while it lasts, and stopped (with a checkpoint) when it is used up."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from simvtp.runs.run_records import RunState
from sweeps.monitor.point_state import PointState, gpu_hours

EVERY_S = 10.0  # between two sums over the running points


@dataclass
class Budget:
    """GPU-hours for all points of the sweep together, over all calls.

    Attributes:
        limit: None = no limit.
    """

    limit: float | None
    _closed: dict[Path, float] = field(default_factory=dict)  # directories without a job
    _finished: list[float] = field(default_factory=list)
    _running: float = 0.0
    _updated: float = 0.0

    def close(self, run_dir: Path, state: PointState) -> None:
        """Records that a point has no job: its hours are final until it is restarted."""
        hours = gpu_hours(run_dir, state.status)
        if state.state == RunState.FINISHED and run_dir not in self._closed:
            self._finished.append(hours)
        self._closed[run_dir] = hours

    def open(self, run_dir: Path) -> None:
        """Records that a point has been started: its hours grow."""
        self._closed.pop(run_dir, None)

    def update(self, running: Iterable[Path]) -> None:
        """Sums the hours of the running points, at most every `EVERY_S` seconds."""
        if self.limit is not None and time.monotonic() - self._updated > EVERY_S:
            self._running = sum(gpu_hours(run_dir) for run_dir in running)
            self._updated = time.monotonic()

    @property
    def spent(self) -> float:
        """GPU-hours used so far."""
        return sum(self._closed.values()) + self._running

    @property
    def per_point(self) -> float | None:
        """Mean GPU-hours of a finished point; None before the first."""
        return sum(self._finished) / len(self._finished) if self._finished else None

    @property
    def used_up(self) -> bool:
        """True once the limit is reached."""
        return self.limit is not None and self.spent >= self.limit

    def allows(self, running: int) -> bool:
        """Returns whether one more point can be expected to finish within the budget.

        `running` other points are expected to finish too. Before the first point has finished
        nothing can be expected: points are started as long as something is left.
        """
        if self.limit is None:
            return True
        if self.per_point is None:
            return self.spent < self.limit
        return self.spent - self._running + (running + 1) * self.per_point <= self.limit
