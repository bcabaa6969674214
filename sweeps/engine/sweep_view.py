"""Shows the state of a sweep while it runs."""

from __future__ import annotations

import time

from ablations.design import Point
from simvtp.runs.run_records import RunState
from sweeps.engine.sweep_state import SweepState
from sweeps.monitor.displays import Display
from sweeps.monitor.point_state import ALIVE, PointState
from sweeps.monitor.point_view import WAITING, PointView, SweepView, estimate, point_view


class SweepProgress:
    """Keeps one row per point, and hands rows and notes to a display."""

    def __init__(self, state: SweepState, display: Display, slots: int) -> None:
        self._state, self._display, self._slots = state, display, slots
        self._rows: dict[str, PointView] = {}
        # by point name: when first seen running, and the fraction of its work that was done then
        self._seen: dict[str, tuple[float, float]] = {}
        # from the first step on: preparing data says nothing about the speed
        self._moving: dict[str, tuple[float, float]] = {}
        self._durations: list[float] = []  # seconds of points that this call ran completely
        self._noted: set[str] = set()

    def note(self, text: str) -> None:
        """Prints a line."""
        self._display.note(text)

    def note_once(self, text: str) -> None:
        """Prints a line unless one with the same beginning (up to a parenthesis) was printed."""
        key = text.partition("(")[0]
        if key not in self._noted:
            self._noted.add(key)
            self.note(text)

    def update_waiting(self, point: Point) -> None:
        """Makes the row of a point say that it waits."""
        self._rows[point.fingerprint] = PointView(point.name, WAITING)

    def update(self, point: Point) -> None:
        """Makes the row of a point say its present state."""
        comparison, state = self._state.comparison, self._state.states[point.fingerprint]
        note, node = "", ""
        if state.state == RunState.FINISHED:
            value = self._state.outcome(point).value
            note = "" if value is None else f"{comparison.metric_label} {value:.1f}"
        if state.executor == "slurm":
            queued = self._state.queue.job(state.job_id)
            if queued is not None:
                node = queued.node
                if queued.waits and state.alive:
                    reason = "" if queued.reason in ("", "None") else f": {queued.reason}"
                    note = f"in SLURM's queue{reason}"
        view = point_view(
            point.name, point.experiment, point.run_dir, state, note, comparison.metric, node
        )
        self._rows[point.fingerprint] = view
        if state.alive:
            self._seen.setdefault(point.name, (time.time(), view.fraction))
            if view.fraction > 0:
                self._moving.setdefault(point.name, (time.time(), view.fraction))

    def seconds_of(self, point: Point, state: PointState) -> float | None:
        """Returns how long this call has watched a point that ended; None if it never did."""
        if point.name not in self._seen:
            return None
        since, fraction = self._seen[point.name]
        seconds = time.time() - since
        if state.state == RunState.FINISHED and fraction < 0.01:
            self._durations.append(seconds)
        return seconds

    def counts(self) -> str:
        """Returns `3 finished, 1 waiting`: the states of all rows."""
        order = (
            *(RunState.FINISHED, *ALIVE),
            *(RunState.FAILED, RunState.CANCELLED, RunState.PRUNED, WAITING),
        )
        numbers = [
            (sum(row.state == state for row in self._rows.values()), state) for state in order
        ]
        return ", ".join(f"{number} {state}" for number, state in numbers if number)

    def show(self, now: bool = False) -> None:
        """Hands all rows to the display; `now`: even if it has just drawn some."""
        rows = tuple(self._rows.values())
        slots = min(self._slots, max(1, len(rows)))
        left = estimate(rows, self._moving, self._durations, slots)
        elapsed = time.time() - self._state.began
        self._display.show(SweepView(self._state.comparison.title, rows, elapsed, left), now)
