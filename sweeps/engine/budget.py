"""A budget of GPU-hours for a sweep: points are started only while it lasts, and stopped (with a
checkpoint) when it is used up.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from sweeps.monitor.run_state import FINISHED, PointState, gpu_hours

EVERY_S = 10.0


@dataclass
class Budget:
    """`limit`: GPU-hours for all points of the sweep together, over all calls; None = no limit."""

    limit: float | None
    _closed: dict[Path, float] = field(default_factory=dict)  # directories without a job
    _finished: list[float] = field(default_factory=list)
    _running: float = 0.0
    _looked: float = 0.0

    def close(self, run_dir: Path, state: PointState) -> None:
        """A point has no job (any more): its hours are final until it is started again."""
        hours = gpu_hours(run_dir, state.status)
        if state.state == FINISHED and run_dir not in self._closed:
            self._finished.append(hours)
        self._closed[run_dir] = hours

    def open(self, run_dir: Path) -> None:
        """A point has been started: its hours grow."""
        self._closed.pop(run_dir, None)

    def look(self, running: Iterable[Path]) -> None:
        """Bring the hours of the running points up to date, now and then."""
        if self.limit is not None and time.monotonic() - self._looked > EVERY_S:
            self._running = sum(gpu_hours(run_dir) for run_dir in running)
            self._looked = time.monotonic()

    @property
    def spent(self) -> float:
        return sum(self._closed.values()) + self._running

    @property
    def each(self) -> float | None:
        """GPU-hours of a finished point, on average; None before the first."""
        return sum(self._finished) / len(self._finished) if self._finished else None

    @property
    def used_up(self) -> bool:
        return self.limit is not None and self.spent >= self.limit

    def allows(self, running: int) -> bool:
        """Whether one more point can be expected to finish within the budget, beside `running`
        others.

        Before the first point has finished nothing can be expected: points are started as long as
        something is left."""
        if self.limit is None:
            return True
        if self.each is None:
            return self.spent < self.limit
        return self.spent - self._running + (running + 1) * self.each <= self.limit
