"""Outcomes of points at the end of a call, and their text."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ablations.design import Point
from simvtp.runs.run_records import RunState
from simvtp.runs.scores import read_metric
from sweeps.monitor.overview import reason_of
from sweeps.monitor.point_state import DONE, PointState, failure_log, read_value
from sweeps.study import SweepComparison


@dataclass(frozen=True)
class PointOutcome:
    """Outcome of a point at the end of a call.

    Attributes:
        point: the point.
        state: its state.
        value: the comparison's metric; None if it was not measured.
        chance: chance level of that metric.
        reason: why it did not finish.
        log: the log that says most about a failure.
        lines: the last lines of that log.
    """

    point: Point
    state: PointState
    value: float | None = None
    chance: float | None = None
    reason: str = ""
    log: Path | None = None
    lines: tuple[str, ...] = ()


@dataclass(frozen=True)
class SweepSummary:
    """Outcomes of all selected points at the end of a call.

    Attributes:
        outcomes: one per point.
        interrupted: the user stopped the call.
        sweep_dir: folder of the sweep.
        detached: the jobs run on without a controller.
    """

    outcomes: tuple[PointOutcome, ...]
    interrupted: bool
    sweep_dir: Path
    detached: bool = False

    @property
    def unfinished(self) -> tuple[PointOutcome, ...]:
        """Points that should have finished: a pruned one is done."""
        return tuple(outcome for outcome in self.outcomes if outcome.state.state not in DONE)


def outcome_of(point: Point, state: PointState, comparison: SweepComparison) -> PointOutcome:
    """Returns the outcome of a point, with reason and log if it did not finish."""
    if state.state == RunState.FINISHED:
        value, chance = read_value(point.run_dir, comparison.metric) or (None, None)
        reason = "" if value is not None else f"its results have no {comparison.metric}"
        return PointOutcome(point, state, value, chance, reason)
    log, lines = failure_log(state, point.run_dir)
    reason = reason_of(state, point.run_dir) or state.state
    return PointOutcome(point, state, reason=reason, log=log, lines=tuple(lines))


def objective_values(point: Point, comparison: SweepComparison) -> list[float] | None:
    """Returns the values that the study needs of a finished point; None if one is missing."""
    found = [read_metric(point.run_dir, metric) for metric in comparison.metrics]
    return [value for value, _ in filter(None, found)] if all(found) else None


def describe_failure(outcome: PointOutcome, short: bool = False) -> str:
    """Returns what went wrong with a point and the path of its log.

    The last lines of the log are included unless `short`.
    """
    head = f"{outcome.state.state} {outcome.point.name}: {outcome.reason}"
    if outcome.state.state in (RunState.STOPPED, RunState.CANCELLED, RunState.PRUNED):
        return head
    lines = [] if short else [line for line in outcome.lines if line != f"failed: {outcome.reason}"]
    return "\n".join([head, *(f"    | {line}" for line in lines), f"    log: {outcome.log}"])
